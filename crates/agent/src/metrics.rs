//! Prometheus metrics: durations and counts kept by the planning thread, and gauges read at the time of the scrape.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::api;
use crate::enforcer::Count;
use crate::mended::Mended;

/// What the planning thread counts as it goes.
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
    /// Messages of DNS servers that were read.
    pub(crate) answers: Counter,
    /// Those that could not be read, and pieces of them.
    pub(crate) answers_unread: Counter,
    /// Answers that were let go before what they say was in the kernel.
    pub(crate) answers_late: Counter,
    /// Addresses of names for which there was no room.
    pub(crate) names_refused: Counter,
    /// Addresses inside of the cluster that names outside stood for.
    pub(crate) names_withheld: Counter,
    /// Reports of denied packets that are in the log only as a number.
    pub(crate) reports_left_out: Counter,
    /// 1 while this agent is the one that writes about policies into the API.
    pub(crate) leader: Gauge,
    /// Conditions and Events it wrote, and writes that failed.
    pub(crate) conditions: Counter,
    pub(crate) told: Counter,
    pub(crate) unwritten: Counter,
    /// What others undid.
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
            reports_left_out: Counter::default(),
            leader: Gauge::default(),
            conditions: Counter::default(),
            told: Counter::default(),
            unwritten: Counter::default(),
            mended: Mended::default(),
        }
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("events", "Events of the watches", self.events.clone());
        registry.register("enforce_failures", "Changes of policy that did not reach the kernel", self.failures.clone());
        let help = "Time to plan a batch of events; its count is the number of batches";
        registry.register_with_unit("plan", help, Unit::Seconds, self.plan.clone());
        let help = "Time to carry a plan to the kernel";
        registry.register_with_unit("apply", help, Unit::Seconds, self.apply.clone());
        let help = "Time from the delivery of an event until the kernel has what follows from it";
        registry.register_with_unit("enforced", help, Unit::Seconds, self.enforced.clone());
        registry.register("dns_messages", "Messages of DNS servers that were read", self.answers.clone());
        let help = "Packets of DNS servers that could not be read";
        registry.register("dns_unread", help, self.answers_unread.clone());
        let help = "Answers that were let go before what they say was in the kernel";
        registry.register("dns_late", help, self.answers_late.clone());
        let help = "Addresses of domain names for which there was no room";
        registry.register("domain_addresses_refused", help, self.names_refused.clone());
        let help = "Addresses inside of the cluster that names outside stood for, and that no rule opens";
        registry.register("domain_addresses_withheld", help, self.names_withheld.clone());
        let help = "Reports of denied packets that the log has only as a number";
        registry.register("reports_left_out", help, self.reports_left_out.clone());
        let help = "1 on the one agent that writes conditions and Events of policies into the API";
        registry.register("leader", help, self.leader.clone());
        registry.register("status_writes", "Conditions of policies written into the API", self.conditions.clone());
        registry.register("event_writes", "Events of policies written into the API", self.told.clone());
        let help = "Conditions and Events of policies that the API did not take";
        registry.register("status_write_failures", help, self.unwritten.clone());
    }
}

/// 16 µs to 1 s.
fn buckets() -> impl Iterator<Item = f64> {
    (4..=20).map(|power| f64::from(1_u32 << power) / 1e6)
}

/// What is read at the time of a scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) ready: bool,
    pub(crate) failing: bool,
    pub(crate) pods_without_room: usize,
    pub(crate) peers_without_room: usize,
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
    pub(crate) bridge: Option<api::Bridge>,
    pub(crate) links: api::Links,
    pub(crate) names: api::Names,
    pub(crate) rules: Vec<(RuleName, Count)>,
    pub(crate) drops: BTreeMap<String, u64>,
    pub(crate) reports_lost: u64,
    pub(crate) maps: Vec<api::MapUse>,
    pub(crate) repairs: Vec<api::Repair>,
    pub(crate) broken: usize,
}

/// A rule, or the default deny of policies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RuleName {
    pub(crate) policy: String,
    pub(crate) direction: String,
    pub(crate) rule: String,
}

