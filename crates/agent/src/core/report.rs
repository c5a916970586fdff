//! Answers to questions: status, the plan, gauges.

use std::collections::{BTreeMap, HashSet};

use ringfence_api as api;
use ringfence_engine::{Plan, RuleId, RulesetId};
use ringfence_k8s::convert::Kind;
use ringfence_model::{Direction, Reason};
use serde_json::{Value, json};

use super::state::Core;
use super::{Question, room};
use crate::enforcer::Count;
use crate::index::PolicyRecord;
use crate::metrics::{Decider, Gauges};

impl Core {
    /// Answers a question. That the asker has gone meanwhile is no error.
    pub(super) fn answer(&mut self, question: Question) {
        match question {
            Question::Ready(reply) => drop(reply.send(self.readiness().map(|()| self.remark()))),
            Question::Serving(reply) => drop(reply.send(self.serving())),
            // What is told of the cluster and of the kernel is of one state, whatever came just before the question.
            Question::Status(reply) => {
                self.commit();
                drop(reply.send(self.status()));
            }
            Question::Plan(reply) => {
                self.commit();
                drop(reply.send(plan_json(&self.held)));
            }
            Question::Gauges(reply) => drop(reply.send(self.gauges())),
            Question::Nodes(reply) => drop(reply.send(self.index.count(Kind::Node))),
            Question::Wait(request, reply) => self.wait(request, reply),
            Question::Release(request, reply) => self.close(&request, reply),
            Question::Collect(request, reply) => self.collect(&request, reply),
            Question::Check(request, reply) => drop(reply.send(self.enforced(&request))),
            Question::Claims(reply) => drop(reply.send(self.claims())),
            Question::Accounts(since, reply) => {
                drop(reply.send((self.index.revision(), self.index.accounts(since))));
            }
            Question::InSync(reply) if self.ready => drop(reply.send(())),
            Question::InSync(reply) => self.unsynced.push(reply),
            Question::Resolve(events, reply) => drop(reply.send(self.resolve(&events))),
        }
    }

    /// Succeeds if the node is ready; else says what is in the way.
    fn readiness(&self) -> Result<(), String> {
        self.serving()?;
        self.setup.meters.mended.troubles().into_iter().next().map_or(Ok(()), Err)
    }

    /// The text of a node that is ready. Where policies do not fit it stays so: a tenant must not be able to hold up
    /// the agents' rollout, or what else asks whether nodes are ready.
    fn remark(&self) -> String {
        let pods = room::pods(&self.refusals);
        let without = |count: usize, whose| (count > 0).then(|| format!("; no room for {whose} of {count} pods"));
        let policies = without(pods, "the policies").unwrap_or_default();
        let crowded = self.crowded;
        let peers =
            if crowded == 0 { String::new() } else { format!("; no room for {crowded} addresses of pods as peers") };
        format!("ok{policies}{peers}")
    }

    /// Succeeds if pods of this node can have a guarded network; else says what is in the way.
    fn serving(&self) -> Result<(), String> {
        if let Some(bypass) = self.chain.as_ref().and_then(|chain| chain.bypass.as_ref()) {
            return Err(bypass.clone());
        }
        if let Some(error) = self.network.as_ref().and_then(|network| network.error.as_ref()) {
            return Err(format!("pods of this node have no network: {error}"));
        }
        if let Some(complaint) = self.links_complaint() {
            return Err(complaint);
        }
        self.ready.then_some(()).ok_or_else(|| "the policy of the cluster is not in the kernel yet".into())
    }

