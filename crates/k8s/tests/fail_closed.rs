//! A policy with unknown parts never allows more than one that is known.
#![expect(clippy::needless_pass_by_value, reason = "calls read better with a bare json!(…)")]

mod common;

use proptest::prelude::*;
use ringfence_k8s::convert::{self, Kind};
use ringfence_k8s::manifest::Manifests;
use ringfence_k8s::{strict, validate};
use ringfence_model::{Direction, Peers, Policy, Ports, Rule};
use serde_json::{Value, json};

/// A policy with this specification, in short, and the paths of its diagnostics.
fn short(spec: Value) -> (String, Vec<String>) {
    let (policy, diagnostics) =
        convert::network_policy(&json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec}));
    for diagnostic in &diagnostics {
        assert_eq!(diagnostic.object.as_deref(), Some("NetworkPolicy shop/p"));
        assert!(!diagnostic.message.is_empty() && diagnostic.hint.is_some(), "{diagnostic:?}");
    }
    let rules = |direction| match policy.rules(direction) {
        None => "open".to_owned(),
        Some(rules) => format!("[{}]", rules.iter().map(rule).collect::<Vec<_>>().join(" ")),
    };
    let text = format!("{} in {} out {}", policy.subject.pods, rules(Direction::Ingress), rules(Direction::Egress));
    (text, diagnostics.iter().map(|diagnostic| diagnostic.path.to_string()).collect())
}

fn rule(rule: &Rule) -> String {
    if rule.unknown().is_some() {
        return "never".to_owned();
    }
    let peers = match &rule.peers {
        Peers::Any => "any".to_owned(),
        Peers::List(list) => list.len().to_string(),
    };
    let ports = match &rule.ports {
        Ports::Any => "any".to_owned(),
        Ports::List(list) => list.len().to_string(),
    };
    format!("{peers}:{ports}")
}

/// The policy is this, and all of it is understood.
#[track_caller]
fn check(spec: Value, expect: &str) {
    assert_eq!(short(spec.clone()), (expect.to_owned(), Vec::new()), "{spec}");
}

/// The policy is this, and this field is the reason.
#[track_caller]
fn closed(spec: Value, expect: &str, path: &str) {
    assert_eq!(short(spec.clone()), (expect.to_owned(), vec![path.to_owned()]), "{spec}");
}

#[test]
fn policy_types_are_defaulted() {
    check(json!(null), "<everything> in [] out open");
    check(json!({}), "<everything> in [] out open");
    check(json!({"egress": []}), "<everything> in [] out open");
    check(json!({"egress": [{}]}), "<everything> in [] out [any:any]");
    check(json!({"policyTypes": ["Egress"]}), "<everything> in open out []");
    check(json!({"policyTypes": ["Egress"], "ingress": [{}]}), "<everything> in open out []");
    check(json!({"policyTypes": ["Ingress"], "egress": [{}]}), "<everything> in [] out open");
    check(json!({"policyTypes": ["Ingress", "Ingress"]}), "<everything> in [] out open");
    check(json!({"policyTypes": ["Ingress", "Egress"], "ingress": null, "egress": null}), "<everything> in [] out []");
}

#[test]
fn empty_missing_and_null_are_one() {
    for selector in [json!(null), json!({}), json!({"matchLabels": null}), json!({"matchExpressions": []})] {
        check(json!({"podSelector": selector}), "<everything> in [] out open");
    }
    for rule in [json!(null), json!({}), json!({"from": []}), json!({"from": null, "ports": []})] {
        check(json!({"ingress": [rule]}), "<everything> in [any:any] out open");
    }
    check(json!({"ingress": [{"ports": [null, {}]}]}), "<everything> in [any:2] out open");
}

#[test]
fn peers_and_ports() {
    let spec = json!({
        "podSelector": {"matchLabels": {"app": "web"}},
        "ingress": [{
            "from": [{"podSelector": {}}, {"namespaceSelector": {}}, {"ipBlock": {"cidr": "010.1.2.3/8",
            "except": ["10.9.0.0/16"]}}],
            "ports": [{"port": 80}, {"port": "http", "protocol": "UDP"}, {"port": 1, "endPort": 9},
            {"protocol": "SCTP"}],
        }],
    });
    let (policy, diagnostics) =
        convert::network_policy(&json!({"metadata": {"name": "p", "generation": 3, "uid": "u"}, "spec": spec}));
    assert_eq!(diagnostics, []);
    assert_eq!((policy.generation, &*policy.uid, policy.id.to_string().as_str()), (3, "u", "NetworkPolicy default/p"));
    let rule = &policy.rules(Direction::Ingress).unwrap()[0];
    in_order(
        &format!("{:?}", rule.peers),
        &[
            "namespaces: Named(\"default\"), pods: Selector({})",
            "namespaces: Matching(Selector({})), pods: Selector({})",
            "cidr: 10.0.0.0/8, except: [10.9.0.0/16]",
        ],
    );
    in_order(
        &format!("{:?}", rule.ports),
        &[
            "protocol: Protocol(6), first: 80, last: 80",
            "protocol: Some(Protocol(17)), name: \"http\"",
            "protocol: Protocol(6), first: 1, last: 9",
            "protocol: Protocol(132), first: 0, last: 65535",
        ],
    );
}

