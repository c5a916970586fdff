//! `docs/worked-example.md` is true: its manifests make the map writes and the verdicts that it lists.
//!
//! With the environment variable `RINGFENCE_WRITE_EXAMPLE` set, the test writes the lists anew instead.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use ringfence_engine::{Delta, Endpoint, IpcacheEntry, PeerSetId, Plan, Planner, PolicyKey, RuleId, RulesetId, Scope};
use ringfence_engine::{port_key, reference};
use ringfence_k8s::manifest::Manifests;
use ringfence_model::{Connection, Object, Origin, Protocol, World};

/// Names of the kernel's maps are defined here.
const MAPS: &str = include_str!("../../datapath/src/bpf/maps.h");
/// The node whose agent the example follows.
const NODE: &str = "node-1";

/// A list of the document: it stands between `<!-- example: NAME -->` and `<!-- end -->`.
struct Listing {
    name: &'static str,
    lines: String,
}

/// Names for ids, in the order in which the example first meets them: ids are hashes, which tell a reader nothing.
#[derive(Default)]
struct Names {
    rulesets: Vec<RulesetId>,
    peer_sets: Vec<PeerSetId>,
    rules: Vec<RuleId>,
}

impl Names {
    /// Takes in what a delta brings: rules by what they say, peer sets by their addresses.
    fn learn(&mut self, delta: &Delta) {
        let mut rules = delta.put_rules.clone();
        rules.sort_by_key(|(_, reason)| reason.to_string());
        add(&mut self.rules, rules.iter().map(|(id, _)| *id).filter(|id| *id != RuleId::DEFAULT));
        let named = |id: &PeerSetId| ![PeerSetId::UNKNOWN, PeerSetId::ANY_POD].contains(id);
        add(&mut self.peer_sets, delta.put_ipcache.iter().map(|(_, entry)| entry.peer_set).filter(named));
        add(&mut self.rulesets, delta.put_policy.iter().map(|(key, _)| key.ruleset));
    }

    fn ruleset(&self, id: RulesetId) -> String {
        if id == RulesetId::NONE { "none".into() } else { format!("ruleset {}", number(&self.rulesets, id)) }
    }

    fn peer_set(&self, id: PeerSetId) -> String {
        match id {
            PeerSetId::UNKNOWN => "unknown".into(),
            PeerSetId::ANY_POD => "any pod".into(),
            id => format!("peer set {}", number(&self.peer_sets, id)),
        }
    }

    fn rule(&self, id: RuleId) -> String {
        if id == RuleId::DEFAULT { "default".into() } else { format!("rule {}", number(&self.rules, id)) }
    }

    /// The order in which entries are listed.
    fn rank(&self, key: PolicyKey) -> (usize, String) {
        let fallback = [PeerSetId::UNKNOWN, PeerSetId::ANY_POD].iter().position(|id| *id == key.peer_set).unwrap_or(2);
        (fallback, self.peer_set(key.peer_set))
    }
}

fn add<T: Copy + PartialEq>(known: &mut Vec<T>, ids: impl Iterator<Item = T>) {
    for id in ids {
        if !known.contains(&id) {
            known.push(id);
        }
    }
}

fn number<T: Copy + PartialEq>(known: &[T], id: T) -> usize {
    1 + known.iter().position(|known| *known == id).expect("what is referred to was written")
}