    fn status(&mut self) -> api::Status {
        let facts = self.setup.enforcer.facts();
        api::Status {
            api_version: api::VERSION.into(),
            kind: "AgentStatus".into(),
            node: self.setup.node.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            ready: self.readiness().is_ok(),
            leader: self.setup.meters.leader.get() != 0,
            warnings: self.warnings(),
            watches: self.watch_status(),
            enforcement: api::Enforcement {
                adopted: facts.adopted,
                connections: self.setup.connections,
                over_capacity: self.setup.over_capacity,
                pin_dir: self.setup.pin_dir.clone(),
                error: self.failure.as_ref().map(|failure| failure.error.to_string()),
                closed_cidrs: self.held.closed_cidrs.iter().map(ToString::to_string).collect(),
                ipcache_entries: self.held.ipcache.len(),
                peer_sets: classes(&self.held),
                rulesets: rulesets(&self.held),
                features: facts.features,
                maps: facts.maps,
                events_lost: facts.events_lost,
                bridge_netfilter: self.bridge(),
                host_interfaces: self.links_status(),
                cni_config: self.chain.clone(),
                node_routes: self.network.clone(),
            },
            fqdns: self.names_status(),
            policies: self.index.policies().iter().map(|(id, record)| self.policy_status(id, record)).collect(),
            endpoints: self.endpoint_status(),
            pods_over_capacity: self.refusals.iter().flat_map(over_capacity).collect(),
            diagnostics: self.diagnostics(),
            repairs: self.setup.meters.mended.repairs(),
        }
    }

    pub(super) fn watch_status(&self) -> Vec<api::Watch> {
        let watch = |(kind, state): (&Kind, &super::state::WatchState)| api::Watch {
            kind: format!("{kind:?}"),
            synced: state.synced,
            connected: state.error.is_none(),
            objects: self.index.count(*kind),
            error: state.error.clone(),
        };
        self.watches.iter().map(watch).chain(self.others.values().cloned()).collect()
    }

    fn policy_status(&self, id: &ringfence_model::PolicyId, record: &PolicyRecord) -> api::Policy {
        let directions = [(record.ingress, Direction::Ingress), (record.egress, Direction::Egress)];
        api::Policy {
            kind: id.kind.to_string(),
            namespace: id.namespace.as_ref().map(ToString::to_string),
            name: id.name.to_string(),
            uid: record.uid.to_string(),
            generation: record.generation,
            enforced_generation: record.enforced,
            directions: directions.iter().filter(|(governs, _)| *governs).map(|(_, direction)| *direction).collect(),
            selected_pods: self.index.selected(&record.subject),
        }
    }

    fn endpoint_status(&self) -> Vec<api::Endpoint> {
        let ruleset = |id: RulesetId| match id {
            RulesetId::NONE => None,
            RulesetId::NO_ROOM => Some("no room".to_owned()),
            id => Some(format!("{:016x}", id.0)),
        };
        let status = |(address, endpoint): (&std::net::IpAddr, &ringfence_engine::Endpoint)| api::Endpoint {
            address: *address,
            namespace: endpoint.pod.namespace.to_string(),
            pod: endpoint.pod.name.to_string(),
            uid: endpoint.uid.to_string(),
            interface: self.interface(address).map(|interface| interface.index),
            guarded: self.is_guarded(address),
            ingress: ruleset(endpoint.ingress),
            egress: ruleset(endpoint.egress),
        };
        self.held.endpoints.iter().map(status).collect()
    }

    fn diagnostics(&self) -> Vec<api::ObjectDiagnostic> {
        let diagnostic = |(object, message)| api::ObjectDiagnostic { object, message };
        self.index.diagnostics().into_iter().chain(self.dispute_remarks()).map(diagnostic).collect()
    }

    fn gauges(&mut self) -> Gauges {
        let facts = self.setup.enforcer.facts();
        let deciders = self.rule_counts();
        let policies = self.index.policies();
        Gauges {
            ready: self.ready,
            failing: self.failure.is_some(),
            pods_over_capacity: room::pods(&self.refusals),
            peers_over_capacity: self.crowded,
            unknown_addresses: self.unknown_addresses(),
            endpoints: self.held.endpoints.len(),
            unknown_interfaces: self.held.endpoints.len() - self.interfaces_known(),
            peers: self.held.ipcache.len(),
            classes: classes(&self.held),
            rulesets: rulesets(&self.held),
            policies: policies.len(),
            policies_behind: policies.values().filter(|record| record.enforced != Some(record.generation)).count(),
            diagnostics: self.index.diagnostics().len() + self.disputes.len(),
            disputed: self.disputes.iter().filter(|dispute| dispute.matters).count(),
            refused: self.disputes.iter().filter(|dispute| !dispute.refused.is_empty()).count(),
            ending: self.ending.standing().values().sum(),
            problems: self.index.problems(),
            watches: self.watch_status(),
            bridge: self.bridge(),
            links: self.links_status(),
            names: self.names_status(),
            deciders,
            drops: facts.drops,
            events_lost: facts.events_lost,
            maps: facts.maps,
            repairs: self.setup.meters.mended.repairs(),
            broken: self.setup.meters.mended.troubles().len(),
        }
    }

