//! The tables in `vectors/` are true for the reference evaluator and for the plan.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use ringfence_engine::{Plan, Planner, Scope, reference};
use ringfence_k8s::Diagnostic;
use ringfence_k8s::convert::Kind;
use ringfence_model::{Connection, Domain, DomainName, Origin, PodKey, Protocol, World};
use serde_json::Value;

/// The number of numbered cases on the pages.
const CASES: usize = 35;

/// A part of a page: texts under a heading, and tables.
#[derive(Clone, Default)]
struct Section {
    title: String,
    /// Manifests of this section and of those around it.
    manifests: Vec<String>,
    /// The addresses of domain names, as records.
    names: Vec<String>,
    /// The expected diagnostics, sorted: severity, object and field.
    said: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Splits a page at its headings. A section inherits everything but tables from the sections it is in.
fn sections(page: &str, cluster: &Section) -> Vec<Section> {
    let mut sections = Vec::new();
    let mut levels = vec![cluster.clone()];
    let mut current = cluster.clone();
    let mut fence = None;
    for line in page.lines() {
        match (fence, line) {
            (None, "```yaml") => {
                fence = Some("yaml");
                current.manifests.push(String::new());
            }
            (None, _) if line.starts_with("```") => fence = Some(line.trim_start_matches('`')),
            (Some(_), "```") => fence = None,
            (Some("yaml"), _) => {
                let text = current.manifests.last_mut().expect("a manifest has begun");
                text.push_str(line);
                text.push('\n');
            }
            (Some("dns"), _) => current.names.push(line.to_owned()),
            (Some("text"), _) => current.said.push(line.to_owned()),
            (Some(other), _) => panic!("{}: a block of {other}", current.title),
            (None, _) if line.starts_with('#') => {
                let level = line.chars().take_while(|c| *c == '#').count();
                levels.push(Section { rows: Vec::new(), ..current.clone() });
                sections.push(current);
                levels.truncate(level.min(levels.len()));
                current = levels.last().expect("the cluster is there").clone();
                line.trim_start_matches('#').trim().clone_into(&mut current.title);
            }
            (None, _) if line.starts_with('|') => {
                let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
                current.rows.push(cells.collect());
            }
            (None, _) => {}
        }
    }
    sections.push(current);
    sections.retain(|section| !section.rows.is_empty());
    sections
}

/// An end of a connection: an address, a pod, or the host network of a node.
fn end(world: &World, text: &str) -> (IpAddr, Origin) {
    if let Some(node) = text.strip_prefix("the node ") {
        return (world.nodes[node].addresses[0], Origin::Node(node.into()));
    }
    if let Ok(address) = text.parse() {
        return (address, Origin::Elsewhere);
    }
    let (name, v6) = text.strip_suffix(" (IPv6)").map_or((text, false), |name| (name, true));
    let (namespace, name) = name.split_once('/').unwrap_or_else(|| panic!("{text} is no pod, node or address"));
    let pod = world.pods.get(&PodKey { namespace: namespace.into(), name: name.into() });
    let pod = pod.unwrap_or_else(|| panic!("{text} is not there"));
    let address = pod.addresses.iter().find(|address| address.is_ipv6() == v6);
    (*address.unwrap_or_else(|| panic!("{text} has no such address")), Origin::Elsewhere)
}

fn connection(world: &World, from: &str, to: &str, port: &str) -> Connection {
    let (port, established) = port.strip_suffix(" (open)").map_or((port, false), |port| (port, true));
    let (to, translated) = to.strip_suffix(" through a Service").map_or((to, false), |to| (to, true));
    let (protocol, port) = port.split_once(' ').unwrap_or_else(|| panic!("{port} is no protocol and port"));
    let (protocol, port) = match protocol {
        "TCP" => (Protocol::TCP, port),
        "UDP" => (Protocol::UDP, port),
        "SCTP" => (Protocol::SCTP, port),
        "ICMP" => (Protocol::ICMP, port),
        "ICMPv6" => (Protocol::ICMPV6, port),
        "protocol" => (Protocol(port.parse().expect("a protocol number")), "0"),
        _ => panic!("{protocol} is no protocol"),
    };
    let (source, origin) = end(world, from);
    let (destination, _) = end(world, to);
    Connection { source, destination, protocol, port: port.parse().expect("a port"), origin, translated, established }
}

impl Section {
    /// Returns the world of the manifests and names, and the diagnostics of the reader. Later objects replace earlier
    /// ones.
    fn world(&self) -> (World, Vec<String>) {
        let (mut world, mut said) = (World::default(), Vec::new());
        for text in &self.manifests {
            let documents = text.split("---\n").filter(|document| !document.trim().is_empty());
            for document in documents {
                let object: Value = serde_saphyr::from_str(document).unwrap_or_else(|e| panic!("{e}\n{document}"));
                let field = |name: &str| object[name].as_str().unwrap_or_default();
                let kind = Kind::of(field("apiVersion"), field("kind"));
                let kind = kind.unwrap_or_else(|| panic!("{}: policy does not depend on {object}", self.title));
                let (object, diagnostics) = kind.convert(&object);
                world.apply(object);
                said.extend(diagnostics.into_iter().map(|Diagnostic { severity, object, path, .. }| {
                    format!("{severity}: {}: {path}", object.unwrap_or_default())
                }));
            }
        }
        for line in &self.names {
            let (record, inside) = line.strip_suffix(" (inside)").map_or((&**line, false), |record| (record, true));
            let (record, over) = record.strip_suffix(" (over)").map_or((record, false), |record| (record, true));
            let [name, _, address] = record.split(' ').collect::<Vec<_>>()[..] else { panic!("{line} is no record") };
            let name = DomainName::new(name);
            let known = world.domains.entry(name.clone());
            let none = Domain { name, addresses: Vec::new(), lingering: Vec::new(), inside: BTreeSet::new() };
            let known = known.or_insert(none);
            let addresses = if over { &mut known.lingering } else { &mut known.addresses };
            let address = address.parse().expect("an address");
            addresses.push(address);
            known.inside.extend(inside.then_some(address));
        }
        said.sort();
        said.dedup();
        (world, said)
    }

