//! The work of a person with kubectl, verb by verb, on a lab with all its parts.

use super::kit::{Lab, Need, can_run, eventually, text};

/// The cells of a table: columns are two blanks or more apart.
fn table(text: &str) -> Vec<Vec<String>> {
    let cells =
        |line: &str| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect();
    text.lines().map(cells).collect()
}

/// Holds the head of a table.
#[track_caller]
fn columns(lab: &Lab, command: &str, expected: &[&str]) {
    let shown = table(&lab.must(command));
    assert_eq!(
        shown.first().map(Vec::as_slice),
        Some(expected.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).as_deref(),
        "{command}"
    );
    assert!(shown.len() > 1, "{command} shows something");
}

fn lab(test: &str) -> Option<Lab> {
    can_run(&[Need::Root, Need::Kernel, Need::Kubectl]).then(|| Lab::up(test, &["--nodes", "2"]))
}

/// A namespace with a deployment of nginx and its Service.
fn shop(lab: &Lab) {
    assert_eq!(lab.must("create namespace shop"), "namespace/shop created\n");
    assert_eq!(
        lab.must("-n shop create deployment web --image=nginx --replicas=2 --port=80"),
        "deployment.apps/web created\n"
    );
    assert_eq!(lab.must("-n shop expose deployment web --port=8080 --target-port=80"), "service/web exposed\n");
    lab.must("-n shop rollout status deployment/web --timeout=60s");
    lab.must("-n shop wait --for=condition=Available deployment/web --timeout=60s");
    lab.must("-n shop wait --for=jsonpath={.status.readyReplicas}=2 deployment/web --timeout=60s");
}

#[test]
fn looking() {
    let Some(lab) = lab("looking") else { return };
    assert!(lab.must("version").contains("Server Version: v1."));
    let resources = lab.must("api-resources");
    for kind in [
        "configmaps",
        "endpointslices",
        "events",
        "leases",
        "namespaces",
        "networkpolicies",
        "nodes",
        "pods",
        "replicasets",
        "serviceaccounts",
        "services",
        "deployments",
    ] {
        assert!(resources.lines().any(|line| line.starts_with(kind)), "{kind}: {resources}");
    }
    assert!(lab.must("api-resources --namespaced=false -o name").contains("nodes\n"));
    assert!(lab.must("api-versions").contains("networking.k8s.io/v1\n"));
    assert!(lab.must("explain networkpolicy.spec.podSelector").contains("podSelector"));
    shop(&lab);
    lab.must_with(
        "apply -f -",
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny, \
        namespace: shop}, spec: {podSelector: {}}}",
    );
    lab.must("-n shop create configmap settings --from-literal=a=b");

    tables(&lab);
    outputs(&lab);
    descriptions(&lab);
    lab.down();
}