/// Every part is in the text, in this order.
#[track_caller]
fn in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let at = rest.find(part).unwrap_or_else(|| panic!("no {part:?} in the rest of {text}"));
        rest = &rest[at + part.len()..];
    }
}

#[test]
fn a_rule_with_something_unknown_matches_nothing() {
    let first = "spec.ingress[0]";
    let good = json!({"podSelector": {}});
    for (peer, path) in [
        (json!({}), ""),
        (json!(null), ""),
        (json!("web"), ""),
        (json!({"serviceSelector": {}}), ".serviceSelector"),
        (json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}), ""),
        (json!({"podSelector": {"matchLabel": {"a": "b"}}}), ".podSelector.matchLabel"),
        (
            json!({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}}),
            ".namespaceSelector.matchExpressions[0].operator",
        ),
        (json!({"ipBlock": {}}), ".ipBlock.cidr"),
        (json!({"ipBlock": {"cidr": "10.0.0.0"}}), ".ipBlock.cidr"),
        (json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}}), ".ipBlock.except[0]"),
        (json!({"ipBlock": {"cidr": "10.0.0.0/8", "excepts": []}}), ".ipBlock.excepts"),
    ] {
        let spec = json!({"ingress": [{"from": [good, peer]}, {}]});
        closed(spec, "<everything> in [never any:any] out open", &format!("{first}.from[1]{path}"));
    }
    for (port, path) in [
        (json!(80), ""),
        (json!({"protocol": "ICMP"}), ".protocol"),
        (json!({"protocol": ""}), ".protocol"),
        (json!({"port": 0}), ".port"),
        (json!({"port": 65536}), ".port"),
        (json!({"port": ""}), ".port"),
        (json!({"port": 1.5}), ".port"),
        (json!({"port": true}), ".port"),
        (json!({"port": 9, "endPort": 8}), ".endPort"),
        (json!({"port": "http", "endPort": 8}), ".endPort"),
        (json!({"endPort": 8}), ".endPort"),
        (json!({"port": 9, "endport": 10}), ".endport"),
    ] {
        let spec = json!({"ingress": [{"ports": [{"port": 80}, port]}, {}]});
        closed(spec, "<everything> in [never any:any] out open", &format!("{first}.ports[1]{path}"));
    }
    closed(json!({"ingress": [{"form": [good]}]}), "<everything> in [never] out open", &format!("{first}.form"));
    closed(json!({"ingress": [{"to": [good]}]}), "<everything> in [never] out open", &format!("{first}.to"));
    closed(json!({"ingress": [{"from": good}]}), "<everything> in [never] out open", &format!("{first}.from"));
    closed(json!({"ingress": ["all"]}), "<everything> in [never] out open", first);
}

#[test]
fn a_direction_that_is_not_understood_is_shut() {
    closed(json!({"ingress": {"from": []}}), "<everything> in [] out open", "spec.ingress");
    closed(json!({"egress": "all"}), "<everything> in [] out []", "spec.egress");
    closed(
        json!({"policyTypes": ["egress"], "ingress": [{}]}),
        "<everything> in [any:any] out []",
        "spec.policyTypes[0]",
    );
    closed(json!({"policyTypes": "Egress"}), "<everything> in [] out []", "spec.policyTypes");
}

#[test]
fn an_unknown_field_of_the_specification_shuts_both_directions() {
    let spec = json!({"podSelector": {"matchLabels": {"a": "b"}}, "ingress": [{}], "serviceAccounts": ["x"]});
    closed(spec, "a=b in [never] out []", "spec.serviceAccounts");
    let (policy, diagnostics) =
        convert::network_policy(&json!({"metadata": {"name": "p"}, "spec": {"egress": [{}]}, "more": 1}));
    assert_eq!(diagnostics[0].path.to_string(), "more");
    assert!(policy.rules(Direction::Egress).unwrap()[0].unknown().is_some());
}

#[test]
fn a_subject_that_is_not_understood_is_the_whole_namespace() {
    for (selector, path) in [
        (json!("app=web"), ""),
        (json!({"matchLabels": {"a": 1}}), ".matchLabels[a]"),
        (json!({"matchExpressions": [{"key": "a", "operator": "Like"}]}), ".matchExpressions[0].operator"),
        (json!({"names": ["p"]}), ".names"),
    ] {
        let spec = json!({"podSelector": selector, "ingress": [{}], "policyTypes": ["Ingress"]});
        closed(spec, "<everything> in [] out []", &format!("spec.podSelector{path}"));
    }
    closed(json!([]), "<everything> in [] out []", "spec");
}