    /// Evaluates every case. Returns the wrong ones, and the number of cases.
    fn check(&self, page: &str) -> (Vec<String>, usize) {
        let title = format!("{page}, {}", self.title);
        let (world, said) = self.world();
        let mut wrong = Vec::new();
        if said != self.said {
            wrong.push(format!("{title}: the reader says\n{}\n, not\n{}", said.join("\n"), self.said.join("\n")));
        }
        let plan = plan(&world);
        let mut asked = 0;
        for row in &self.rows {
            let [from, to, port, verdict, because] = &row[..] else {
                wrong.push(format!("{title}: a row of {} cells: {row:?}", row.len()));
                continue;
            };
            if from == "from" || from.starts_with("---") {
                continue;
            }
            asked += 1;
            let connection = connection(&world, from, to, port);
            let decision = reference::evaluate(&world, &connection);
            let found = if decision.allow() { "accept" } else { "drop" };
            let reason = decision.deciding().reason.to_string();
            let context = format!("{title}: {from} → {to}, {port}");
            if found != verdict || !reason.contains(because.as_str()) {
                wrong.push(format!("{context}: {found} ({reason}), not {verdict} ({because})"));
            }
            let planned = plan.evaluate(&connection);
            if planned != decision {
                wrong.push(format!("{context}: the plan says {planned:?}, the reference {decision:?}"));
            }
        }
        (wrong, asked)
    }

    /// Returns the numbers of the cases in the title: `(case 3)` or `(cases 3, 4)`.
    fn cases(&self) -> impl Iterator<Item = usize> {
        let list = self.title.rsplit_once("(case").and_then(|(_, list)| list.strip_suffix(')')).unwrap_or_default();
        let numbers = list.trim_start_matches('s').split(',');
        numbers.filter_map(|number| number.trim().parse().ok())
    }
}

fn plan(world: &World) -> Plan {
    let mut planner = Planner::new(Scope::Cluster);
    planner.reset(world.objects());
    planner.commit();
    planner.plan()
}

#[test]
fn all_pages_are_true() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).expect("a page");
    let mut pages: Vec<_> = std::fs::read_dir(&directory)
        .expect("the pages are there")
        .map(|entry| entry.expect("a page").file_name().into_string().expect("a name"))
        .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.sort();
    let cluster = sections(&read("README.md"), &Section::default()).pop().expect("the cluster");
    let cluster = Section { rows: Vec::new(), ..cluster };
    let (mut wrong, mut asked, mut cases) = (Vec::new(), 0, BTreeSet::new());
    for page in &pages {
        let base = if page == "README.md" { &Section::default() } else { &cluster };
        for section in sections(&read(page), base) {
            let (more, rows) = section.check(page);
            wrong.extend(more);
            asked += rows;
            cases.extend(section.cases());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(pages.len() >= 11 && asked >= 250, "only {asked} rows on {} pages", pages.len());
    assert_eq!(cases, (1..=CASES).collect(), "every case is stated, and no other");
}