/// The writes of one delta in the order of its fields, one a line: map, key, value.
fn writes(names: &Names, delta: &Delta) -> String {
    let Delta {
        put_rules,
        put_policy,
        put_ipcache,
        closed_cidrs,
        put_endpoints,
        delete_endpoints,
        delete_ipcache,
        delete_policy,
        delete_rules,
    } = delta;
    let mut lines = Vec::new();
    let mut line = |map: &str, key: String, value: &str| {
        assert!(is_map(map), "no map is called {map}");
        lines.push(format!("{map:<13} {key:<26} {value}").trim_end().to_owned());
    };
    let mut rules: Vec<_> = put_rules.iter().filter(|(id, _)| *id != RuleId::DEFAULT).collect();
    rules.sort_by_key(|(id, _)| names.rule(*id));
    for (id, reason) in rules {
        line("rule_counters", names.rule(*id), &format!("0 packets   ({reason})"));
    }
    let mut entries: Vec<_> = put_policy.iter().collect();
    entries.sort_by_key(|(key, _)| names.rank(*key));
    let mut tables = Vec::new();
    add(&mut tables, entries.iter().map(|(_, table)| table));
    for table in &tables {
        for point in table.ranges() {
            let verdict = if point.allow { "allow" } else { "deny" };
            let protocol = Protocol(u8::try_from(point.key >> 16).expect("24 bits"));
            let from = if point.key == 0 { "0".to_owned() } else { format!("{protocol} {}", point.key & 0xffff) };
            let key = format!("table {}, from {from}", number(&tables, table));
            line("port_ranges", key, &format!("{verdict} by {}", names.rule(point.rule_id)));
        }
    }
    for (key, table) in &entries {
        let place = format!("{}, {}", names.ruleset(key.ruleset), names.peer_set(key.peer_set));
        line("policy", place, &format!("table {}", number(&tables, table)));
    }
    for (net, peer) in put_ipcache {
        let IpcacheEntry { peer_set, fallback, .. } = *peer;
        let value = format!("{}, else {}", names.peer_set(peer_set), names.peer_set(fallback));
        line(map_of(net), net.to_string(), &value);
    }
    for cidr in closed_cidrs.iter().flatten() {
        line("closed_cidrs", cidr.to_string(), "closed");
    }
    for (address, endpoint) in put_endpoints {
        let Endpoint { pod, ingress, egress, .. } = endpoint;
        let value = format!("in: {}, out: {}   ({pod})", names.ruleset(*ingress), names.ruleset(*egress));
        line("endpoints", address.to_string(), &value);
    }
    for address in delete_endpoints {
        line("endpoints", address.to_string(), "deleted");
    }
    for net in delete_ipcache {
        line(map_of(net), net.to_string(), "deleted");
    }
    line("config", "epoch".into(), "+ 1");
    let mut gone = delete_policy.clone();
    gone.sort_by_key(|key| names.rank(*key));
    for key in gone {
        line("policy", format!("{}, {}", names.ruleset(key.ruleset), names.peer_set(key.peer_set)), "deleted");
    }
    let mut gone: Vec<_> = delete_rules.iter().filter(|id| **id != RuleId::DEFAULT).collect();
    gone.sort_by_key(|id| names.rule(**id));
    for id in gone {
        line("rule_counters", names.rule(*id), "deleted");
    }
    lines.join("\n")
}

/// The map that a peer is in.
fn map_of(net: &IpNet) -> &'static str {
    if net.prefix_len() == net.max_prefix_len() { "ipcache" } else { "ipcache_cidrs" }
}

/// Whether the kernel program has a map of that name.
fn is_map(name: &str) -> bool {
    MAPS.contains(&format!("({name}, ")) || MAPS.contains(&format!("}} {name} SEC("))
}

/// The objects of the block of YAML that follows a mark.
fn manifest(document: &str, name: &str) -> Vec<Object> {
    let (_, rest) = document.split_once(&format!("<!-- example: {name} -->\n```yaml\n")).expect("a block of YAML");
    let (yaml, _) = rest.split_once("\n```").expect("its end");
    let manifests = Manifests::from_text(name, format!("{yaml}\n"));
    assert!(manifests.diagnostics.is_empty(), "{:?}", manifests.diagnostics);
    manifests.documents.iter().filter_map(|document| document.object.clone()).collect()
}

