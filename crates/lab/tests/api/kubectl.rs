//! The real kubectl over TLS.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use ringfence_lab::api::RunningServer;
use serde_json::Value;

use crate::{fake, limited};

/// The oldest minor version whose `exec` speaks WebSocket.
const OLDEST: u32 = 31;

fn program() -> String {
    std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into())
}

/// The reason why the installed kubectl cannot be used.
fn unusable() -> Option<String> {
    let output = Command::new(program()).args(["version", "--client", "-o", "json"]).output();
    let Ok(output) = output else { return Some("kubectl is not installed".into()) };
    let version: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default();
    let number = minor.trim_end_matches('+').parse().unwrap_or(0);
    (number < OLDEST).then(|| format!("kubectl is older than 1.{OLDEST} (its minor version is {minor:?})"))
}

/// Skips a test where no kubectl can be used, but not in continuous integration.
pub(crate) fn available() -> bool {
    let Some(reason) = unusable() else { return true };
    assert!(std::env::var_os("CI").is_none(), "{reason}");
    let mut stderr = std::io::stderr();
    let _ = writeln!(stderr, "skipped: {reason}");
    false
}

pub(crate) struct Kubectl {
    _server: RunningServer,
    dir: tempfile::TempDir,
}

impl Kubectl {
    pub(crate) async fn start() -> Self {
        let (server, url) = fake::start(None, true).await;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config"), server.kubeconfig(&url)).unwrap();
        Self { _server: server, dir }
    }

    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path: PathBuf = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    async fn output(&self, line: &str, input: &'static str) -> Output {
        let mut command = Command::new(program());
        command
            .args(line.split_whitespace())
            .env("KUBECONFIG", self.dir.path().join("config"))
            .env("HOME", self.dir.path());
        tokio::task::spawn_blocking(move || limited::run(&mut command, input)).await.unwrap()
    }

    /// Output of a command that must succeed.
    pub(crate) async fn run(&self, line: &str) -> String {
        let output = self.output(line, "").await;
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl {line}: {out}{error}");
        out.into_owned()
    }