/// JSON that looks like a policy in places, and like nothing in others.
fn almost_policy() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "Ingress",
        "Egress",
        "TCP",
        "http",
        "In",
        "Exists",
        "10.0.0.0/8",
        "::/0",
        "a",
        "",
        "-",
        "x/y/z",
        "\u{0}",
        "999.1.1.1/8",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0..70000i64).prop_map(Value::from),
        (-1000..1000i32).prop_map(|number| Value::from(f64::from(number) + 0.5)),
        word.prop_map(Value::from),
        "[ -~äλ☃]{0,8}".prop_map(Value::from),
    ];
    let key = prop::sample::select(vec![
        "metadata",
        "name",
        "namespace",
        "labels",
        "annotations",
        "spec",
        "podSelector",
        "namespaceSelector",
        "ipBlock",
        "cidr",
        "except",
        "matchLabels",
        "matchExpressions",
        "key",
        "operator",
        "values",
        "ingress",
        "egress",
        "from",
        "to",
        "ports",
        "port",
        "endPort",
        "protocol",
        "policyTypes",
        "containers",
        "initContainers",
        "containerPort",
        "status",
        "podIPs",
        "podIP",
        "ip",
        "addresses",
        "address",
        "podCIDRs",
        "template",
        "selector",
        "clusterIP",
        "readinessProbe",
        "httpGet",
        "data",
        "env",
        "image",
        "restartPolicy",
        "hostNetwork",
        "creationTimestamp",
        "ownerReferences",
        "subject",
        "tier",
        "priority",
        "action",
        "pods",
        "namespaces",
        "networks",
        "domainNames",
        "protocols",
        "tcp",
        "destinationPort",
        "portNumber",
        "stranger",
    ]);
    leaf.prop_recursive(8, 96, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|pairs| pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Value>()),
        ]
    })
}

fn has_unknown_rule(policy: &Policy) -> bool {
    [Direction::Ingress, Direction::Egress]
        .into_iter()
        .flat_map(|direction| policy.rules(direction).unwrap_or_default())
        .any(|rule| rule.unknown().is_some())
}

/// True if every rule that matches anything comes from a rule without unknown parts.
fn isolates(policy: &Policy) -> bool {
    policy.ingress.is_some() || policy.egress.is_some()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// No input causes a panic, and a policy always isolates some pod.
    #[test]
    fn any_json_is_read(value in almost_policy(), spec in almost_policy()) {
        let policy = json!({"metadata": {"name": "p"}, "spec": spec});
        for object in [&value, &policy] {
            for kind in Kind::ALL {
                let _ = kind.convert(object);
                let _ = kind.key(object);
            }
            prop_assert!(isolates(&convert::network_policy(object).0));
            for convert in [
                convert::cluster_network_policy,
                convert::admin_network_policy,
                convert::baseline_admin_network_policy,
            ] {
                let (policy, diagnostics) = convert(object);
                prop_assert!(!diagnostics.is_empty() || !has_unknown_rule(&policy), "denied without a word: \
                    {}", object);
            }
            for (api_version, kind) in [
                ("v1", "Namespace"), ("v1", "Pod"), ("v1", "Service"), ("v1", "ConfigMap"), ("apps/v1", "Deployment"),
                ("apps/v1", "ReplicaSet"), ("networking.k8s.io/v1", "NetworkPolicy"), ("v1", "Node"), ("v1", "Event"),
            ] {
                let mut object = object.clone();
                if let Some(fields) = object.as_object_mut() {
                    fields.insert("apiVersion".to_owned(), api_version.into());
                    fields.insert("kind".to_owned(), kind.into());
                }
                for error in validate::object(&object).unwrap_or_default() {
                    prop_assert!(!error.to_string().is_empty());
                }
                let _ = strict::check(&object);
            }
            let _ = validate::service_update(object, &value);
            let _ = validate::workload_update(object, &value);
            let _ = validate::object_meta_update(object, &value);
        }
    }

    /// Validation and conversion agree: an object that the API server accepts is never denied for unknown parts.
    #[test]
    fn what_is_valid_is_understood(spec in common::policy_spec()) {
        let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"},
            "spec": spec});
        let valid = validate::network_policy(&policy).is_empty() && strict::check(&policy) == Some(Vec::new());
        if valid {
            let (_, diagnostics) = convert::network_policy(&policy);
            prop_assert_eq!(diagnostics, vec![], "{}", policy);
        }
    }

    /// Any text is read as manifests, and JSON comes out as it went in.
    #[test]
    fn any_text_is_read(text in ".{0,200}", value in almost_policy()) {
        let mut out = Vec::new();
        Manifests::from_text("m", text).render(&mut out).unwrap();
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}, "x": value});
        let manifests = Manifests::from_text("m", object.to_string());
        prop_assert_eq!(manifests.documents.len(), 1, "{} {:?}", object, manifests.diagnostics);
        prop_assert_eq!(&manifests.documents[0].value, &object);
    }
}
