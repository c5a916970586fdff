//! Manifests as people write them, and the diagnostics about them.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs;
use std::path::{Path, PathBuf};

use ringfence_k8s::Severity;
use ringfence_k8s::manifest::{self, Manifests};
use ringfence_model::{Direction, Object, PodSelection, Selector};

/// The diagnostics of a text, rendered.
fn rendered(text: &str) -> String {
    let mut out = Vec::new();
    Manifests::from_text("m.yaml", text).render(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn objects_have_their_places() {
    let manifests = Manifests::from_text(
        "m.yaml",
        "\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
# a policy
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: allow
  namespace: shop
spec:
  podSelector: {}
  ingress:
  - from:
    - podSelector:
        matchLabels: {app: web}
    ports:
    - port: 80
",
    );
    assert_eq!(manifests.diagnostics, []);
    let titles: Vec<_> = manifests.documents.iter().map(|d| format!("{} {}", d.location, d.title)).collect();
    assert_eq!(titles, ["m.yaml:1:1 Namespace shop", "m.yaml:6:1 NetworkPolicy shop/allow"]);
    let Some(Object::Policy(policy)) = &manifests.documents[1].object else { panic!() };
    assert_eq!(policy.rules(Direction::Ingress).unwrap().len(), 1);
    assert_eq!(policy.rules(Direction::Egress), None);
}

#[test]
fn errors_show_their_line() {
    let found = rendered(
        "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {}
  ingres: []
  ingress:
  - from:
    - ipBlock:
        cidr: 10.0.0.0/40
    ports:
    - port: 70000
      protocol: tcp
",
    );
    let expect = "\
m.yaml:6:3: error: NetworkPolicy shop/web: spec.ingres: unknown field \"spec.ingres\"
6 |   ingres: []
  |   ^
m.yaml:13:17: error: NetworkPolicy shop/web: spec.ingress[0].ports[0].protocol: Unsupported value: \"tcp\": supported \
    values: \"SCTP\", \"TCP\", \"UDP\"
13 |       protocol: tcp
   |                 ^
m.yaml:12:13: error: NetworkPolicy shop/web: spec.ingress[0].ports[0].port: Invalid value: 70000: must be between 1 \
    and 65535, inclusive
12 |     - port: 70000
   |             ^
m.yaml:10:15: error: NetworkPolicy shop/web: spec.ingress[0].from[0].ipBlock.cidr: Invalid value: \"10.0.0.0/40\": \
    must be a CIDR block, such as 10.9.8.0/24 or 2001:db8::/64
10 |         cidr: 10.0.0.0/40
   |               ^
";
    assert_eq!(found, expect);
}

#[test]
fn one_bad_document_never_hides_the_others() {
    let manifests = Manifests::from_text(
        "m.yaml",
        "kind: Pod\n---\n- 1\n---\na: [\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: \
         7}\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: {name: last}\n",
    );
    let found: Vec<_> = manifests.diagnostics.iter().map(|d| d.location.as_ref().unwrap().line).collect();
    assert_eq!(found, [1, 3, 5, 10], "{:#?}", manifests.diagnostics);
    assert_eq!(manifests.documents.last().unwrap().title, "Namespace last");
}

#[test]
fn lists_are_their_items() {
    let manifests = Manifests::from_text(
        "m.yaml",
        "\
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: a}}
- {apiVersion: v1, metadata: {name: b}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicyList
items:
- metadata: {name: p, namespace: a}
  spec: {podSelector: {}}
",
    );
    let titles: Vec<_> = manifests.documents.iter().map(|d| format!("{} {}", d.location, d.title)).collect();
    assert_eq!(titles, ["m.yaml:4:3 Namespace a", "m.yaml:10:3 NetworkPolicy a/p"]);
    assert_eq!(manifests.diagnostics[0].to_string(), "m.yaml:5:3: error: not a Kubernetes object: kind is missing");
}

#[test]
fn what_policy_does_not_depend_on_is_counted() {
    let manifests = Manifests::from_text(
        "m.yaml",
        "\
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {ports: [{port: 80}]}
---
{apiVersion: example.com/v1, kind: Thing, metadata: {name: t}}
---
{apiVersion: policy.networking.k8s.io/v1beta7, kind: ClusterNetworkPolicy, metadata: {name: c}}
",
    );
    let aside: Vec<_> = manifests.left_aside.iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
    assert_eq!(
        aside,
        ["example.com/v1 Thing: 1", "policy.networking.k8s.io/v1beta7 ClusterNetworkPolicy: 1", "v1 Service: 1"]
    );
    assert_eq!(manifests.counts(), (0, 2));
    assert!(manifests.diagnostics[1].message.contains("verdicts do not heed it"));
}

#[test]
fn cluster_wide_policies_are_read_and_checked() {
    let manifests = Manifests::from_text(
        "m.yaml",
        "\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: c}
spec:
  tier: Admin
  priority: 1001
  subject: {namespaces: {}}
  egress:
    - {action: Deny, to: [{services: {}}]}
",
    );
    let said: Vec<_> = manifests.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "m.yaml:9:28: error: ClusterNetworkPolicy c: spec.egress[0].to[0].services: unknown field \
             \"spec.egress[0].to[0].services\"",
            "m.yaml:6:13: error: ClusterNetworkPolicy c: spec.priority: Invalid value: 1001: must be less than or \
             equal to 1000",
        ]
    );
    assert_eq!((manifests.world().policies.len(), manifests.left_aside.len()), (1, 0));
}

#[test]
fn the_world_has_the_namespaces_that_objects_are_in() {
    let manifests = Manifests::from_text(
        "m.yaml",
        "\
{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: shop}, spec: {containers: [{name: c, image: i}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: q}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: q}, spec: {podSelector: {matchLabels: {a: b}}}}
",
    );
    let world = manifests.world();
    assert_eq!(world.namespaces.keys().map(|name| &**name).collect::<Vec<_>>(), ["default", "shop"]);
    assert_eq!(world.namespaces["shop"].labels, [("kubernetes.io/metadata.name", "shop")].into_iter().collect());
    let policy = world.policies.values().next().unwrap();
    assert_ne!(
        policy.subject,
        PodSelection { pods: Selector::everything(), ..policy.subject.clone() },
        "the later wins"
    );
    assert_eq!(manifests.counts(), (0, 1));
    assert!(manifests.diagnostics[0].message.contains("m.yaml:3:1"), "{:?}", manifests.diagnostics);
}

#[test]
fn directories_are_read_in_order_and_whatever_fails_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    write("b.yml", b"apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n");
    write("a/deep.json", br#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}"#);
    write("c.txt", b"not a manifest");
    write("latin1.yaml", b"a: \xe4\n");
    let manifests = manifest::load([dir.path().to_owned(), dir.path().join("missing.yaml")]);
    let titles: Vec<_> = manifests.documents.iter().map(|document| document.title.as_str()).collect();
    assert_eq!(titles, ["Namespace a", "Namespace b"]);
    let messages: Vec<_> = manifests.diagnostics.iter().map(|d| d.message.as_str()).collect();
    assert_eq!(messages, ["not UTF-8 at byte 3", "cannot read: No such file or directory (os error 2)"]);
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(manifest::load([empty.path()]).diagnostics[0].message, "no manifests here");
}

/// Real manifests: named by `RINGFENCE_CORPORA`, or beside the repository.
fn corpora() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).map(|dir| dir.join("shared/corpora"));
    let path = std::env::var_os("RINGFENCE_CORPORA").map(PathBuf::from).or_else(beside)?;
    path.is_dir().then_some(path)
}

#[test]
fn real_manifests_are_read_or_diagnosed() {
    let Some(path) = corpora() else {
        return println!("skipped: no corpora; name their directory in RINGFENCE_CORPORA");
    };
    let start = std::time::Instant::now();
    let manifests = manifest::load([&path]);
    let policies = manifests.world().policies.len();
    println!(
        "{} objects, {policies} policies, {:?} in {:?}",
        manifests.documents.len(),
        manifests.counts(),
        start.elapsed()
    );
    println!("left aside: {:#?}", manifests.left_aside);
    let mut out = Vec::new();
    for diagnostic in manifests.diagnostics.iter().filter(|d| d.severity == Severity::Error) {
        manifests.render_one(diagnostic, &mut out).unwrap();
    }
    println!("{}", String::from_utf8(out).unwrap());
    assert!(policies > 0, "no policy in {}", path.display());
    for diagnostic in &manifests.diagnostics {
        assert!(diagnostic.location.is_some() && !diagnostic.message.is_empty(), "{diagnostic:?}");
    }
    for document in manifests.documents.iter().filter(|document| document.valid) {
        assert!(document.location.line > 0);
    }
}
