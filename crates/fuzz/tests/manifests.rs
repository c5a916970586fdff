//! Manifests, and objects of the API.

use ringfence_fuzz::hostile;
use ringfence_k8s::convert::Kind;
use ringfence_k8s::manifest::Manifests;
use serde_json::Value;

const POLICY: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: &meta {name: web-only, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - podSelector: {matchExpressions: [{key: role, operator: In, values: [front, back]}]}
      namespaceSelector: {}
    - ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.128/25]}
    ports: [{protocol: TCP, port: 80, endPort: 90}, {port: http}]
";
const CLUSTER: &str = "apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: tenants}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {matchLabels: {tenant: a}}}
  ingress:
  - name: \"allow\"
    action: Accept
    from: [{pods: {namespaceSelector: {}, podSelector: {}}}]
    protocols: [{tcp: {destinationPort: {range: {start: 1, end: 2}}}}]
  egress:
  - action: Deny
    to: [{networks: [10.0.0.0/8, 'fd00::/8']}, {domainNames: ['*.example.org']}, {nodes: {}}]
";
const OTHERS: &str = "%YAML 1.2
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: 1a, labels: {app: web}}
spec: {nodeName: node-1, containers: [{name: web, ports: [{name: http, containerPort: 80}]}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
--- # A comment
apiVersion: v1
kind: Node
metadata:
  name: node-1
spec: {podCIDRs: [10.245.1.0/24]}
status: {addresses: [{type: InternalIP, address: 10.89.0.11}]}
...
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {a: b}}}
";

#[test]
fn manifests_survive_hostile_input() {
    let seeds = [POLICY.as_bytes(), CLUSTER.as_bytes(), OTHERS.as_bytes()];
    hostile(&seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let manifests = Manifests::from_text("hostile.yaml", text);
        for diagnostic in &manifests.diagnostics {
            assert!(!diagnostic.to_string().is_empty());
        }
        // What was read is an object of the cluster or a diagnostic, and the planner takes all of them.
        assert!(manifests.world().objects().count() < 100_000);
    });
}

#[test]
fn objects_of_the_api_survive_hostile_input() {
    let seeds: Vec<Vec<u8>> = [POLICY, CLUSTER, OTHERS].iter().flat_map(|text| json(text)).collect();
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    hostile(&seeds, |bytes| {
        let Ok(object) = serde_json::from_slice::<Value>(bytes) else { return };
        let field = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let Some(kind) = Kind::of(field("apiVersion"), field("kind")) else { return };
        let _ = kind.key(&object);
        for diagnostic in kind.convert(&object).1 {
            assert!(!diagnostic.to_string().is_empty());
        }
    });
}

/// The documents of a manifest as the API's own format has them.
fn json(text: &str) -> Vec<Vec<u8>> {
    let manifests = Manifests::from_text("seed.yaml", text);
    manifests.documents.iter().map(|document| serde_json::to_vec(&document.value).expect("a value")).collect()
}
