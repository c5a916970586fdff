//! Prometheus metrics: durations and counts kept by the planning thread, and gauges read at the time of the scrape.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use ringfence_api as api;
use ringfence_model::{Direction, Name, PolicyId, Reason};

use crate::enforcer::Count;
use crate::mended::Mended;

/// Metrics that the agent counts as it goes.
#[derive(Debug)]
pub(crate) struct Meters {
    /// Events of the watches.
    pub(crate) events: Counter,
    /// Commits the kernel refused.
    pub(crate) failures: Counter,
    /// Seconds to plan a batch of events.
    pub(crate) plan: Histogram,
    /// Seconds to carry a plan to the kernel.
    pub(crate) apply: Histogram,
    /// Seconds from the delivery of the oldest event of a batch until the kernel has it.
    pub(crate) enforced: Histogram,
    /// Responses of DNS servers that were read.
    pub(crate) answers: Counter,
    /// Those that could not be read, and pieces of them.
    pub(crate) answers_unread: Counter,
    /// Responses that were released before their addresses were in the kernel.
    pub(crate) answers_late: Counter,
    /// Addresses of names for which there was no room.
    pub(crate) names_refused: Counter,
    /// Addresses inside of the cluster that names outside stood for.
    pub(crate) names_withheld: Counter,
    /// Denied packets that are in the log only as a number.
    pub(crate) flows_not_logged: Counter,
    /// 1 while this agent is the one that writes about policies into the API.
    pub(crate) leader: Gauge,
    /// Conditions and Events it wrote, and writes that failed.
    pub(crate) conditions: Counter,
    pub(crate) told: Counter,
    pub(crate) unwritten: Counter,
    /// Components that others undid.
    pub(crate) mended: Mended,
}

impl Meters {
    /// All at zero.
    pub(crate) fn new() -> Self {
        Self {
            events: Counter::default(),
            failures: Counter::default(),
            plan: Histogram::new(buckets()),
            apply: Histogram::new(buckets()),
            enforced: Histogram::new(buckets()),
            answers: Counter::default(),
            answers_unread: Counter::default(),
            answers_late: Counter::default(),
            names_refused: Counter::default(),
            names_withheld: Counter::default(),
            flows_not_logged: Counter::default(),
            leader: Gauge::default(),
            conditions: Counter::default(),
            told: Counter::default(),
            unwritten: Counter::default(),
            mended: Mended::default(),
        }
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("watch_events", "Events of the watches of the API server", self.events.clone());
        registry.register("apply_failures", "Changes of policy that did not reach the kernel", self.failures.clone());
        let help = "Time to plan a batch of events; its count is the number of batches";
        registry.register_with_unit("plan_duration", help, Unit::Seconds, self.plan.clone());
        let help = "Time to carry a plan to the kernel";
        registry.register_with_unit("apply_duration", help, Unit::Seconds, self.apply.clone());
        let help = "Time from the delivery of an event until the kernel has what follows from it";
        registry.register_with_unit("enforcement_delay", help, Unit::Seconds, self.enforced.clone());
        registry.register("dns_responses", "Responses of DNS servers that were read", self.answers.clone());
        let help = "Packets of DNS servers that could not be parsed";
        registry.register("dns_responses_unparseable", help, self.answers_unread.clone());
        let help = "Responses that were released before their addresses were in the kernel";
        registry.register("dns_responses_released_early", help, self.answers_late.clone());
        let help = "Addresses of domain names that were not learnt because the limit was reached";
        registry.register("fqdn_addresses_over_capacity", help, self.names_refused.clone());
        let help = "Addresses inside of the cluster that names outside resolved to; rules do not open them";
        registry.register("fqdn_addresses_withheld", help, self.names_withheld.clone());
        let help = "Denied packets that the log has only as a number";
        registry.register("flows_not_logged", help, self.flows_not_logged.clone());
        let help = "1 on the agent that writes conditions and Events of policies into the API";
        registry.register("leader", help, self.leader.clone());
        registry.register(
            "policy_condition_writes",
            "Conditions of policies written into the API",
            self.conditions.clone(),
        );
        registry.register("policy_event_writes", "Events of policies written into the API", self.told.clone());
        let help = "Conditions and Events of policies that the API server refused";
        registry.register("policy_write_failures", help, self.unwritten.clone());
    }
}

/// 16 µs to 1 s.
fn buckets() -> impl Iterator<Item = f64> {
    (4..=20).map(|power| f64::from(1_u32 << power) / 1e6)
}