    fn interfaces_known(&self) -> usize {
        self.held.endpoints.keys().filter(|address| self.interface(address).is_some()).count()
    }

    /// Counters of causes, summed up by what people call them.
    fn rule_counts(&mut self) -> Vec<(Decider, Count)> {
        let counters = self.setup.enforcer.counters().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the counters of rules");
            BTreeMap::new()
        });
        let decider = |(cause, reason): (&RuleId, &Reason)| Some((*cause, Decider::of(reason)?));
        let deciders = self.held.rules.iter().filter_map(decider).collect();
        let totals = self.rule_counters.update(counters, &deciders);
        totals.iter().map(|(decider, count)| (decider.clone(), *count)).collect()
    }
}

fn over_capacity(refusal: &ringfence_engine::Refusal) -> impl Iterator<Item = api::PodOverCapacity> {
    let policies: Vec<_> = refusal.policies.iter().map(ToString::to_string).collect();
    let denied = refusal.pods.iter().map(|pod| (pod, false));
    denied.chain(refusal.retaining.iter().map(|pod| (pod, true))).map(move |(pod, keeps)| api::PodOverCapacity {
        keeps_previous: keeps,
        namespace: pod.namespace.to_string(),
        pod: pod.name.to_string(),
        direction: refusal.direction,
        policies: policies.clone(),
        resource: refusal.resource.to_string(),
    })
}

fn classes(plan: &Plan) -> usize {
    plan.ipcache.values().map(|peer| peer.peer_set).collect::<HashSet<_>>().len()
}

fn rulesets(plan: &Plan) -> usize {
    let used = plan.endpoints.values().flat_map(|endpoint| [endpoint.ingress, endpoint.egress]);
    used.filter(|id| *id != RulesetId::NONE).collect::<HashSet<_>>().len()
}

/// The plan as JSON: ids as 16 hexadecimal digits, keys of breakpoints as protocol and port.
fn plan_json(plan: &Plan) -> Value {
    let id = |id: u64| format!("{id:016x}");
    let endpoints: serde_json::Map<_, _> = plan
        .endpoints
        .iter()
        .map(|(address, endpoint)| {
            let value = json!({
                "pod": endpoint.pod.to_string(), "uid": &*endpoint.uid,
                "ingress": id(endpoint.ingress.0), "egress": id(endpoint.egress.0),
            });
            (address.to_string(), value)
        })
        .collect();
    let peers: serde_json::Map<_, _> = plan
        .ipcache
        .iter()
        .map(|(net, peer)| (net.to_string(), json!({"peer_set": id(peer.peer_set.0), "fallback": id(peer.fallback.0)})))
        .collect();
    let mut entries: Vec<_> = plan.policy.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| **key);
    let entries: Vec<_> = entries
        .into_iter()
        .map(|(key, block)| {
            let point = |point: &ringfence_engine::PortVerdict| {
                json!({
                    "protocol": point.key >> 16, "port": point.key & 0xffff,
                    "verdict": if point.allow { "allow" } else { "deny" }, "rule": id(point.rule_id.0),
                })
            };
            let block: Vec<_> = block.ranges().iter().map(point).collect();
            json!({"ruleset": id(key.ruleset.0), "peer_set": id(key.peer_set.0), "port_table": block})
        })
        .collect();
    let rules: BTreeMap<_, _> = plan.rules.iter().map(|(cause, reason)| (id(cause.0), reason.to_string())).collect();
    let gates: Vec<_> = plan.closed_cidrs.iter().map(ToString::to_string).collect();
    json!({
        "apiVersion": api::VERSION, "kind": "Plan",
        "endpoints": endpoints, "ipcache": peers, "policy": entries, "rules": rules, "closed_cidrs": gates,
    })
}
