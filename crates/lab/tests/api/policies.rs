//! The cluster-wide policy kinds: with kubectl, and as clients see them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use ringfence_k8s::convert::Kind;
use ringfence_k8s::crd::install::{InstallError, Installed, install};
use ringfence_k8s::crd::{Channel, KINDS, definition};
use serde_json::{Value, json};

use crate::client::refusal;
use crate::fake;
use crate::kubectl::{Kubectl, available, table};

const POLICY: &str = "apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
  tier: Admin
  priority: 7
  subject: {namespaces: {}}
  egress:
    - action: Deny
      to: [{networks: [10.0.0.0/8]}, {nodes: {}}, {domainNames: [example.com]}]
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_and_cluster_network_policies() {
    if !available() {
        return;
    }
    let kubectl = Kubectl::start().await;
    let file = kubectl.file("p.yaml", POLICY);
    let apply = format!("apply -f {file}");
    let called = "clusternetworkpolicy.policy.networking.k8s.io/p";
    assert_eq!(kubectl.run(&apply).await, format!("{called} created\n"));
    assert_eq!(kubectl.run(&apply).await, format!("{called} unchanged\n"));
    let rows = kubectl.run("get cnp").await;
    let rows = table(&rows);
    assert_eq!(rows[0], ["NAME", "TIER", "PRIORITY", "AGE"]);
    assert_eq!(&rows[1][..3], ["p", "Admin", "7"]);
    let patch = r#"patch cnp p --type=merge -p {"spec":{"priority":8}}"#;
    assert_eq!(kubectl.run(patch).await, format!("{called} patched\n"));
    assert_eq!(kubectl.run("get cnp p -o jsonpath={.metadata.generation}").await, "2");
    let described = kubectl.run("describe cnp p").await;
    assert!(described.contains("Domain Names:") && described.contains("example.com"), "{described}");
    let explained = kubectl.run("explain cnp.spec.egress.to.networks").await;
    assert!(explained.contains("VERSION:    v1alpha2") && explained.contains("<[]string>"), "{explained}");
    let explained = kubectl.run("explain clusternetworkpolicies").await;
    assert!(
        explained.contains("GROUP:      policy.networking.k8s.io") && explained.contains("ObjectMeta"),
        "{explained}"
    );
    let explained = kubectl.run("explain anp.spec.priority").await;
    assert!(explained.contains("VERSION:    v1alpha1"), "{explained}");
    let wait = "wait --for=jsonpath={.spec.tier}=Admin cnp/p --timeout=10s";
    assert_eq!(kubectl.run(wait).await, format!("{called} condition met\n"));
    assert_eq!(
        kubectl.run(&format!("apply --server-side --force-conflicts -f {file}")).await,
        format!("{called} serverside-applied\n")
    );
    kubectl.run(&format!("delete -f {file}")).await;
    assert!(kubectl.fail("get cnp p").await.contains("NotFound"));
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_is_told_what_is_wrong() {
    if !available() {
        return;
    }
    let kubectl = Kubectl::start().await;
    let refused = async |from: &str, to: &str, reason: &str| {
        let file = kubectl.file("bad.yaml", &POLICY.replace(from, to));
        let said = kubectl.fail(&format!("apply -f {file}")).await;
        assert!(said.contains(reason), "{said}");
    };
    refused(
        "tier: Admin",
        "tier: Root",
        "spec.tier: Unsupported value: \"Root\": supported values: \"Admin\", \"Baseline\"",
    )
    .await;
    refused("priority: 7", "priority: 1001", "spec.priority: Invalid value: 1001: must be less than or equal to 1000")
        .await;
    refused("  priority: 7\n", "", "spec.priority: Required value").await;
    refused(
        "10.0.0.0/8",
        "10.0.0.0",
        "spec.egress[0].to[0].networks[0]: Invalid value: \"10.0.0.0\": must be a range of addresses in CIDR notation",
    )
    .await;
    refused(
        "namespaces: {}",
        "namespaces: {}, pods: {podSelector: {}}",
        "spec.subject: Too many: 2: must have at most 1 field",
    )
    .await;
    refused("action: Deny", "action: Deny\n      log: true", "unknown field \"spec.egress[0].log\"").await;
    let ports = "action: Deny\n      protocols: [{destinationNamedPort: web}]";
    refused("action: Deny", ports, "spec.egress[0]: Invalid value: \"object\": only pods have named ports").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_finds_the_definitions() {
    if !available() {
        return;
    }
    let kubectl = Kubectl::start().await;
    let rows = kubectl.run("get crds").await;
    let rows = table(&rows);
    assert_eq!((rows[0].as_slice(), rows.len()), (["NAME", "CREATED AT"].as_slice(), 4));
    let crd = "crd/clusternetworkpolicies.policy.networking.k8s.io";
    kubectl.run(&format!("wait --for=condition=Established {crd} --timeout=10s")).await;
    assert!(kubectl.fail(&format!("delete {crd}")).await.contains("the lab always has this kind"));
    let resources = kubectl.run("api-resources --api-group=policy.networking.k8s.io --no-headers").await;
    let mut resources: Vec<Vec<&str>> = resources.lines().map(|line| line.split_whitespace().collect()).collect();
    resources.sort();
    let expected = [
        ["adminnetworkpolicies", "anp", "policy.networking.k8s.io/v1alpha1", "false", "AdminNetworkPolicy"],
        [
            "baselineadminnetworkpolicies",
            "banp",
            "policy.networking.k8s.io/v1alpha1",
            "false",
            "BaselineAdminNetworkPolicy",
        ],
        ["clusternetworkpolicies", "cnp", "policy.networking.k8s.io/v1alpha2", "false", "ClusterNetworkPolicy"],
    ];
    assert_eq!(resources, expected);
}

fn way(kind: Kind) -> String {
    let resource = kind.resource();
    format!("/apis/{}/{}", resource.api_version(), resource.plural)
}

async fn send(client: &Client, method: &str, path: &str, media_type: &str, body: &Value) -> kube::Result<Value> {
    let request = http::Request::builder().method(method).uri(path).header("content-type", media_type);
    client.request(request.body(body.to_string().into_bytes()).unwrap()).await
}

#[tokio::test]
async fn the_older_kinds_are_filled_in_and_validated() {
    let (server, _) = fake::start(None, false).await;
    let client = server.client();
    let policy = |name: &str| {
        let ports = json!([{"portNumber": {"port": 80}}]);
        let rule = json!({"action": "Allow", "from": [{"namespaces": {}}], "ports": ports});
        json!({"metadata": {"name": name}, "spec": {"priority": 1, "subject": {"namespaces": {}}, "ingress": [rule]}})
    };
    let made = send(&client, "POST", &way(Kind::AdminNetworkPolicy), "application/json", &policy("a")).await.unwrap();
    assert_eq!(made["spec"]["ingress"][0]["ports"], json!([{"portNumber": {"port": 80, "protocol": "TCP"}}]));
    let baseline = way(Kind::BaselineAdminNetworkPolicy);
    // It has no priority: that is dropped.
    let made = send(&client, "POST", &baseline, "application/json", &policy("default")).await.unwrap();
    assert_eq!(made["spec"].get("priority"), None);
    let status = refusal(send(&client, "POST", &baseline, "application/json", &policy("other")).await);
    assert!(
        status.message.contains("<nil>: Invalid value: \"object\": a cluster has one of them"),
        "{}",
        status.message
    );
}

#[tokio::test]
async fn conditions_are_written_apart_and_validated() {
    let (server, _) = fake::start(None, false).await;
    let client = server.client();
    let policies = way(Kind::ClusterNetworkPolicy);
    let spec = json!({"tier": "Baseline", "priority": 0, "subject": {"pods": {"podSelector": {}}}});
    let body = json!({"metadata": {"name": "p"}, "spec": spec, "status": {"conditions": []}});
    let made = send(&client, "POST", &policies, "application/json", &body).await.unwrap();
    assert_eq!(made.get("status"), None);
    let status = format!("{policies}/p/status");
    let condition = |kind: &str, value: &str| {
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "status": {"conditions": [{
            "type": kind, "status": value, "reason": "Fine", "message": "",
            "lastTransitionTime": "2026-01-31T12:00:00Z"}]}})
    };
    let apply = |manager: &str| format!("{status}?fieldManager={manager}&force=true");
    for (manager, kind) in [("one", "example.com/One"), ("two", "Two")] {
        send(&client, "PATCH", &apply(manager), "application/apply-patch+yaml", &condition(kind, "True"))
            .await
            .unwrap();
    }
    let found: Value = send(&client, "GET", &format!("{policies}/p"), "application/json", &json!({})).await.unwrap();
    assert_eq!(found["status"]["conditions"].as_array().map(Vec::len), Some(2));
    assert_eq!(found["metadata"]["generation"], 1);
    let refused =
        send(&client, "PATCH", &apply("one"), "application/apply-patch+yaml", &condition("A b", "Perhaps")).await;
    let causes = refusal(refused).details.unwrap().causes;
    let mut fields: Vec<_> = causes.iter().filter_map(|cause| cause.field.rsplit('.').next()).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["status", "type"]);
    let strategic =
        send(&client, "PATCH", &format!("{policies}/p"), "application/strategic-merge-patch+json", &json!({})).await;
    assert_eq!(refusal(strategic).reason, "UnsupportedMediaType");
}

