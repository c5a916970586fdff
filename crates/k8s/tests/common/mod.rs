//! Generated policies that are right in most places.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::BoxedStrategy;
use serde_json::{Map, Value, json};

/// The specification of a policy: mostly valid, with a mistake here and there.
pub(crate) fn policy_spec() -> impl Strategy<Value = Value> {
    fields(vec![
        ("podSelector", selector()),
        (
            "policyTypes",
            list(choice(&["\"Ingress\"", "\"Egress\"", "\"Ingress\"", "\"Egress\"", "\"egress\"", "\"\"", "null"]), 3),
        ),
        ("ingress", list(rule("from"), 3)),
        ("egress", list(rule("to"), 3)),
    ])
}

fn rule(peers: &'static str) -> BoxedStrategy<Value> {
    fields(vec![(peers, list(peer(), 3)), ("ports", list(port(), 3))])
}

fn peer() -> BoxedStrategy<Value> {
    let cidr = [
        "\"10.0.0.0/8\"",
        "\"10.1.2.3/16\"",
        "\"010.1.0.0/16\"",
        "\"::/0\"",
        "\"fd00::/64\"",
        "\"0.0.0.0/0\"",
        "\"::ffff:10.0.0.0/104\"",
        "\"10.0.0.0\"",
        "\"10.0.0.0/33\"",
        "\"\"",
        "null",
        "\"10.0.0.0/08\"",
        "\"fd00::/129\"",
        "\"x/8\"",
        "\"fe80::1%eth0/64\"",
        "\"10.0.0/8\"",
    ];
    let except = [
        "\"10.1.0.0/16\"",
        "\"10.1.2.0/24\"",
        "\"10.0.0.0/8\"",
        "\"fd00::/80\"",
        "\"10.1.2.3/32\"",
        "\"11.0.0.0/8\"",
        "\"bad\"",
        "\"\"",
        "null",
        "\"::/0\"",
    ];
    let block = || fields(vec![("cidr", choice(&cidr)), ("except", list(choice(&except), 2))]);
    prop_oneof![
        3 => selector().prop_map(|selector| json!({"podSelector": selector})),
        3 => selector().prop_map(|selector| json!({"namespaceSelector": selector})),
        2 => (selector(), selector()).prop_map(|(pods, namespaces)| json!({"podSelector": pods,
            "namespaceSelector": namespaces})),
        4 => block().prop_map(|block| json!({"ipBlock": block})),
        1 => (selector(), block()).prop_map(|(pods, block)| json!({"podSelector": pods, "ipBlock": block})),
        1 => choice(&["{}", "null"]),
    ]
    .boxed()
}

fn port() -> BoxedStrategy<Value> {
    fields(vec![
        ("protocol", choice(&["\"TCP\"", "\"UDP\"", "\"SCTP\"", "null", "\"TCP\"", "\"tcp\"", "\"\""])),
        (
            "port",
            choice(&[
                "80", "1", "65535", "\"http\"", "443", "null", "0", "65536", "-1", "\"\"", "\"8080\"", "\"a--b\"",
                "\"Web\"",
            ]),
        ),
        ("endPort", choice(&["null", "null", "8080", "65535", "79", "0", "65536"])),
    ])
}

fn selector() -> BoxedStrategy<Value> {
    let value = ["\"web\"", "\"\"", "null", "\"a.b_c\"", "\"-bad\"", "\"a b\""];
    let key = select(vec!["app", "example.com/role", "app", "a b", "/x", "", "x/y/z", "UPPER.com/x"]);
    let labels = prop::collection::vec((key, choice(&value)), 0..3)
        .prop_map(|pairs| pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Value>());
    let expression = fields(vec![
        ("key", choice(&["\"app\"", "\"tier\"", "\"app\"", "\"\"", "\"a b\"", "null"])),
        ("operator", choice(&["\"In\"", "\"NotIn\"", "\"Exists\"", "\"DoesNotExist\"", "\"in\"", "\"\""])),
        ("values", list(choice(&value), 2)),
    ]);
    let whole = fields(vec![("matchLabels", labels.boxed()), ("matchExpressions", list(expression, 2))]);
    prop_oneof![4 => whole, 1 => choice(&["{}"])].boxed()
}

fn choice(json: &[&str]) -> BoxedStrategy<Value> {
    let values: Vec<Value> = json.iter().map(|text| serde_json::from_str(text).expect("a JSON literal")).collect();
    // Earlier values are chosen more often: the invalid ones are at the end.
    let half = select(values[..values.len().div_ceil(2)].to_vec());
    prop_oneof![3 => half, 1 => select(values)].boxed()
}

fn list(item: BoxedStrategy<Value>, most: usize) -> BoxedStrategy<Value> {
    prop::collection::vec(item, 0..=most).prop_map(Value::from).boxed()
}

/// An object with some of these fields.
fn fields(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let each: Vec<_> = fields
        .into_iter()
        .map(|(name, value)| {
            prop::option::weighted(0.7, value).prop_map(move |value| value.map(|value| (name.to_owned(), value)))
        })
        .collect();
    each.prop_map(|fields| Value::Object(fields.into_iter().flatten().collect::<Map<_, _>>())).boxed()
}