/// The usual columns of every kind.
fn tables(lab: &Lab) {
    let pod = ["NAME", "READY", "STATUS", "RESTARTS", "AGE"];
    columns(lab, "-n shop get pods", &pod);
    columns(lab, "get pods -A", &[&["NAMESPACE"], &pod[..]].concat());
    let wide = [&pod[..], &["IP", "NODE", "NOMINATED NODE", "READINESS GATES"]].concat();
    columns(lab, "-n shop get pods -o wide", &wide);
    columns(lab, "get pods -A -o wide", &[&["NAMESPACE"], &wide[..]].concat());
    columns(lab, "-n shop get pods --show-labels", &[&pod[..], &["LABELS"]].concat());
    columns(lab, "-n shop get pods -L app", &[&pod[..], &["APP"]].concat());
    columns(lab, "-n shop get deployments", &["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]);
    columns(
        lab,
        "-n shop get deployments -o wide",
        &["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"],
    );
    columns(lab, "-n shop get replicasets", &["NAME", "DESIRED", "CURRENT", "READY", "AGE"]);
    columns(lab, "-n shop get services", &["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]);
    columns(
        lab,
        "-n shop get services -o wide",
        &["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"],
    );
    columns(lab, "-n shop get endpointslices", &["NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"]);
    columns(lab, "get nodes", &["NAME", "STATUS", "ROLES", "AGE", "VERSION"]);
    columns(
        lab,
        "get nodes -o wide",
        &[
            "NAME",
            "STATUS",
            "ROLES",
            "AGE",
            "VERSION",
            "INTERNAL-IP",
            "EXTERNAL-IP",
            "OS-IMAGE",
            "KERNEL-VERSION",
            "CONTAINER-RUNTIME",
        ],
    );
    columns(lab, "get namespaces", &["NAME", "STATUS", "AGE"]);
    columns(lab, "-n shop get configmaps", &["NAME", "DATA", "AGE"]);
    columns(lab, "-n shop get serviceaccounts", &["NAME", "SECRETS", "AGE"]);
    columns(lab, "-n shop get events", &["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]);
    columns(lab, "-n kube-node-lease get leases", &["NAME", "HOLDER", "AGE"]);
    columns(lab, "-n shop get networkpolicies", &["NAME", "POD-SELECTOR", "AGE"]);
    let all = lab.must("-n shop get all");
    for name in ["pod/web-", "service/web", "deployment.apps/web", "replicaset.apps/web-"] {
        assert!(all.contains(name), "{all}");
    }
}

/// Every other form of output, of lists and of one object.
fn outputs(lab: &Lab) {
    assert_eq!(lab.must("-n shop get deployments -o name"), "deployment.apps/web\n");
    assert!(lab.must("-n shop get deployment web -o yaml").starts_with("apiVersion: apps/v1\nkind: Deployment\n"));
    let json: serde_json::Value = serde_json::from_str(&lab.must("-n shop get pods -o json")).unwrap();
    assert_eq!((json["kind"].as_str(), json["items"].as_array().map(Vec::len)), (Some("List"), Some(2)));
    let phases = lab.must("-n shop get pods -o jsonpath={.items[*].status.phase}");
    assert_eq!(phases, "Running Running");
    assert_eq!(lab.must("-n shop get pods -l app=web -o name").lines().count(), 2);
    assert_eq!(lab.must("-n shop get pods -l app!=web -o name"), "");
    assert_eq!(lab.must("-n shop get pods --field-selector=status.phase=Running -o name").lines().count(), 2);
    let sorted =
        table(&lab.must("get pods -A --sort-by=.metadata.name --no-headers -o custom-columns=N:.metadata.name"));
    assert!(sorted.is_sorted(), "{sorted:?}");
    let absent = lab.kubectl("-n shop get pod nobody");
    assert!(text(&absent).contains("Error from server (NotFound): pods \"nobody\" not found"), "{}", text(&absent));
}

/// `describe` of every kind there is, each with something only that kind has.
fn descriptions(lab: &Lab) {
    for (what, expected) in [
        ("node node-1", "PodCIDR:"),
        ("namespace shop", "Status:       Active"),
        ("-n shop pods", "Node-Selectors:"),
        ("-n shop deployment web", "NewReplicaSet:"),
        ("-n shop replicasets", "Controlled By:  Deployment/web"),
        ("-n shop service web", "Endpoints:"),
        ("-n shop endpointslices", "AddressType:"),
        ("-n shop networkpolicy deny", "Selected pods are isolated for ingress connectivity"),
        ("-n shop configmap settings", "Data\n===="),
        ("-n shop serviceaccount default", "Tokens:"),
        ("-n kube-node-lease lease node-1", "Holder Identity:"),
        ("-n shop events", "Involved Object:"),
    ] {
        let (flags, what) = what.split_once("-n ").map_or(("", what), |(_, rest)| ("-n ", rest));
        let described = lab.must(&format!("describe {flags}{what}"));
        assert!(described.contains(expected), "describe {what}: {described}");
    }
    let pod = lab.must("-n shop describe pods");
    assert!(pod.contains("Started container nginx") && pod.contains("Successfully assigned shop/web-"), "{pod}");
}

#[test]
fn changing() {
    let Some(lab) = lab("changing") else { return };
    shop(&lab);
    assert_eq!(lab.must("label namespace shop team=a"), "namespace/shop labeled\n");
    assert!(text(&lab.kubectl("label namespace shop team=b")).contains("'team' already has a value (a)"));
    assert_eq!(lab.must("label --overwrite namespace shop team=b"), "namespace/shop labeled\n");
    assert_eq!(lab.must("label namespace shop team-"), "namespace/shop unlabeled\n");
    assert_eq!(lab.must("-n shop annotate deployment web note=x"), "deployment.apps/web annotated\n");
    assert_eq!(lab.must("-n shop annotate deployment web note-"), "deployment.apps/web annotated\n");
    let pods = || lab.must("-n shop get pods -l app=web -o name");
    lab.must(&format!("-n shop label {} role=first", pods().lines().next().unwrap()));
    assert_eq!(lab.must("-n shop get pods -l role=first,app=web -o name").lines().count(), 1);

    // Every kind of patch.
    let images = || lab.field("deployment/web -n shop", ".spec.template.spec.containers[*].image");
    let patch = |kind: &str, patch: &str| {
        lab.kubectl_words(&["-n", "shop", "patch", "deployment", "web", "--type", kind, "-p", patch], "")
    };
    let patched = |kind: &str, json: &str| {
        let output = patch(kind, json);
        assert!(output.status.success(), "{kind} {json}: {}", text(&output));
    };
    patched(
        "strategic",
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"busybox","command":["sleep","1d"]}]}}}}"#,
    );
    assert_eq!(images(), "busybox nginx", "merged by name");
    patched(
        "json",
        r#"[{"op":"test","path":"/spec/template/spec/containers/0/name","value":"side"},
            {"op":"remove","path":"/spec/template/spec/containers/0"}]"#,
    );
    assert_eq!(images(), "nginx");
    patched("merge", r#"{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":1}}}}"#);
    assert!(
        text(&patch("json", r#"[{"op":"remove","path":"/spec/nothing"}]"#)).contains("the server rejected our request")
    );
    assert!(
        text(&patch("merge", r#"{"spec":{"selector":{"matchLabels":{"app":"x"}}}}"#)).contains("field is immutable")
    );
    lab.must("-n shop rollout status deployment/web --timeout=60s");
    assert_eq!(lab.must("-n shop set image deployment/web nginx=nginx:1.27"), "deployment.apps/web image updated\n");
    lab.must("-n shop rollout status deployment/web --timeout=60s");
    assert!(lab.must("-n shop rollout history deployment/web").contains("REVISION"));
    lab.must("-n shop rollout restart deployment/web");
    lab.must("-n shop rollout status deployment/web --timeout=60s");

    assert_eq!(lab.must("-n shop scale deployment web --replicas=3"), "deployment.apps/web scaled\n");
    lab.must("-n shop wait --for=jsonpath={.status.readyReplicas}=3 deployment/web --timeout=60s");
    assert_eq!(
        lab.must("-n shop scale deployment web --replicas=1 --current-replicas=3"),
        "deployment.apps/web scaled\n"
    );
    assert!(
        text(&lab.kubectl("-n shop scale deployment web --replicas=2 --current-replicas=7"))
            .contains("Expected replicas to be 7")
    );
    eventually("one is left", || pods().lines().count() == 1);

    // Apply, again, changed, of several objects, with a dry run, and what differs.
    let objects = |value: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: one}}\ndata: {{k: {value}}}\n---\napiVersion: \
             v1\nkind: ConfigMap\nmetadata: {{name: two}}\n"
        )
    };
    assert_eq!(
        lab.must_with("apply -f - --dry-run=server", &objects("v")),
        "configmap/one created (server dry run)\nconfigmap/two created (server dry run)\n"
    );
    assert_eq!(lab.must_with("apply -f -", &objects("v")), "configmap/one created\nconfigmap/two created\n");
    assert_eq!(lab.must_with("apply -f -", &objects("w")), "configmap/one configured\nconfigmap/two unchanged\n");
    let diff = lab.kubectl_with("diff -f -", &objects("x"));
    assert_eq!(diff.status.code(), Some(1), "{}", text(&diff));
    assert!(text(&diff).contains("+  k: x"), "{}", text(&diff));
    assert!(lab.must_with("replace -f -", &objects("z")).contains("configmap/one replaced"));
    assert_eq!(lab.must_with("delete -f -", &objects("z")), "configmap \"one\" deleted\nconfigmap \"two\" deleted\n");

    // Delete: by selector, all, nothing there, waiting or not.
    lab.must("run a --image=busybox --labels=kind=x -- sleep 1d");
    lab.must("run b --image=busybox --labels=kind=x -- sleep 1d");
    lab.must("run c --image=busybox -- sleep 1d");
    lab.ready(&["a", "b", "c"]);
    assert_eq!(lab.must("delete pods -l kind=x --now").lines().count(), 2);
    assert_eq!(lab.must("get pods -o name"), "pod/c\n", "deleting waits until they are gone");
    lab.must("delete pods --all --wait=false --grace-period=1");
    lab.must("wait --for=delete pod/c --timeout=60s");
    assert!(!lab.kubectl("delete pod c").status.success());
    assert_eq!(lab.must("delete pod c --ignore-not-found"), "");
    assert_eq!(lab.must("delete pods --all"), "No resources found\n");
    assert_eq!(lab.must("delete namespace shop"), "namespace \"shop\" deleted\n");
    assert!(text(&lab.kubectl("-n shop get deployment web")).contains("NotFound"));
    lab.down();
}