/// What the example's packets meet: by the plan, which has to agree with the reference evaluator.
fn verdicts(names: &Names, world: &World, plan: &Plan) -> String {
    let server = IpAddr::from([10, 245, 1, 2]);
    let senders: [IpAddr; 4] =
        [[10, 245, 2, 3].into(), [192, 0, 2, 7].into(), [192, 0, 2, 200].into(), [198, 51, 100, 1].into()];
    let mut lines =
        vec!["| from | TCP port | looked up in `policy` | verdict |".to_owned(), "|---|--:|---|---|".into()];
    for source in senders {
        for port in [80, 443] {
            let connection = Connection {
                source,
                destination: server,
                protocol: Protocol::TCP,
                port,
                origin: Origin::Elsewhere,
                translated: false,
                established: false,
            };
            let verdict = plan.evaluate_direction(&connection, ringfence_model::Direction::Ingress);
            assert_eq!(verdict, reference::evaluate_direction(world, &connection, ringfence_model::Direction::Ingress));
            let (own, peer) = (plan.endpoints[&server].ingress, plan.peer_set(source));
            let found = plan.lookup(
                own,
                IpcacheEntry { fallback: peer.peer_set, ..peer },
                false,
                port_key(Protocol::TCP, port),
            );
            let set = names.peer_set(peer.peer_set);
            let found = if found.is_some() { set } else { format!("{set}, then {}", names.peer_set(peer.fallback)) };
            let said = if verdict.allow { "allow" } else { "deny" };
            lines.push(format!("| {source} | {port} | {found} | {said}: {} |", verdict.reason));
        }
    }
    lines.join("\n")
}

/// The writes of a commit; its deltas are an empty line apart.
fn listing(names: &mut Names, deltas: Vec<Delta>) -> String {
    let written = deltas.into_iter().map(|delta| {
        let delta = delta.sorted();
        names.learn(&delta);
        writes(names, &delta)
    });
    written.collect::<Vec<_>>().join("\n\n")
}

/// Everything that the document lists.
fn listings(document: &str) -> Vec<Listing> {
    let mut planner = Planner::new(Scope::Node(NODE.into()));
    let mut world = World::default();
    let mut listings = Vec::new();
    let mut names = Names::default();
    for object in manifest(document, "cluster") {
        world.apply(object.clone());
        planner.apply(object);
    }
    listings.push(Listing { name: "writes for the cluster", lines: listing(&mut names, planner.commit()) });
    let policy = manifest(document, "policy").remove(0);
    world.apply(policy.clone());
    planner.apply(policy.clone());
    listings.push(Listing { name: "writes for the policy", lines: listing(&mut names, planner.commit()) });
    listings.push(Listing { name: "verdicts", lines: verdicts(&names, &world, &planner.plan()) });
    planner.delete(&policy.key());
    listings.push(Listing { name: "writes when the policy is deleted", lines: listing(&mut names, planner.commit()) });
    listings
}

/// The document with these lists.
fn with(document: &str, listings: &[Listing]) -> String {
    let mut text = document.to_owned();
    for Listing { name, lines } in listings {
        let mark = format!("<!-- example: {name} -->\n");
        let (head, rest) = text.split_once(&mark).unwrap_or_else(|| panic!("the document lacks {mark}"));
        let (_, tail) = rest.split_once("<!-- end -->").expect("the end of a list");
        let body = if lines.starts_with('|') { lines.clone() } else { format!("```text\n{lines}\n```") };
        text = format!("{head}{mark}{body}\n<!-- end -->{tail}");
    }
    text
}

#[test]
fn the_worked_example_lists_the_writes_that_its_manifests_make() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/worked-example.md");
    let document = std::fs::read_to_string(&path).expect("the document");
    let made = with(&document, &listings(&document));
    if std::env::var_os("RINGFENCE_WRITE_EXAMPLE").is_some() {
        std::fs::write(&path, &made).expect("the document can be written");
    } else {
        assert_eq!(document, made, "RINGFENCE_WRITE_EXAMPLE=1 makes this test write the lists");
    }
}
