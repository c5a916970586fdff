//! The cluster-wide kinds: the meaning of each field, and the denial if it is not understood.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::needless_pass_by_value, reason = "calls read better with a bare json!(…)")]

use ringfence_k8s::convert::Kind;
use ringfence_k8s::{Diagnostic, Severity};
use ringfence_model::{
    Action, Direction, NamespaceSelection, Object, Peer, Peers, PodSelection, Policy, PortMatch, Ports, Rule, Tier,
};
use serde_json::{Value, json};

fn convert(kind: Kind, name: &str, spec: Value) -> (Policy, Vec<Diagnostic>) {
    let (object, diagnostics) = kind.convert(&json!({"metadata": {"name": name}, "spec": spec}));
    let Object::Policy(policy) = object else { panic!("{object:?}") };
    assert_eq!(Object::Policy(policy.clone()).key(), kind.key(&json!({"metadata": {"name": name}})));
    for diagnostic in &diagnostics {
        assert_eq!(diagnostic.object.as_deref(), Some(format!("{} {name}", kind.resource().kind).as_str()));
        assert!(!diagnostic.message.is_empty() && diagnostic.hint.is_some(), "{diagnostic:?}");
    }
    (policy, diagnostics)
}

/// Returns the policy in short, and the paths of diagnostics; those of warnings with a `?`.
fn short(kind: Kind, spec: Value) -> (String, Vec<String>) {
    let (policy, diagnostics) = convert(kind, "default", spec);
    let tier = match policy.tier {
        Tier::Admin => "admin",
        Tier::NetworkPolicy => "networkpolicy",
        Tier::Baseline => "baseline",
    };
    let rules = |direction| policy.rules(direction).unwrap().iter().map(rule).collect::<Vec<_>>().join("; ");
    let (ingress, egress) = (rules(Direction::Ingress), rules(Direction::Egress));
    let text = format!("{tier} {} {} in [{ingress}] out [{egress}]", policy.priority, pods(&policy.subject));
    let path = |diagnostic: &Diagnostic| match diagnostic.severity {
        Severity::Error => diagnostic.path.to_string(),
        Severity::Warning => format!("{}?", diagnostic.path),
    };
    (text, diagnostics.iter().map(path).collect())
}

fn rule(rule: &Rule) -> String {
    let name = rule.name.as_ref().map_or(String::new(), |name| format!("{name}: "));
    let action = match &rule.action {
        Action::Accept => "accept",
        Action::Deny => "deny",
        Action::Pass => "pass",
        Action::Unknown(_) => "unknown",
    };
    match (rule.unknown(), &rule.action) {
        (Some(_), Action::Accept) => return format!("{name}never"),
        (Some(_), _) => return format!("{name}deny-all"),
        (None, _) => {}
    }
    let Peers::List(peers) = &rule.peers else { return format!("{name}{action} any") };
    let peers = peers.iter().map(peer).collect::<Vec<_>>().join(",");
    let ports = match &rule.ports {
        Ports::Any => String::new(),
        Ports::List(ports) => format!(" {}", ports.iter().map(port).collect::<Vec<_>>().join(",")),
    };
    format!("{name}{action} {peers}{ports}")
}

fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Pods(selection) => pods(selection),
        Peer::Block(block) => block.cidr().to_string(),
        Peer::Nodes(selector) => format!("nodes {selector}"),
        Peer::Domain(pattern) => pattern.to_string(),
        Peer::Unknown(_) => "unknown".to_owned(),
    }
}

fn port(port: &PortMatch) -> String {
    match port {
        PortMatch::Range(range) => format!("{}/{}-{}", range.protocol, range.first, range.last),
        PortMatch::Named { protocol, name } => {
            format!("{}/{name}", protocol.map_or("any".to_owned(), |protocol| protocol.to_string()))
        }
        PortMatch::Unknown(_) => "unknown".to_owned(),
    }
}

fn pods(selection: &PodSelection) -> String {
    let all = |selector: String| if selector == "<everything>" { "*".to_owned() } else { selector };
    let namespaces = match &selection.namespaces {
        NamespaceSelection::Named(name) => format!("named {name}"),
        NamespaceSelection::Matching(selector) => all(selector.to_string()),
    };
    format!("{namespaces}/{}", all(selection.pods.to_string()))
}

/// A v1alpha2 specification with these changes.
fn cluster(changes: Value) -> Value {
    let mut spec = json!({"tier": "Admin", "priority": 10, "subject": {"namespaces": {"matchLabels": {"s": "1"}}}});
    merge(&mut spec, changes);
    spec
}

fn merge(spec: &mut Value, changes: Value) {
    for (key, value) in changes.as_object().unwrap() {
        spec[key] = value.clone();
    }
}

#[track_caller]
fn check(spec: Value, expect: &str) {
    closed(spec, expect, &[]);
}

