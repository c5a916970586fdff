//! `ringfence status`: of the cluster, or of this node alone.

mod cluster;

use std::time::Duration;

use ringfence_api::client::Client;
use ringfence_api::{FqdnCache, ObjectDiagnostic, Status};
use ringfence_console::exit::Code;
use ringfence_console::output::{self, or_none, table};

use crate::args::{Format, Socket};
use crate::cluster::{Target, block_on, duration, exists};

/// Remarks about objects that are printed where not everything was asked for.
const REMARKS: usize = 10;

/// `ringfence status`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    socket: Socket,
    /// Ask every agent of the cluster, also where one listens on this machine
    #[arg(long)]
    cluster: bool,
    /// Wait until every node is ready and every policy is enforced on all
    #[arg(long)]
    wait: bool,
    /// Time to wait
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5m", requires = "wait")]
    timeout: Duration,
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

/// Prints the status; negative if something is not as it should be.
pub(crate) fn run(args: &Args) -> anyhow::Result<Code> {
    if args.is_of_cluster() {
        let wait = args.wait.then_some(args.timeout);
        return block_on(cluster::run(&args.target, wait, args.output));
    }
    let status = block_on(async { Ok(Client::new(&args.socket.socket).status().await?) })?;
    match args.output {
        None => output::text(&brief(&status).join("\n"))?,
        Some(Format::Wide) => output::text(&[brief(&status), wide(&status)].concat().join("\n"))?,
        Some(Format::Json) => output::json(&status)?,
        Some(Format::Yaml) => output::yaml(&status)?,
    }
    Ok(if status.ready { Code::Ok } else { Code::Negative })
}

impl Args {
    /// Of the cluster if one is named or waited for, and of this node where an agent listens.
    fn is_of_cluster(&self) -> bool {
        self.cluster || self.wait || (!exists(&self.socket.socket) && self.target.is_named())
    }
}

fn yes(fact: bool) -> String {
    if fact { "yes" } else { "no" }.into()
}

/// Blocks of lines that have an empty line between them.
fn brief(status: &Status) -> Vec<String> {
    let enforcement = &status.enforcement;
    let heading = ["NODE", "READY", "VERSION", "ENDPOINTS", "POLICIES", "RULESETS", "PEER SETS", "CONNECTIONS"];
    let row = [
        status.node.clone(),
        yes(status.ready),
        status.version.clone(),
        status.endpoints.len().to_string(),
        status.policies.len().to_string(),
        enforcement.rulesets.to_string(),
        enforcement.peer_sets.to_string(),
        enforcement.connections.to_string(),
    ];
    let mut blocks = vec![table(heading, &[row])];
    let mut warnings: Vec<_> = status.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
    let remark = |remark: &ObjectDiagnostic| format!("warning: {}: {}\n", remark.object, remark.message);
    warnings.extend(status.diagnostics.iter().take(REMARKS).map(remark));
    if let Some(more @ 1..) = status.diagnostics.len().checked_sub(REMARKS) {
        warnings.push(format!("warning: {more} more remarks about objects; see -o wide\n"));
    }
    if !warnings.is_empty() {
        blocks.push(warnings.concat());
    }
    if !status.policies.is_empty() {
        blocks.push(policies(status));
    }
    blocks
}

fn policies(status: &Status) -> String {
    let row = |policy: &ringfence_api::Policy| {
        let current = policy.enforced_generation == Some(policy.generation);
        [
            or_none(policy.namespace.as_ref()),
            policy.name.clone(),
            policy.directions.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            policy.selected_pods.to_string(),
            policy.generation.to_string(),
            if current { "yes".into() } else { format!("no ({})", or_none(policy.enforced_generation)) },
        ]
    };
    let rows: Vec<_> = status.policies.iter().map(row).collect();
    table(["NAMESPACE", "POLICY", "DIRECTIONS", "LOCAL PODS", "GENERATION", "ENFORCED"], &rows)
}

