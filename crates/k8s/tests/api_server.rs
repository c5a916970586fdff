//! Comparison with a real API server: refusals with their fields and reasons, and the events of a watch.
//!
//! Needs `RINGFENCE_TEST_KUBECONFIG`: the kubeconfig of an API server (kube-apiserver with etcd is enough) whose
//! namespace `default` may be written to. Objects are only created as a dry run, but for one policy of the watch test.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::print_stdout, reason = "says why a test is skipped")]
#![expect(clippy::needless_pass_by_value, reason = "calls read better with a bare json!(…)")]

mod common;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _};
use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use ringfence_k8s::crd::install::{InstallError, Installed, install};
use ringfence_k8s::crd::{self, Channel};
use ringfence_k8s::watch::{self, Event, Forgetful, Intake};
use ringfence_k8s::{convert::Kind, strict, validate};
use serde_json::{Value, json};

/// A client, or none where no server is named.
async fn client() -> Option<Client> {
    let Some(path) = std::env::var_os("RINGFENCE_TEST_KUBECONFIG").map(PathBuf::from) else {
        println!("skipped: name the kubeconfig of an API server in RINGFENCE_TEST_KUBECONFIG");
        return None;
    };
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Some(Client::try_from(config).unwrap())
}

/// The server's response to the creation of an object: none, or a status.
async fn create(client: &Client, object: &Value) -> Option<Value> {
    let (api_version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    let cluster_wide = Kind::of(api_version, kind).map(Kind::resource).filter(|resource| !resource.namespaced);
    let way = match (api_version, kind) {
        ("v1", "Namespace") => "/api/v1/namespaces".to_owned(),
        _ if cluster_wide.is_some() => format!("/apis/{api_version}/{}", cluster_wide.map_or("", |r| r.plural)),
        ("v1", kind) => format!("/api/v1/namespaces/default/{}s", kind.to_lowercase()),
        (group, "NetworkPolicy") => format!("/apis/{group}/namespaces/default/networkpolicies"),
        (group, kind) => format!("/apis/{group}/namespaces/default/{}s", kind.to_lowercase()),
    };
    let request = Request::post(format!("{way}?dryRun=All&fieldValidation=Strict"))
        .header("content-type", "application/json")
        .body(object.to_string().into_bytes());
    let response = client.send(request.unwrap().map(kube::client::Body::from)).await.unwrap();
    let ok = response.status().is_success();
    let body = response.into_body().collect_bytes().await.unwrap();
    (!ok).then(|| serde_json::from_slice(&body).unwrap())
}

/// Fields and reasons, sorted, each once: the server breaks some rules into more messages than we do.
type Causes = Vec<(String, String)>;

fn theirs(status: &Value) -> Causes {
    let causes = status["details"]["causes"].as_array().cloned().unwrap_or_default();
    let text = |cause: &Value, field: &str| cause[field].as_str().unwrap_or_default().to_owned();
    let mut causes: Causes = causes.iter().map(|cause| (text(cause, "field"), text(cause, "reason"))).collect();
    // An error of the object as a whole means that the server stopped there, unless a rule is about the whole object.
    causes.retain(|(field, _)| field != "<nil>" || !stopped(status));
    causes.iter_mut().filter(|(field, _)| field == "<nil>").for_each(|(field, _)| field.clear());
    causes.sort();
    causes.dedup();
    causes
}

/// True if the server did not evaluate rules because of other errors.
fn stopped(status: &Value) -> bool {
    status["message"].as_str().unwrap_or_default().contains("some validation rules were not checked")
}

fn ours(object: &Value) -> Causes {
    let mut object = object.clone();
    if object["kind"] == "Namespace"
        && let Some(name) = object["metadata"]["name"].as_str().map(str::to_owned)
    {
        // Set before the server validates.
        object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name.into();
    }
    let errors = validate::object(&object).unwrap();
    let mut causes: Causes = errors.iter().map(|e| (e.path.to_string(), e.kind.reason().to_owned())).collect();
    causes.sort();
    causes.dedup();
    causes
}

/// Returns the difference between the server's verdict and ours about an object, if there is one.
async fn compare(client: &Client, object: &Value) -> Option<String> {
    let status = create(client, object).await;
    let mismatches = strict::check(object).unwrap();
    let agree = match &status {
        None => ours(object).is_empty() && mismatches.is_empty(),
        // An unknown field is reported before anything else, or together with a decoding error: the status has no
        // causes, but we have to report an error too.
        Some(status) if status["code"] == 400 => !ours(object).is_empty() || !mismatches.is_empty(),
        Some(status) => theirs(status) == ours(object),
    };
    let found = status.as_ref().map(|status| (status["message"].clone(), theirs(status)));
    (!agree).then(|| format!("{object}\n  server: {found:#?}\n  we: {:#?} {mismatches:?}\n", ours(object)))
}

async fn compare_all(client: &Client, objects: impl IntoIterator<Item = Value>) {
    let mut disagreements = Vec::new();
    for object in objects {
        disagreements.extend(compare(client, &object).await);
    }
    assert!(disagreements.is_empty(), "{} disagreements:\n{}", disagreements.len(), disagreements.join("\n"));
}

fn object(api_version: &str, kind: &str, spec: Value) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}, "spec": spec})
}