#[track_caller]
fn closed(spec: Value, expect: &str, paths: &[&str]) {
    let (found, said) = short(Kind::ClusterNetworkPolicy, spec.clone());
    assert_eq!((found.as_str(), said.as_slice()), (expect, strings(paths).as_slice()), "{spec}");
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

/// The rule alone, of an egress list.
#[track_caller]
fn egress(rule: Value, expect: &str, paths: &[&str]) {
    let paths: Vec<_> = paths.iter().map(|path| format!("spec.egress[0]{path}")).collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    closed(cluster(json!({"egress": [rule]})), &format!("admin 10 s=1/* in [] out [{expect}]"), &paths);
}

const PEER: &str = r#"{"namespaces": {}}"#;

fn peer_of_all() -> Value {
    serde_json::from_str(PEER).unwrap()
}

#[test]
fn tiers_priorities_and_subjects() {
    check(cluster(json!({})), "admin 10 s=1/* in [] out []");
    check(cluster(json!({"tier": "Baseline", "priority": 0})), "baseline 0 s=1/* in [] out []");
    check(cluster(json!({"priority": 1000, "ingress": [], "egress": null})), "admin 1000 s=1/* in [] out []");
    check(cluster(json!({"subject": {"namespaces": {}}})), "admin 10 */* in [] out []");
    let pods = json!({"pods": {"podSelector": {"matchLabels": {"app": "web"}}}});
    check(cluster(json!({"subject": pods})), "admin 10 */app=web in [] out []");
    let pods = json!({"pods": {"namespaceSelector": {"matchLabels": {"s": "2"}}, "podSelector": {}}});
    check(cluster(json!({"subject": pods})), "admin 10 s=2/* in [] out []");
}

#[test]
fn rules_keep_their_order_and_names() {
    let rule = |action: &str, direction: &str| json!({"name": action, "action": action, direction: [peer_of_all()]});
    let three = |direction: &str| ["Pass", "Deny", "Accept"].map(|action| rule(action, direction));
    let expect = "Pass: pass */*; Deny: deny */*; Accept: accept */*";
    check(
        cluster(json!({"ingress": three("from"), "egress": three("to")})),
        &format!("admin 10 s=1/* in [{expect}] out [{expect}]"),
    );
}

#[test]
fn every_peer() {
    let peers = json!([
        {"namespaces": {"matchLabels": {"a": "b"}}},
        {"pods": {"podSelector": {"matchLabels": {"c": "d"}}}},
        {"networks": ["10.1.2.3/8", "fd00::/64"]},
        {"nodes": {"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}},
        {"domainNames": ["*.Example.com", "example.com."]},
    ]);
    egress(
        json!({"action": "Accept", "to": peers}),
        "accept a=b/*,*/c=d,10.0.0.0/8,fd00::/64,nodes gpu,*.example.com,example.com",
        &[],
    );
    let from = json!({"ingress": [{"action": "Deny", "from": [{"networks": ["10.0.0.0/8"]}]}]});
    closed(cluster(from), "admin 10 s=1/* in [deny-all] out []", &["spec.ingress[0].from[0].networks"]);
}

#[test]
fn every_protocol() {
    let protocols = json!([
        {"tcp": {"destinationPort": {"number": 80}}},
        {"udp": {"destinationPort": {"range": {"start": 1, "end": 9}}}},
        {"sctp": {}},
        {"tcp": {"destinationPort": null}},
        {"destinationNamedPort": "web"},
    ]);
    egress(
        json!({"action": "Deny", "to": [peer_of_all()], "protocols": protocols}),
        "deny */* TCP/80-80,UDP/1-9,SCTP/0-65535,TCP/0-65535,any/web",
        &[],
    );
    egress(json!({"action": "Pass", "to": [peer_of_all()], "protocols": null}), "pass */*", &[]);
}

#[test]
fn a_peer_that_is_not_understood() {
    for (peer, path) in [
        (json!({}), ""),
        (json!(null), ""),
        (json!("web"), ""),
        (json!({"services": {}}), ".services"),
        (json!({"namespaces": null}), ""),
        (json!({"namespaces": {}, "nodes": {}}), ""),
        (json!({"namespaces": {"matchLabel": {}}}), ".namespaces.matchLabel"),
        (json!({"pods": {}}), ".pods.podSelector"),
        (json!({"pods": {"podSelector": {}, "names": []}}), ".pods.names"),
        (json!({"networks": []}), ".networks"),
        (json!({"networks": ["10.0.0.1"]}), ".networks[0]"),
        (json!({"networks": "10.0.0.0/8"}), ".networks"),
        (json!({"nodes": "all"}), ".nodes"),
        (
            json!({"nodes": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}),
            ".nodes.matchExpressions[0].operator",
        ),
    ] {
        let path = format!(".to[1]{path}");
        for (action, expect) in [("Accept", "never"), ("Deny", "deny-all"), ("Pass", "deny-all")] {
            egress(json!({"action": action, "to": [peer_of_all(), peer]}), expect, &[&path]);
        }
    }
    for domain in ["com", "*", "*.", "*.com", "a..b", ".a.b", "a.*.b", "", "a.b.."] {
        egress(json!({"action": "Accept", "to": [{"domainNames": [domain]}]}), "never", &[".to[0].domainNames[0]"]);
    }
    for to in [json!([]), json!(null), json!({"namespaces": {}})] {
        egress(json!({"action": "Accept", "to": to}), "never", &[".to"]);
        egress(json!({"action": "Deny", "to": to}), "deny-all", &[".to"]);
    }
}

#[test]
fn a_protocol_that_is_not_understood() {
    for (protocol, path) in [
        (json!({}), ""),
        (json!({"tcp": null}), ""),
        (json!({"icmp": {}}), ".icmp"),
        (json!({"tcp": {}, "udp": {}}), ""),
        (json!({"tcp": {"sourcePort": {}}}), ".tcp.sourcePort"),
        (json!({"tcp": {"destinationPort": {}}}), ".tcp.destinationPort"),
        (json!({"tcp": {"destinationPort": 80}}), ".tcp.destinationPort"),
        (json!({"tcp": {"destinationPort": {"number": 0}}}), ".tcp.destinationPort.number"),
        (json!({"udp": {"destinationPort": {"number": 65536}}}), ".udp.destinationPort.number"),
        (json!({"udp": {"destinationPort": {"number": 1, "range": {}}}}), ".udp.destinationPort"),
        (json!({"sctp": {"destinationPort": {"range": {"start": 2, "end": 1}}}}), ".sctp.destinationPort.range.end"),
        (json!({"sctp": {"destinationPort": {"range": {"start": 2}}}}), ".sctp.destinationPort.range.end"),
        (json!({"destinationNamedPort": ""}), ".destinationNamedPort"),
        (json!({"destinationNamedPort": 80}), ".destinationNamedPort"),
    ] {
        let path = format!(".protocols[1]{path}");
        for (action, expect) in [("Accept", "never"), ("Deny", "deny-all"), ("Pass", "deny-all")] {
            let rule = json!({"action": action, "to": [peer_of_all()], "protocols": [{"tcp": {}}, protocol]});
            egress(rule, expect, &[&path]);
        }
    }
    for protocols in [json!([]), json!({"tcp": {}})] {
        egress(json!({"action": "Accept", "to": [peer_of_all()], "protocols": protocols}), "never", &[".protocols"]);
    }
}

#[test]
fn an_action_or_a_rule_that_is_not_understood() {
    for action in [json!("Allow"), json!("deny"), json!(null), json!(1)] {
        egress(json!({"action": action, "to": [peer_of_all()]}), "deny-all", &[".action"]);
    }
    egress(json!({"action": "Accept", "to": [peer_of_all()], "log": true}), "never", &[".log"]);
    egress(json!({"action": "Deny", "from": [peer_of_all()]}), "deny-all", &[".from", ".to"]);
    egress(json!("deny"), "deny-all", &["", ".to"]);
    egress(json!({"action": "Deny", "to": [peer_of_all()], "name": 7}), "deny */*", &[".name"]);
    closed(cluster(json!({"egress": {}})), "admin 10 s=1/* in [] out [deny-all]", &["spec.egress"]);
}

#[test]
fn names_are_not_for_addresses() {
    let rule = |action: &str, peer: Value| {
        json!({"action": action, "to": [peer_of_all(), peer],
        "protocols": [{"destinationNamedPort": "web"}]})
    };
    for (peer, text) in [
        (json!({"networks": ["10.0.0.0/8"]}), "10.0.0.0/8"),
        (json!({"nodes": {}}), "nodes <everything>"),
        (json!({"domainNames": ["a.b"]}), "a.b"),
    ] {
        egress(rule("Accept", peer.clone()), &format!("accept */*,{text} any/web"), &[".protocols?"]);
        let mut paths = vec![".protocols"];
        if peer.get("domainNames").is_some() {
            paths.insert(0, ".to[1].domainNames");
        }
        egress(rule("Deny", peer.clone()), "deny-all", &paths);
        egress(rule("Pass", peer), "deny-all", &paths);
    }
}

#[test]
fn domain_names_are_only_accepted() {
    let rule = |action: &str| json!({"action": action, "to": [{"domainNames": ["a.b", "c.d"]}]});
    egress(rule("Accept"), "accept a.b,c.d", &[]);
    egress(rule("Deny"), "deny-all", &[".to[0].domainNames"]);
    egress(rule("Pass"), "deny-all", &[".to[0].domainNames"]);
}

#[test]
fn a_policy_that_is_not_understood() {
    let rules = json!([{"action": "Accept", "to": [peer_of_all()]}, {"action": "Pass", "to": [peer_of_all()]}]);
    let wrong = |changes: Value, head: &str, path: &str| {
        let mut spec = cluster(json!({"egress": rules}));
        merge(&mut spec, changes);
        closed(spec, &format!("{head} in [] out [never; deny-all]"), &[path]);
    };
    wrong(json!({"subject": null}), "admin 10 */*", "spec.subject");
    wrong(json!({"subject": {"serviceAccounts": {}}}), "admin 10 */*", "spec.subject.serviceAccounts");
    wrong(json!({"subject": {"pods": {}, "namespaces": {}}}), "admin 10 */*", "spec.subject");
    wrong(json!({"subject": {"pods": {"namespaceSelector": {}}}}), "admin 10 */*", "spec.subject.pods.podSelector");
    wrong(json!({"tier": "Later"}), "admin 10 s=1/*", "spec.tier");
    wrong(json!({"tier": null}), "admin 10 s=1/*", "spec.tier");
    wrong(json!({"tier": "Baseline", "priority": 1001}), "baseline 0 s=1/*", "spec.priority");
    wrong(json!({"priority": "10"}), "admin 0 s=1/*", "spec.priority");
    wrong(json!({"schedule": "nights"}), "admin 10 s=1/*", "spec.schedule");
    closed(json!("all"), "admin 0 */* in [deny-all] out [deny-all]", &["spec"]);
    closed(json!(null), "admin 0 */* in [] out []", &["spec.tier", "spec.priority", "spec.subject"]);
}

#[test]
fn the_older_kinds() {
    let rules = json!([
        {"name": "n", "action": "Allow", "to": [{"networks": ["10.0.0.0/8"]}, {"nodes": {}}], "ports": [
            {"portNumber": {"port": 80}},
            {"portNumber": {"port": 53, "protocol": "UDP"}},
            {"portRange": {"start": 5, "end": 5, "protocol": "SCTP"}},
        ]},
        {"action": "Deny", "to": [{"pods": {"namespaceSelector": {}, "podSelector": {}}}],
        "ports": [{"namedPort": "web"}]},
    ]);
    let expect = "n: accept 10.0.0.0/8,nodes <everything> TCP/80-80,UDP/53-53,SCTP/5-5; deny */* any/web";
    let spec = json!({"priority": 7, "subject": {"namespaces": {}}, "egress": rules});
    let found = short(Kind::AdminNetworkPolicy, spec);
    assert_eq!(found, (format!("admin 7 */* in [] out [{expect}]"), vec![]));
    let spec = json!({"subject": {"namespaces": {}}, "egress": rules});
    let found = short(Kind::BaselineAdminNetworkPolicy, spec);
    assert_eq!(found, (format!("baseline 1001 */* in [] out [{expect}]"), vec![]));
}

#[test]
fn what_the_older_kinds_do_not_have() {
    let one = |kind: Kind, rule: Value, expect: &str, path: &str| {
        let mut spec = json!({"subject": {"namespaces": {}}, "egress": [rule]});
        if kind == Kind::AdminNetworkPolicy {
            spec["priority"] = 1.into();
        }
        let (text, paths) = short(kind, spec);
        assert!(text.ends_with(&format!(" out [{expect}]")), "{text}");
        assert_eq!(paths, [format!("spec.egress[0]{path}")]);
    };
    let (admin, baseline) = (Kind::AdminNetworkPolicy, Kind::BaselineAdminNetworkPolicy);
    one(admin, json!({"action": "Accept", "to": [peer_of_all()]}), "deny-all", ".action");
    one(baseline, json!({"action": "Pass", "to": [peer_of_all()]}), "deny-all", ".action");
    one(admin, json!({"action": "Allow", "to": [peer_of_all()], "protocols": []}), "never", ".protocols");
    one(admin, json!({"action": "Deny", "to": [{"domainNames": ["a.b"]}]}), "deny-all", ".to[0].domainNames");
    one(baseline, json!({"action": "Allow", "to": [{"domainNames": ["a.b"]}]}), "never", ".to[0].domainNames");
    one(
        admin,
        json!({"action": "Allow", "to": [{"pods": {"podSelector": {}}}]}),
        "never",
        ".to[0].pods.namespaceSelector",
    );
    let ports = json!([{"portNumber": {"port": 80, "protocol": "tcp"}}]);
    one(
        admin,
        json!({"action": "Deny", "to": [peer_of_all()], "ports": ports}),
        "deny-all",
        ".ports[0].portNumber.protocol",
    );
    let (_, said) = convert(baseline, "other", json!({"subject": {"namespaces": {}}}));
    assert_eq!((said[0].severity, said[0].path.to_string().as_str()), (Severity::Warning, "metadata.name"));
}