fn wide(status: &Status) -> Vec<String> {
    let enforcement = &status.enforcement;
    let mut sections = vec![endpoints(status)];
    let rows: Vec<_> = status
        .watches
        .iter()
        .map(|watch| {
            let (synced, connected) = (yes(watch.synced), yes(watch.connected));
            [watch.kind.clone(), synced, connected, watch.objects.to_string(), or_none(watch.error.as_ref())]
        })
        .collect();
    sections.push(table(["WATCH", "SYNCED", "CONNECTED", "OBJECTS", "ERROR"], &rows));
    let rows: Vec<_> =
        enforcement.maps.iter().map(|map| [map.name.clone(), map.used.to_string(), map.capacity.to_string()]).collect();
    sections.push(table(["MAP", "USED", "CAPACITY"], &rows));
    let rows: Vec<_> = enforcement
        .features
        .iter()
        .map(|feature| [feature.name.clone(), yes(feature.available), feature.detail.clone()])
        .collect();
    sections.push(table(["KERNEL FEATURE", "AVAILABLE", "DETAIL"], &rows));
    if !status.diagnostics.is_empty() {
        let rows: Vec<_> =
            status.diagnostics.iter().map(|remark| [remark.object.clone(), remark.message.clone()]).collect();
        sections.push(table(["OBJECT", "REMARK"], &rows));
    }
    if !status.repairs.is_empty() {
        let row = |repair: &ringfence_api::Repair| {
            [repair.component.clone(), repair.count.to_string(), repair.last.clone(), repair.found.clone()]
        };
        let rows: Vec<_> = status.repairs.iter().map(row).collect();
        sections.push(table(["REPAIRED", "TIMES", "LAST", "FOUND"], &rows));
    }
    let bridge = enforcement.bridge_netfilter.map(|bridge| yes(bridge.ipv4 && bridge.ipv6));
    let rows = [
        ["adopted from an earlier agent".to_owned(), yes(enforcement.adopted)],
        ["pinned in".to_owned(), enforcement.pin_dir.clone()],
        ["writes about policies into the API".to_owned(), yes(status.leader)],
        ["ranges closed until known".to_owned(), enforcement.closed_cidrs.join(",")],
        ["events lost in the kernel".to_owned(), enforcement.events_lost.to_string()],
        ["bridged packets filtered".to_owned(), or_none(bridge)],
        ["host interfaces guarded".to_owned(), enforcement.host_interfaces.guarded.to_string()],
        ["host interfaces not guarded".to_owned(), listed(&enforcement.host_interfaces.unguarded)],
        ["bridge ports closed".to_owned(), listed(&enforcement.host_interfaces.closed)],
    ];
    sections.push(table(["ENFORCEMENT", ""], &rows));
    sections.push(names(&status.fqdns));
    sections
}

fn listed(items: &[String]) -> String {
    or_none(Some(items.join(", ")).filter(|items| !items.is_empty()))
}

fn names(names: &FqdnCache) -> String {
    let row = [
        names.patterns.to_string(),
        yes(names.learning),
        listed(&names.dns_servers),
        names.names.to_string(),
        names.addresses.to_string(),
        names.withheld.to_string(),
    ];
    table(["FQDN PATTERNS", "LEARNING", "DNS SERVERS", "NAMES", "ADDRESSES", "WITHHELD"], &[row])
}

fn endpoints(status: &Status) -> String {
    let row = |endpoint: &ringfence_api::Endpoint| {
        [
            endpoint.namespace.clone(),
            endpoint.pod.clone(),
            endpoint.address.to_string(),
            endpoint.interface.map_or_else(|| "<unknown>".into(), |index| index.to_string()),
            yes(endpoint.guarded),
            or_none(endpoint.ingress.as_ref()),
            or_none(endpoint.egress.as_ref()),
        ]
    };
    let rows: Vec<_> = status.endpoints.iter().map(row).collect();
    table(["NAMESPACE", "POD", "ADDRESS", "INTERFACE", "GUARDED", "INGRESS", "EGRESS"], &rows)
}