#[tokio::test]
async fn generated_policies() {
    let Some(client) = client().await else { return };
    let mut runner = TestRunner::default();
    let specs = (0..1000).map(|_| common::policy_spec().new_tree(&mut runner).unwrap().current());
    let objects: Vec<_> = specs.map(|spec| object("networking.k8s.io/v1", "NetworkPolicy", spec)).collect();
    let valid = objects.iter().filter(|object| ours(object).is_empty()).count();
    println!("{valid} of {} policies are valid", objects.len());
    assert!(valid > 50, "too few valid policies to mean anything");
    compare_all(&client, objects).await;
}

#[tokio::test]
async fn metadata() {
    let Some(client) = client().await else { return };
    let metadata = [
        json!({}),
        json!({"name": "Upper"}),
        json!({"name": "a.b"}),
        json!({"name": "1a"}),
        json!({"name": "-"}),
        json!({"name": "a".repeat(64)}),
        json!({"name": "a".repeat(254)}),
        json!({"generateName": "x-"}),
        json!({"name": "x", "labels": {"a b": "c", "ok": "d e", "/x": "", "n": null}}),
        json!({"name": "x", "annotations": {"a b": "c", "UP.com/X": "anything goes"}}),
        json!({"name": "x", "labels": {"a": 1}}),
        json!({"name": "x", "finalizers": ["example.com/x"]}),
        json!({"name": "x", "finalizers": ["a b"]}),
        json!({"name": "x", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]}),
        json!({"name": "x", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "", "uid": ""}]}),
        json!({"name": "x", "unknown": 1}),
    ];
    let bodies = [
        json!({"apiVersion": "v1", "kind": "Namespace"}),
        json!({"apiVersion": "v1", "kind": "ConfigMap"}),
        json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "c", "image": "i"}]}}),
        json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80}]}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": {"podSelector": {}}}),
    ];
    let objects = bodies.iter().flat_map(|body| {
        metadata.iter().map(|metadata| {
            let mut object = body.clone();
            object["metadata"] = metadata.clone();
            object
        })
    });
    compare_all(&client, objects).await;
}

