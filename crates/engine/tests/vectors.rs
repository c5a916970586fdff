//! The pages of `vectors/` are true: of the reference evaluator and of the plan.

mod manifests;

use std::net::IpAddr;
use std::path::Path;

use ringfence_engine::{Plan, Planner, Scope, reference};
use ringfence_model::{Connection, Origin, PodKey, Protocol, World};

/// A page: texts of manifests and tables under headings.
#[derive(Default)]
struct Section {
    title: String,
    /// Manifests of this section and of those around it.
    manifests: String,
    rows: Vec<Vec<String>>,
}

/// Splits a page at its headings. A section inherits the manifests of the sections it is in.
fn sections(page: &str, cluster: &str) -> Vec<Section> {
    let mut sections = Vec::new();
    let mut levels = vec![cluster.to_owned()];
    let mut current = Section { manifests: cluster.to_owned(), ..Section::default() };
    let mut in_yaml = false;
    for line in page.lines() {
        match line {
            "```yaml" => {
                in_yaml = true;
                current.manifests.push_str("\n---\n");
            }
            "```" => in_yaml = false,
            _ if in_yaml => {
                current.manifests.push_str(line);
                current.manifests.push('\n');
            }
            _ if line.starts_with('#') => {
                let level = line.chars().take_while(|c| *c == '#').count();
                levels.push(current.manifests.clone());
                sections.push(std::mem::take(&mut current));
                levels.truncate(level.min(levels.len()));
                line.trim_start_matches('#').trim().clone_into(&mut current.title);
                current.manifests.clone_from(levels.last().expect("the cluster is there"));
            }
            _ if line.starts_with('|') => {
                let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
                current.rows.push(cells.collect());
            }
            _ => {}
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
    let pod = &world.pods[&PodKey { namespace: namespace.into(), name: name.into() }];
    let address = pod.addresses.iter().find(|address| address.is_ipv6() == v6);
    (*address.unwrap_or_else(|| panic!("{text} has no such address")), Origin::Elsewhere)
}

fn connection(world: &World, from: &str, to: &str, port: &str) -> Connection {
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
    Connection { source, destination, protocol, port: port.parse().expect("a port"), origin, translated }
}

/// Asks everything of a section. Returns what is wrong, and how much was asked.
fn check(page: &str, section: &Section) -> (Vec<String>, usize) {
    let world = match manifests::world(&section.manifests) {
        Ok(world) => world,
        Err(error) => return (vec![format!("{page}, {}: {error}", section.title)], 0),
    };
    let mut wrong = Vec::new();
    let plan = plan(&world);
    let mut asked = 0;
    for row in &section.rows {
        let [from, to, port, verdict, because] = &row[..] else {
            wrong.push(format!("{page}, {}: a row of {} cells: {row:?}", section.title, row.len()));
            continue;
        };
        if from == "from" || from.starts_with("---") {
            continue;
        }
        asked += 1;
        let connection = connection(&world, from, to, port);
        let decision = reference::decide(&world, &connection);
        let found = if decision.allow() { "accept" } else { "drop" };
        let reason = decision.deciding().reason.to_string();
        let context = format!("{page}, {}: {from} → {to}, {port}", section.title);
        if found != verdict || !reason.contains(because.as_str()) {
            wrong.push(format!("{context}: {found} ({reason}), not {verdict} ({because})"));
        }
        let planned = plan.decide(&connection);
        if planned != decision {
            wrong.push(format!("{context}: the plan says {planned:?}, the reference {decision:?}"));
        }
    }
    (wrong, asked)
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
    let cluster = sections(&read("README.md"), "").pop().expect("the cluster").manifests;
    let (mut wrong, mut asked) = (Vec::new(), 0);
    for page in &pages {
        let base = if page == "README.md" { "" } else { &cluster };
        for section in sections(&read(page), base) {
            let (more, rows) = check(page, &section);
            wrong.extend(more);
            asked += rows;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(pages.len() >= 7 && asked >= 100, "only {asked} rows on {} pages", pages.len());
}