/// Metrics that are read at the time of a scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) ready: bool,
    pub(crate) failing: bool,
    pub(crate) pods_over_capacity: usize,
    pub(crate) peers_over_capacity: usize,
    pub(crate) unknown_addresses: usize,
    pub(crate) endpoints: usize,
    pub(crate) unknown_interfaces: usize,
    pub(crate) peers: usize,
    pub(crate) classes: usize,
    pub(crate) rulesets: usize,
    pub(crate) policies: usize,
    pub(crate) policies_behind: usize,
    pub(crate) diagnostics: usize,
    /// Addresses of pods.
    pub(crate) disputed: usize,
    pub(crate) refused: usize,
    /// Policies whose objects are gone.
    pub(crate) ending: usize,
    pub(crate) problems: BTreeMap<(String, String), usize>,
    pub(crate) watches: Vec<api::Watch>,
    pub(crate) bridge: Option<api::BridgeNetfilter>,
    pub(crate) links: api::HostInterfaces,
    pub(crate) names: api::FqdnCache,
    pub(crate) deciders: Vec<(Decider, Count)>,
    pub(crate) drops: BTreeMap<api::ReasonCode, u64>,
    pub(crate) events_lost: u64,
    pub(crate) maps: Vec<api::MapUse>,
    pub(crate) repairs: Vec<api::Repair>,
    pub(crate) broken: usize,
}

/// The rule, or the default deny, that a counter is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Decider {
    /// A rule of a policy.
    Rule {
        policy: PolicyId,
        direction: Direction,
        /// Position in the policy's list.
        index: usize,
    },
    /// Default deny of a namespace's policies: which of them isolate a pod is not told apart.
    DefaultDeny { namespace: Name, direction: Direction },
}

impl Decider {
    /// The decider of a reason; none for reasons that are no policy's.
    pub(crate) fn of(reason: &Reason) -> Option<Self> {
        match reason {
            Reason::Rule(rule) => {
                Some(Self::Rule { policy: rule.policy.clone(), direction: rule.direction, index: rule.index })
            }
            Reason::Isolated { direction, policies } => {
                let namespace = policies.first()?.namespace.clone()?;
                Some(Self::DefaultDeny { namespace, direction: *direction })
            }
            _ => None,
        }
    }

    fn labels(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Rule { policy, direction, index } => vec![
                ("kind", policy.kind.to_string()),
                ("namespace", policy.namespace.as_deref().unwrap_or_default().to_owned()),
                ("policy", policy.name.to_string()),
                ("direction", direction.to_string()),
                ("rule", index.to_string()),
            ],
            Self::DefaultDeny { namespace, direction } => {
                vec![("namespace", namespace.to_string()), ("direction", direction.to_string())]
            }
        }
    }
}

/// The format of a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4, for scrapers that do not ask for OpenMetrics.
    Prometheus,
}

impl Format {
    /// The format that the `Accept` header of a request asks for.
    pub(crate) fn accepted(accept: Option<&str>) -> Self {
        let asks = accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
        if asks { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The media type of the text.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The text of a scrape.
pub(crate) fn text(meters: &Meters, gauges: Gauges, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("ringfence");
    meters.register(&mut registry);
    registry.register_collector(Box::new(gauges));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(match format {
        Format::OpenMetrics => out,
        Format::Prometheus => as_prometheus(&out),
    })
}

/// OpenMetrics as Prometheus' text format: there the name of a counter's family ends as its samples do.
fn as_prometheus(text: &str) -> String {
    let counters: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut out = String::with_capacity(text.len());
    for line in text.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(word @ ("HELP" | "TYPE")), Some(name), Some(rest)) if counters.contains(name) => {
                let _infallible = writeln!(out, "# {word} {name}_total {rest}");
            }
            _ => {
                let _infallible = writeln!(out, "{line}");
            }
        }
    }
    out
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let plain = [
            ("ready", "1 once the policy of the whole cluster is in the kernel", usize::from(self.ready)),
            ("apply_failing", "1 while the newest policy is not in the kernel", usize::from(self.failing)),
            (
                "pods_over_capacity",
                "Local pods whose policies do not fit into the kernel maps: denied, or on the policies they had",
                self.pods_over_capacity,
            ),
            (
                "peers_over_capacity",
                "Addresses of pods that do not fit into the kernel maps: pods with policies deny them",
                self.peers_over_capacity,
            ),
            (
                "service_addresses_over_capacity",
                "Addresses of Services that do not fit into the kernel maps",
                self.unknown_addresses,
            ),
            ("endpoints", "Addresses of local pods in the kernel", self.endpoints),
            (
                "endpoints_without_interface",
                "Endpoints whose interface is unknown, so that their source addresses are not checked",
                self.unknown_interfaces,
            ),
            ("host_interfaces_guarded", "Host-side interfaces of pods that check what pods send", self.links.guarded),
            (
                "host_interfaces_unguarded",
                "Host-side interfaces of pods that cannot be guarded",
                self.links.unguarded.len(),
            ),
            (
                "host_interfaces_closed",
                "Ports of bridges of pods that belong to no known pod, and are closed",
                self.links.closed.len(),
            ),
            ("ipcache_entries", "Addresses and prefixes whose peer set is in the kernel", self.peers),
            ("peer_sets", "Different peer sets", self.classes),
            ("rulesets", "Different rulesets", self.rulesets),
            ("policies", "Policies in the cluster", self.policies),
            ("policies_behind", "Policies whose newest generation is not in the kernel", self.policies_behind),
            ("fqdn_patterns", "Patterns of domain names in rules", self.names.patterns),
            ("fqdn_learning", "1 while responses of DNS servers are read", usize::from(self.names.learning)),
            ("dns_servers", "DNS servers whose responses count", self.names.dns_servers.len()),
            ("fqdn_names", "Domain names with known addresses", self.names.names),
            ("fqdn_addresses", "Known addresses of domain names", self.names.addresses),
            (
                "degraded_components",
                "Components on the node that others undid and the agent has not repaired yet",
                self.broken,
            ),
            ("addresses_disputed", "Addresses that several pods claim: allowed is what all of them may", self.disputed),
            ("address_claims_rejected", "Addresses whose claim by a pod was rejected", self.refused),
            (
                "policies_terminating",
                "Policies of terminating namespaces, in force until the pods are gone",
                self.ending,
            ),
            ("object_diagnostics", "Remarks about fields of objects that were not understood", self.diagnostics),
        ];
        for (name, help, value) in plain {
            let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)?;
        }
        self.encode_watches(&mut encoder)?;
        self.encode_bridge(&mut encoder)?;
        self.encode_problems(&mut encoder)?;
        let maps = |value: fn(&api::MapUse) -> u64| -> Vec<_> {
            self.maps.iter().map(|map| (vec![("map", map.name.clone())], value(map))).collect()
        };
        gauge(&mut encoder, "map_entries", "Entries in a kernel map", &maps(|map| map.used))?;
        gauge(&mut encoder, "map_capacity", "Entries a kernel map can hold", &maps(|map| map.capacity))?;
        let drops: Vec<_> = self.drops.iter().map(|(reason, n)| (vec![("reason", reason.to_string())], *n)).collect();
        counter(&mut encoder, "dropped_packets", "Packets dropped", &drops)?;
        let help =
            "Events about packets for which the kernel's ring buffer had no room; other counters have the packets";
        let lost = ConstCounter::new(self.events_lost);
        lost.encode(encoder.encode_descriptor("events_lost", help, None, lost.metric_type())?)?;
        let repairs: Vec<_> =
            self.repairs.iter().map(|repair| (vec![("component", repair.component.clone())], repair.count)).collect();
        counter(&mut encoder, "repairs", "Components on the node that others undid and the agent repaired", &repairs)?;
        self.encode_deciders(&mut encoder)
    }
}