#[tokio::test]
async fn pods_and_workloads() {
    let Some(client) = client().await else { return };
    let containers = [
        json!([]),
        json!(null),
        json!([{"name": "c", "image": "i"}]),
        json!([{"name": "", "image": ""}]),
        json!([{"name": "C", "image": " i"}]),
        json!([{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]),
        json!([{"name": "c", "image": "i", "imagePullPolicy": "Maybe"}]),
        json!([{"name": "c", "image": "i", "ports": [{}]}]),
        json!([{"name": "c", "image": "i", "ports": [{"containerPort": 70000, "protocol": "tcp", "name": "HTTP"}]}]),
        json!([{"name": "c", "image": "i", "ports": [{"containerPort": 80, "name": "a"}, {"containerPort": 81,
            "name": "a"}]}]),
        json!([{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 70000}]}]),
        json!([{"name": "c", "image": "i", "env": [{"name": "", "value": "x"}, {"name": "A=B"}, {"name": "A B"}]}]),
        json!([{"name": "c", "image": "i", "readinessProbe": {}}]),
        json!([{"name": "c", "image": "i", "readinessProbe": {"httpGet": {"port": 0, "path": "/"}}}]),
        json!([{"name": "c", "image": "i", "readinessProbe": {"httpGet": {"port": "no port", "path": "/"}}}]),
        json!([{"name": "c", "image": "i", "readinessProbe": {"tcpSocket": {"port": 80}, "exec": {"command": ["x"]}}}]),
        json!([{"name": "c", "image": "i", "livenessProbe": {"exec": {"command": ["x"]}, "periodSeconds": -1}}]),
        json!([{"name": "c", "image": "i", "command": "sleep"}]),
        json!([{"name": "c", "image": "i", "unknown": true}]),
    ];
    let changes = [
        json!({"restartPolicy": "Sometimes"}),
        json!({"restartPolicy": "Never"}),
        json!({"terminationGracePeriodSeconds": -1}),
        json!({"dnsPolicy": "Nowhere"}),
        json!({"hostname": "A", "subdomain": "b.c", "nodeName": "N"}),
        json!({"nodeSelector": {"a b": "c d"}}),
        json!({"initContainers": [{"name": "c", "image": "i"}]}),
        json!({"initContainers": [{"name": "i", "image": "i", "restartPolicy": "Always"}]}),
        json!({"hostNetwork": true, "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80,
            "hostPort": 81}]}]}),
    ];
    let specs =
        containers.iter().map(|containers| json!({"containers": containers})).chain(changes.iter().map(|change| {
            let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
            spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            spec
        }));
    let specs: Vec<_> = specs.collect();
    let template = |spec: &Value| {
        json!({"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": spec}})
    };
    let pods = specs.iter().map(|spec| object("v1", "Pod", spec.clone()));
    let workloads =
        specs.iter().flat_map(|spec| ["Deployment", "ReplicaSet"].map(|kind| object("apps/v1", kind, template(spec))));
    let good = json!({"containers": [{"name": "c", "image": "i"}]});
    let others = [
        json!({}),
        json!({"selector": {}, "template": {"spec": good}}),
        json!({"selector": {"matchLabels": {"a": "c"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": good}}),
        json!({"selector": {"matchLabels": {"a": "b"}}}),
        json!({"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b", "c d": ""}},
            "spec": good}}),
        json!({"replicas": -1, "minReadySeconds": -1, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": good}}),
        json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Like"}]},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": good}}),
    ];
    let others = others
        .into_iter()
        .flat_map(|spec| ["Deployment", "ReplicaSet"].map(|kind| object("apps/v1", kind, spec.clone())));
    compare_all(&client, pods.chain(workloads).chain(others)).await;
}