#[test]
fn watching_and_streaming() {
    let Some(lab) = lab("streaming") else { return };
    lab.must("run one --image=busybox -- sh -c true");
    let file = std::fs::File::create(lab.directory().join("watched")).unwrap();
    let watcher = lab.kubectl_streaming("get pods -w --output-watch-events", file);
    let watched = || std::fs::read_to_string(lab.directory().join("watched")).unwrap();
    eventually("the pod that is there is shown", || watched().contains("one "));
    lab.must("run two --image=nginx");
    lab.ready(&["two"]);
    lab.must("delete pod two --now");
    eventually("its life is shown", || {
        ["ADDED", "MODIFIED", "DELETED"]
            .iter()
            .all(|event| watched().lines().any(|line| line.starts_with(event) && line.contains("two ")))
    });
    drop(watcher);
    std::fs::remove_file(lab.directory().join("watched")).unwrap();

    lab.must("run web --image=nginx");
    lab.ready(&["web"]);
    assert_eq!(lab.must("exec web -- echo one two"), "one two\n");
    assert_eq!(lab.must_with("exec -i web -- cat", "through"), "through");
    let failed = lab.kubectl_words(&["exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7"], "");
    assert_eq!((failed.status.code(), &*failed.stdout), (Some(7), &b"out\n"[..]));
    assert!(String::from_utf8_lossy(&failed.stderr).starts_with("err\ncommand terminated with exit code 7"));
    assert_eq!(lab.kubectl("exec web -- no-such-program").status.code(), Some(127));
    assert!(text(&lab.kubectl("exec web -c other -- true")).contains("container other is not valid for pod web"));
    assert!(text(&lab.kubectl("exec nobody -- true")).contains("pods \"nobody\" not found"));
    lab.must("create deployment many --image=nginx");
    lab.must("wait --for=condition=Available deployment/many --timeout=60s");
    assert_eq!(lab.must("exec deploy/many -- echo here"), "here\n");
    assert!(lab.must("logs deploy/many").contains("start worker") || lab.must("logs deploy/many").is_empty());
    lab.down();
}