    /// Output of a command that must fail.
    pub(crate) async fn fail(&self, line: &str) -> String {
        let output = self.output(line, "").await;
        assert!(!output.status.success(), "kubectl {line} should fail");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

/// The cells of the first lines of a table.
pub(crate) fn table(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_by_hand() {
    if !available() {
        return;
    }
    let kubectl = Kubectl::start().await;
    assert_eq!(kubectl.run("create namespace team").await, "namespace/team created\n");
    assert_eq!(kubectl.run("create deployment nginx --image=nginx -n team").await, "deployment.apps/nginx created\n");
    assert_eq!(kubectl.run("expose deployment nginx --port=80 -n team").await, "service/nginx exposed\n");
    kubectl.run("rollout status deployment/nginx -n team --timeout=30s").await;
    kubectl.run("wait --for=condition=Available deployment/nginx -n team --timeout=30s").await;
    let wide = kubectl.run("get pods -A -o wide").await;
    let rows = table(&wide);
    assert_eq!(
        rows[0],
        ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES"]
    );
    assert_eq!(&rows[1][2..5], ["1/1", "Running", "0"]);
    assert_eq!(&rows[1][6..], ["10.245.0.1", "node-1", "<none>", "<none>"]);
    let pod = kubectl.run("get pods -n team -o name").await.trim().to_owned();
    assert!(pod.starts_with("pod/nginx-"));
    assert_eq!(kubectl.run("label namespaces team ns=team").await, "namespace/team labeled\n");
    kubectl.run(&format!("label -n team {pod} environment=QA")).await;
    kubectl.run(&format!("annotate -n team {pod} note=x")).await;
    let labels = kubectl.run("get pods -n team --show-labels").await;
    assert!(labels.lines().next().unwrap().ends_with("LABELS") && labels.contains("environment=QA"));
    assert_eq!(
        kubectl.run("get pods -n team -l environment=QA -o jsonpath={.items[*].status.podIP}").await,
        "10.245.0.1"
    );
    kubectl.run("scale deployment nginx -n team --replicas=3").await;
    kubectl.run("rollout status deployment/nginx -n team --timeout=30s").await;
    assert_eq!(kubectl.run("get pods -n team -o name").await.lines().count(), 3);
    let deleted = kubectl.run("delete pods --all -n team").await;
    assert_eq!(deleted.lines().count(), 3);
    assert!(kubectl.run("delete namespace team").await.contains("namespace \"team\" deleted"));
    assert!(kubectl.fail("get namespace team").await.contains("NotFound"));
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_applied_changed_and_refused() {
    if !available() {
        return;
    }
    let kubectl = Kubectl::start().await;
    let policy = |spec: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: p\nspec:\n  podSelector: \
             {{matchLabels: {{app: web}}}}\n{spec}"
        )
    };
    let file = kubectl.file("p.yaml", &policy("  policyTypes: [Ingress, Egress]\n"));
    let apply = format!("apply -f {file}");
    assert_eq!(kubectl.run(&apply).await, "networkpolicy.networking.k8s.io/p created\n");
    assert_eq!(kubectl.run(&apply).await, "networkpolicy.networking.k8s.io/p unchanged\n");
    kubectl.file("p.yaml", &policy("  ingress: [{ports: [{port: 80}]}]\n"));
    assert_eq!(kubectl.run(&apply).await, "networkpolicy.networking.k8s.io/p configured\n");
    let rows = kubectl.run("get netpol").await;
    let rows = table(&rows);
    assert_eq!(rows[0], ["NAME", "POD-SELECTOR", "AGE"]);
    assert_eq!(&rows[1][..2], ["p", "app=web"]);
    assert!(kubectl.run("describe netpol p").await.contains("To Port: 80/TCP"));
    kubectl.file("p.yaml", &policy("  ingres: []\n"));
    assert!(kubectl.fail(&apply).await.contains("unknown field \"spec.ingres\""));
    kubectl.file("p.yaml", &policy("  ingress: [{ports: [{port: 70000}]}]\n"));
    assert!(kubectl.fail(&apply).await.contains("spec.ingress[0].ports[0].port: Invalid value: 70000"));
    kubectl.run(&format!("delete -f {file}")).await;
    kubectl.file("p.yaml", &policy("  ingress: []\n"));
    assert_eq!(
        kubectl.run(&format!("apply --server-side -f {file}")).await,
        "networkpolicy.networking.k8s.io/p serverside-applied\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_into_pods() {
    if !available() {
        return;
    }
    let kubectl = Kubectl::start().await;
    kubectl.run("run tool --image=busybox --restart=Never -- sleep 1d").await;
    kubectl.run("wait --for=condition=Ready pod/tool --timeout=30s").await;
    assert_eq!(kubectl.run("exec tool -- echo one").await, "one\n");
    let piped = kubectl.output("exec -i tool -- cat", "through").await;
    assert_eq!((String::from_utf8_lossy(&piped.stdout).as_ref(), piped.status.code()), ("through", Some(0)));
    let failed = kubectl.output("exec tool -- ls /nowhere", "").await;
    assert_eq!(failed.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("command terminated with exit code 2"));
    assert!(
        kubectl.fail("exec tool -c other -- true").await.contains("container not found")
            || !kubectl.fail("exec tool -c other -- true").await.is_empty()
    );
    assert!(kubectl.fail("exec absent -- true").await.contains("pods \"absent\" not found"));
    assert_eq!(kubectl.run("logs tool").await, "log of default/tool\nsecond line\n");
    assert_eq!(kubectl.run("logs -f tool --tail=1").await, "second line\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_about_the_cluster() {
    if !available() {
        return;
    }
    let kubectl = Kubectl::start().await;
    assert!(kubectl.run("version").await.contains("Server Version: v1."));
    let resources = kubectl.run("api-resources --no-headers").await;
    for kind in [
        "namespaces ns",
        "deployments deploy",
        "networkpolicies netpol",
        "endpointslices discovery.k8s.io/v1",
        "leases coordination.k8s.io/v1",
    ] {
        let (name, next) = kind.split_once(' ').unwrap();
        assert!(
            resources.lines().any(|line| line.split_whitespace().take(2).eq([name, next])),
            "{kind} in {resources}"
        );
    }
    for (command, header) in [
        (
            "get nodes -o wide",
            "NAME STATUS ROLES AGE VERSION INTERNAL-IP EXTERNAL-IP OS-IMAGE KERNEL-VERSION CONTAINER-RUNTIME",
        ),
        ("get services -o wide", "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR"),
        ("get endpointslices", "NAME ADDRESSTYPE PORTS ENDPOINTS AGE"),
        ("get configmaps", "NAME DATA AGE"),
        ("get serviceaccounts", "NAME SECRETS AGE"),
        ("get namespaces", "NAME STATUS AGE"),
    ] {
        let text = kubectl.run(command).await;
        assert_eq!(text.lines().next().unwrap().split_whitespace().collect::<Vec<_>>().join(" "), header);
    }
    assert_eq!(kubectl.run("auth can-i create pods").await, "yes\n");
    assert_eq!(kubectl.run("get --raw /readyz").await, "ok");
    let explained = kubectl.run("explain networkpolicy.spec.ingress.ports").await;
    assert!(explained.contains("endPort") && explained.contains("<integer>"), "{explained}");
    assert!(kubectl.run("describe service kubernetes").await.contains("10.89.0.1:6443"));
    kubectl.run("create deployment web --image=nginx --replicas=2").await;
    kubectl.run("rollout status deployment/web --timeout=30s").await;
    for patch in [
        r#"-p {"spec":{"replicas":1}}"#,
        r#"--type=merge -p {"spec":{"replicas":2}}"#,
        r#"--type=json -p [{"op":"replace","path":"/spec/replicas","value":3}]"#,
    ] {
        assert_eq!(kubectl.run(&format!("patch deployment web {patch}")).await, "deployment.apps/web patched\n");
    }
    let described = kubectl.run("describe deployment web").await;
    assert!(described.contains("ScalingReplicaSet") && described.contains("3 desired"), "{described}");
    assert_eq!(kubectl.run("get deployment web -o json").await.parse::<Value>().unwrap()["spec"]["replicas"], 3);
    let watched = kubectl.output("get pods -w --request-timeout=1s", "").await;
    assert!(String::from_utf8_lossy(&watched.stdout).starts_with("NAME"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_drained_by_evicting_their_pods() {
    if !available() {
        return;
    }
    let kubectl = Kubectl::start().await;
    kubectl.run("run tool --image=busybox --restart=Never -- sleep 1d").await;
    kubectl.run("wait --for=condition=Ready pod/tool --timeout=30s").await;
    // A trial ends too, and leaves everything as it is.
    let trial = kubectl.run("drain node-1 --force --dry-run=server").await;
    assert!(trial.contains("evicting pod default/tool (server dry run)"), "{trial}");
    let kept = kubectl.run("get pod tool -o jsonpath={.metadata.deletionTimestamp}").await;
    assert_eq!(kept, "");
    assert_eq!(kubectl.run("get node node-1 -o jsonpath={.spec.unschedulable}").await, "");
    let drained = kubectl.run("drain node-1 --force").await;
    assert!(drained.contains("pod/tool evicted") && drained.contains("node/node-1 drained"), "{drained}");
    assert!(kubectl.fail("get pod tool").await.contains("NotFound"));
    assert_eq!(kubectl.run("get node node-1 -o jsonpath={.spec.unschedulable}").await, "true");
}