#[tokio::test]
async fn services_and_config_maps() {
    let Some(client) = client().await else { return };
    let one = json!([{"port": 80}]);
    let specs = [
        json!({"ports": one}),
        json!({}),
        json!({"clusterIP": "None"}),
        json!({"type": "ExternalName"}),
        json!({"type": "ExternalName", "externalName": "example.com"}),
        json!({"type": "ExternalName", "externalName": "Not_Good"}),
        json!({"type": "Magic", "ports": one}),
        json!({"ports": [{"port": 0}]}),
        json!({"ports": [{"port": 70000}]}),
        json!({"ports": [{"port": 80}, {"port": 81}]}),
        json!({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}),
        json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}),
        json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b", "protocol": "UDP"}]}),
        json!({"ports": [{"port": 80, "name": "A"}]}),
        json!({"ports": [{"port": 80, "protocol": "tcp"}]}),
        json!({"ports": [{"port": 80, "targetPort": 70000}]}),
        json!({"ports": [{"port": 80, "targetPort": "http"}]}),
        json!({"ports": [{"port": 80, "targetPort": "No Port"}]}),
        json!({"ports": [{"port": 80, "nodePort": 30000}]}),
        json!({"ports": one, "clusterIP": "nowhere"}),
        json!({"ports": one, "clusterIP": "None", "type": "NodePort"}),
        json!({"ports": one, "selector": {"a b": "c d"}}),
        json!({"ports": one, "sessionAffinity": "Sometimes"}),
        json!({"ports": one, "ipFamilyPolicy": "Triple"}),
        json!({"ports": one, "internalTrafficPolicy": "Nowhere"}),
        json!({"ports": "80"}),
        json!({"ports": one, "port": 80}),
    ];
    let services = specs.into_iter().map(|spec| object("v1", "Service", spec));
    let maps = [json!({"a.b_c-1": "x"}), json!({"a/b": "x"}), json!({"": "x"}), json!({"..a": "x"}), json!({"a": 1})];
    let maps = maps
        .into_iter()
        .map(|data| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": data}));
    compare_all(&client, services.chain(maps)).await;
}

/// Specifications of a cluster-wide policy, each with at most a few mistakes.
fn tiered_specs(peers: &[Value], ports: (&str, &[Value]), actions: &[Value]) -> Vec<Value> {
    let subject = json!({"namespaces": {}});
    let one = json!([{"namespaces": {}}]);
    let many = |item: &Value, count: usize| Value::Array(vec![item.clone(); count]);
    let mut rules = vec![
        json!(null),
        json!("x"),
        json!({}),
        json!({"action": "Deny"}),
        json!({"action": "Deny", "to": []}),
        json!({"action": "Deny", "to": {}}),
        json!({"action": "Deny", "to": many(&one[0], 25)}),
        json!({"action": "Deny", "to": many(&one[0], 101)}),
        json!({"action": "Deny", "to": one, "log": true}),
        json!({"action": "Deny", "to": one, "from": one}),
        json!({"action": "Deny", "to": one, "name": "n".repeat(100)}),
        json!({"action": "Deny", "to": one, "name": "ü".repeat(101)}),
        json!({"action": "Deny", "to": one, "name": 7}),
        json!({"action": "Deny", "to": one, ports.0: null}),
        json!({"action": "Deny", "to": one, ports.0: []}),
        json!({"action": "Deny", "to": one, ports.0: many(&ports.1[0], 101)}),
    ];
    rules.extend(actions.iter().map(|action| json!({"action": action, "to": one})));
    rules.extend(peers.iter().map(|peer| json!({"action": "Deny", "to": [peer]})));
    rules.extend(ports.1.iter().map(|port| json!({"action": "Deny", "to": one, ports.0: [port]})));
    rules.extend(peers.iter().map(|peer| json!({"action": "Deny", "to": [peer], ports.0: [ports.1.last()]})));
    let mut specs: Vec<_> = rules.iter().map(|rule| json!({"subject": subject, "egress": [rule]})).collect();
    specs.extend(rules.iter().map(|rule| {
        let mut rule = rule.clone();
        if let Some(peers) = rule.as_object_mut().and_then(|rule| rule.remove("to")) {
            rule["from"] = peers;
        }
        json!({"subject": subject, "ingress": [rule]})
    }));
    let rule = json!({"action": "Deny", "to": one});
    specs.extend([25, 26, 101].map(|count| json!({"subject": subject, "egress": many(&rule, count)})));
    specs.extend(peers.iter().map(|subject| json!({"subject": subject})));
    specs.extend([json!({}), json!({"subject": subject, "egress": {}}), json!({"subject": subject, "schedule": 1})]);
    specs
}