/// The text of a scrape.
pub(crate) fn text(meters: &Meters, gauges: Gauges) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("ringfence");
    meters.register(&mut registry);
    registry.register_collector(Box::new(gauges));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let plain = [
            ("ready", "1 once the policy of the whole cluster is in the kernel", usize::from(self.ready)),
            ("failing", "1 while the newest policy is not in the kernel", usize::from(self.failing)),
            (
                "pods_without_room",
                "Local pods whose policies do not fit: they are denied, or keep what they had",
                self.pods_without_room,
            ),
            (
                "peers_without_room",
                "Addresses of pods that everybody here denies who has policies, as there is no room for them",
                self.peers_without_room,
            ),
            (
                "known_addresses_without_room",
                "Addresses of Services that the kernel does not know as such, as there is no room for them",
                self.unknown_addresses,
            ),
            ("endpoints", "Addresses of local pods in the kernel", self.endpoints),
            ("endpoints_unchecked", "Endpoints whose source address is not checked", self.unknown_interfaces),
            ("links_guarded", "Links of pods at which senders are checked", self.links.guarded),
            ("links_unguarded", "Links of pods that cannot be guarded", self.links.unguarded.len()),
            ("links_closed", "Ports of bridges of pods that are of no pod we know: closed", self.links.closed.len()),
            ("peers", "Prefixes with a peer class", self.peers),
            ("peer_classes", "Different peer classes", self.classes),
            ("rulesets", "Different rulesets", self.rulesets),
            ("policies", "Policies in the cluster", self.policies),
            ("policies_behind", "Policies whose newest generation is not in the kernel", self.policies_behind),
            ("domain_patterns", "Patterns of domain names that rules have", self.names.patterns),
            ("domain_learning", "1 while answers of DNS servers are read", usize::from(self.names.active)),
            ("dns_servers", "DNS servers that are believed", self.names.servers.len()),
            ("domain_names", "Domain names that are known", self.names.names),
            ("domain_addresses", "Addresses of domain names that are known", self.names.addresses),
            ("broken", "Things on the node that are not as they should be, and were not put right yet", self.broken),
            ("addresses_in_dispute", "Addresses that several pods have, which may only what each may", self.disputed),
            ("addresses_falsely_claimed", "Addresses that pods claim and are not believed to have", self.refused),
            (
                "policies_outliving_objects",
                "Policies of namespaces being deleted that stand until pods are gone",
                self.ending,
            ),
            ("diagnostics", "Things in objects that were not understood or are in doubt", self.diagnostics),
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
        let drops: Vec<_> = self.drops.iter().map(|(reason, n)| (vec![("reason", reason.clone())], *n)).collect();
        counter(&mut encoder, "dropped_packets", "Packets dropped", &drops)?;
        let help = "Reports of packets for which the kernel had no room; the packets are counted all the same";
        counter(&mut encoder, "reports_lost", help, &[(Vec::new(), self.reports_lost)])?;
        let repairs: Vec<_> =
            self.repairs.iter().map(|repair| (vec![("what", repair.what.clone())], repair.count)).collect();
        counter(&mut encoder, "repairs", "Things on the node that others undid and the agent put right", &repairs)?;
        let rules = |value: fn(&Count) -> u64| -> Vec<_> {
            let sample = |(name, count): &(RuleName, Count)| {
                let RuleName { policy, direction, rule } = name.clone();
                (vec![("policy", policy), ("direction", direction), ("rule", rule)], value(count))
            };
            self.rules.iter().map(sample).collect()
        };
        let help = "Connections a rule let through";
        counter(&mut encoder, "rule_accepted_connections", help, &rules(|count| count.accepted))?;
        let help = "Packets a rule, or the default deny of policies, dropped";
        counter(&mut encoder, "rule_dropped_packets", help, &rules(|count| count.dropped))
    }
}

impl Gauges {
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
        let help = "Policies that are not enforced as written, or about which something is in doubt";
        gauge(encoder, "policies_with_problems", help, &self.problems.iter().map(sample).collect::<Vec<_>>())
    }

    fn encode_bridge(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(bridge) = self.bridge else { return Ok(()) };
        let families = [("ipv4", bridge.ipv4), ("ipv6", bridge.ipv6)];
        let values = families.map(|(family, on)| (vec![("family", family.to_owned())], u64::from(on)));
        gauge(encoder, "bridge_filtered", "1 if packets between pods on a bridge pass the hook", &values)
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