#[tokio::test]
async fn definitions_are_there_and_stay() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let (server, _) = fake::start(Some(directory.path().to_owned()), false).await;
        let client = server.client();
        for kind in KINDS {
            let installed = install(&client, &definition(kind, Channel::Experimental).unwrap(), false).await.unwrap();
            assert_ne!(installed, Installed::Created);
            let again = install(&client, &definition(kind, Channel::Experimental).unwrap(), false).await.unwrap();
            assert_eq!(again, Installed::Unchanged);
            let standard = definition(kind, Channel::Standard).unwrap();
            let refused = install(&client, &standard, false).await.unwrap_err();
            assert!(matches!(refused, InstallError::Refused { .. }), "{refused}");
            let refused = install(&client, &standard, true).await.unwrap_err();
            let InstallError::Api { error, .. } = refused else { panic!("{refused}") };
            assert!(error.to_string().contains("the lab serves this kind as defined in"), "{error}");
        }
        let definitions: Api<CustomResourceDefinition> = Api::all(client);
        let name = "clusternetworkpolicies.policy.networking.k8s.io";
        assert_eq!(refusal(definitions.delete(name, &DeleteParams::default()).await).reason, "Forbidden");
        let labels = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
        definitions.patch(name, &PatchParams::default(), &labels).await.unwrap();
        let mut other = definitions.get(name).await.unwrap();
        other.metadata = serde_json::from_value(json!({"name": "things.example.com"})).unwrap();
        assert_eq!(refusal(definitions.create(&PostParams::default(), &other).await).reason, "Invalid");
    }
}