fn tiered_peers() -> Vec<Value> {
    let selector = |expression: Value| json!({"namespaces": {"matchExpressions": [expression]}});
    let mut peers = vec![
        json!({}),
        json!(null),
        json!("web"),
        json!({"namespaces": null}),
        json!({"namespaces": {"matchLabels": {"a": "b", "c": 1, "d": null}}}),
        json!({"namespaces": {"matchLabels": {"not a key": "nor a value!"}}}),
        json!({"namespaces": {"matchLabel": {}}}),
        selector(json!({"key": "a", "operator": "Like"})),
        selector(json!({"key": "a", "operator": "In", "values": []})),
        selector(json!({"operator": "In", "values": ["a", 1, null]})),
        json!({"pods": {}}),
        json!({"pods": {"podSelector": {}}}),
        json!({"pods": {"podSelector": {}, "namespaceSelector": {}}}),
        json!({"pods": {"podSelector": {}, "namespaceSelector": {}}, "namespaces": {}}),
        json!({"nodes": {}}),
        json!({"nodes": {}, "networks": ["10.0.0.0/8"]}),
        json!({"networks": []}),
        json!({"networks": "10.0.0.0/8"}),
        json!({"networks": ["10.0.0.0/8", "fd00::/8"]}),
        json!({"networks": ["10.0.0.0/8", "10.0.0.0/8", "10.0.0.0/8"]}),
        json!({"networks": (0..26).map(|i| format!("10.{i}.0.0/16")).collect::<Vec<_>>()}),
        json!({"domainNames": []}),
        json!({"domainNames": ["example.com", "*.example.com.", "example.com"]}),
    ];
    let blocks = [
        "10.0.0.1",
        "10.0.0.1/8",
        "010.0.0.0/8",
        "10.0.0.0/08",
        "10.0.0.0/33",
        "",
        "::ffff:10.0.0.0/104",
        "fe80::%eth0/64",
    ];
    peers.extend(blocks.map(|block| json!({"networks": [block]})));
    peers.push(json!({"networks": [format!("{}/8", "0".repeat(44))]}));
    let names = ["com", "*", "*.", "a..b", "a.b.", "a_b.c", "-a.b", "a.*.b", "A.B", "a^b.c", "ä.b", "^.b"];
    peers.extend(names.map(|name| json!({"domainNames": [name]})));
    peers
}