impl Gauges {
    fn encode_deciders(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let samples = |rules: bool, value: fn(&Count) -> u64| -> Vec<_> {
            let wanted = self.deciders.iter().filter(|(decider, _)| matches!(decider, Decider::Rule { .. }) == rules);
            wanted.map(|(decider, count)| (decider.labels(), value(count))).collect()
        };
        let help = "Connections that a rule allowed";
        counter(encoder, "rule_allowed_connections", help, &samples(true, |count| count.accepted))?;
        let help = "Packets that a rule dropped";
        counter(encoder, "rule_dropped_packets", help, &samples(true, |count| count.dropped))?;
        let help = "Packets that no rule allowed, dropped by the default deny of a namespace's policies";
        counter(encoder, "default_deny_dropped_packets", help, &samples(false, |count| count.dropped))
    }

    fn encode_watches(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let watches = |value: fn(&api::Watch) -> usize| -> Vec<_> {
            self.watches.iter().map(|watch| (vec![("kind", watch.kind.clone())], value(watch) as u64)).collect()
        };
        let synced = watches(|watch| usize::from(watch.synced));
        gauge(encoder, "watch_synced", "1 once all objects of a kind were listed", &synced)?;
        let connected = watches(|watch| usize::from(watch.connected));
        gauge(encoder, "watch_connected", "1 while the API answers for a kind", &connected)?;
        gauge(encoder, "watch_objects", "Objects known of a kind", &watches(|watch| watch.objects))
    }

    fn encode_problems(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let sample = |((kind, reason), count): (&(String, String), &usize)| {
            (vec![("kind", kind.clone()), ("reason", reason.clone())], *count as u64)
        };
        let help = "Policies that are not enforced as written, or only in part";
        gauge(encoder, "policies_with_problems", help, &self.problems.iter().map(sample).collect::<Vec<_>>())
    }

    fn encode_bridge(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(bridge) = self.bridge else { return Ok(()) };
        let families = [("ipv4", bridge.ipv4), ("ipv6", bridge.ipv6)];
        let values = families.map(|(family, on)| (vec![("family", family.to_owned())], u64::from(on)));
        gauge(encoder, "bridge_netfilter", "1 if bridged packets pass netfilter", &values)
    }
}

/// Labels and the value they have.
type Sample = (Vec<(&'static str, String)>, u64);

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, samples: &[Sample]) -> fmt::Result {
    #[expect(clippy::cast_possible_wrap, reason = "counts of things in memory")]
    let value = |value: u64| ConstGauge::new(value as i64);
    let mut family = encoder.encode_descriptor(name, help, None, value(0).metric_type())?;
    samples.iter().try_for_each(|(labels, n)| value(*n).encode(family.encode_family(labels)?))
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, samples: &[Sample]) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, ConstCounter::new(0_u64).metric_type())?;
    samples.iter().try_for_each(|(labels, n)| ConstCounter::new(*n).encode(family.encode_family(labels)?))
}