/// `spec` with the other fields of its kind.
fn tiered(kind: Kind, name: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    for (field, value) in [("tier", json!("Admin")), ("priority", json!(5))] {
        let has = kind == Kind::ClusterNetworkPolicy || (kind == Kind::AdminNetworkPolicy && field == "priority");
        if has && spec.is_object() && spec.get(field).is_none() {
            spec[field] = value;
        }
    }
    let resource = kind.resource();
    json!({"apiVersion": resource.api_version(), "kind": resource.kind, "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn cluster_wide_policies() {
    let Some(client) = client().await else { return };
    let mut made = Vec::new();
    for kind in crd::KINDS {
        let definition = crd::definition(kind, Channel::Experimental).unwrap();
        let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
        match install(&client, &definition, false).await.unwrap() {
            Installed::Created => made.push(name),
            other => println!("{name}: {other:?}"),
        }
        assert_eq!(install(&client, &definition, false).await.unwrap(), Installed::Unchanged);
        let standard = crd::definition(kind, Channel::Standard).unwrap();
        let refused = install(&client, &standard, false).await.unwrap_err();
        assert!(matches!(&refused, InstallError::Refused { .. }) && refused.to_string().contains("experimental"));
    }
    let disagreements = std::panic::AssertUnwindSafe(compare_tiered(&client)).catch_unwind().await;
    for name in made {
        let way = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        client.request::<Value>(Request::delete(way).body(Vec::new()).unwrap()).await.unwrap();
    }
    disagreements.unwrap();
}

async fn compare_tiered(client: &Client) {
    let port = |port: Value| json!({"tcp": {"destinationPort": port}});
    let mut protocols: Vec<_> = [
        json!(null),
        json!({}),
        json!({"number": 80}),
        json!({"number": 0}),
        json!({"number": 65536}),
        json!({"number": "80"}),
        json!({"number": 80.5}),
        json!({"number": 80, "range": {"start": 1, "end": 2}}),
        json!({"range": {"start": 1}}),
        json!({"range": {"start": 1, "end": 1}}),
        json!({"range": {"start": 2, "end": 1}}),
        json!({"range": {"start": 1, "end": 65536}}),
    ]
    .map(port)
    .to_vec();
    protocols.extend([json!({}), json!({"tcp": {}}), json!({"icmp": {}}), json!({"udp": {}, "sctp": {}})]);
    protocols.extend([json!({"destinationNamedPort": ""}), json!({"destinationNamedPort": "web"})]);
    let ports = [
        json!({"portNumber": {"port": 80}}),
        json!({"portNumber": {"port": 0, "protocol": "tcp"}}),
        json!({"portNumber": {"protocol": "UDP"}}),
        json!({"portRange": {"start": 2, "end": 1}}),
        json!({"portRange": {"start": 2, "protocol": null}}),
        json!({"portNumber": {"port": 80}, "namedPort": "x"}),
        json!({}),
        json!({"namedPort": "web"}),
    ];
    let actions = ["Accept", "Allow", "Deny", "Pass", "deny", ""].map(Value::from);
    let actions: Vec<_> = actions.into_iter().chain([json!(1), json!(null)]).collect();
    let mut objects = Vec::new();
    for kind in crd::KINDS {
        let ports =
            if kind == Kind::ClusterNetworkPolicy { ("protocols", &protocols[..]) } else { ("ports", &ports[..]) };
        let name = if kind == Kind::BaselineAdminNetworkPolicy { "default" } else { "x" };
        let specs = tiered_specs(&tiered_peers(), ports, &actions);
        objects.extend(specs.iter().map(|spec| tiered(kind, name, spec)));
        let subject =
            |field: &str, value: Value| tiered(kind, name, &json!({"subject": {"namespaces": {}}, field: value}));
        objects.extend(
            [json!(-1), json!(0), json!(1000), json!(1001), json!("5"), json!(null)].map(|p| subject("priority", p)),
        );
        objects.extend(["Baseline", "Later", ""].map(|tier| subject("tier", tier.into())));
        objects.push(tiered(kind, "other", &json!({"subject": {"namespaces": {}}})));
        objects.push(tiered(kind, "Bad_Name", &json!({"subject": {"namespaces": {}}})));
        objects.push(json!({"apiVersion": kind.resource().api_version(), "kind": kind.resource().kind,
            "metadata": {"name": name}}));
    }
    let valid = objects.iter().filter(|object| ours(object).is_empty()).count();
    println!("{valid} of {} policies are valid", objects.len());
    assert!(valid > 30 && objects.len() > 400, "{valid} of {}", objects.len());
    compare_all(client, objects).await;
}

/// From the request that creates a policy to the event of the watch.
#[tokio::test]
async fn a_policy_on_the_watch() {
    let Some(client) = client().await else { return };
    let kinds = [Kind::Namespace, Kind::Node, Kind::Pod, Kind::NetworkPolicy];
    let mut events = Box::pin(watch::kinds(&client, &kinds, &Forgetful, &Intake::default()));
    let mut next =
        async || tokio::time::timeout(Duration::from_secs(20), events.next()).await.expect("no event").unwrap();
    let mut connected = 0;
    while connected < 4 {
        connected += usize::from(matches!(next().await, Event::Connected { .. }));
    }
    let name = format!("ringfence-test-{}", std::process::id());
    let way = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
    let body = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name},
        "spec": {"podSelector": {}}});
    let start = Instant::now();
    let request = Request::post(way).header("content-type", "application/json").body(body.to_string().into_bytes());
    let (answer, event) =
        tokio::join!(client.request::<Value>(request.unwrap()), async { (next().await, start.elapsed()) });
    answer.unwrap();
    let (event, took) = event;
    println!("from request to event: {took:?}");
    assert!(matches!(&event, Event::Apply { diagnostics, .. } if diagnostics.is_empty()), "{event:?}");
    let request = Request::delete(format!("{way}/{name}")).body(Vec::new());
    client.request::<Value>(request.unwrap()).await.unwrap();
    let event = next().await;
    assert!(matches!(&event, Event::Delete(_)), "{event:?}");
}
