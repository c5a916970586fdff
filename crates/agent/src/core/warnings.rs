//! Warnings of the status: problems of a node, and settings that may not be meant.

use ringfence_api as api;
use ringfence_cni::conflist;

use super::room;
use super::state::Core;

/// Addresses that are named, where all cannot be.
const NAMED: usize = 3;

impl Core {
    /// All warnings, the worst first.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = self.setup.meters.mended.troubles();
        if let Some(failure) = &self.failure {
            warnings.push(format!("the newest policy is not in the kernel: {}", failure.error));
        }
        warnings.extend(self.room_warnings());
        warnings.extend(self.links_complaint());
        warnings.extend(self.strangers());
        warnings.extend(self.plugin_warnings());
        warnings.extend(self.sync_warning());
        warnings.extend(self.name_warnings());
        warnings.extend(self.dispute_warnings());
        warnings.extend(self.range_warning());
        warnings.extend(self.closed_warnings());
        let watches = self.watch_status().into_iter();
        warnings.extend(watches.filter_map(|watch| {
            watch.error.map(|error| format!("the API does not answer for {}: {error}", watch.kind))
        }));
        warnings
    }

    /// Warnings about things that do not fit, in maps or in time.
    fn room_warnings(&self) -> Vec<String> {
        let mut warnings = room::warnings(&self.refusals);
        warnings.extend(self.crowd_warning());
        warnings.extend(self.known_warning());
        warnings.extend(self.turn_warnings());
        if self.planner.closed_addresses_are_widened() {
            warnings.push(
                "no room in the map `closed_cidrs` for each address of a sandbox that no pod is known to have: ranges \
                 around them are closed"
                    .into(),
            );
        }
        let unseated = self.planner.excess_endpoints().count();
        if unseated > 0 {
            warnings.push(format!(
                "no room in the map `endpoints` for {unseated} addresses of pods of this node: what has none is closed"
            ));
        }
        warnings
    }

    /// Warnings about the network plugins of the node, and about traffic that bypasses them.
    fn plugin_warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(chain) = &self.chain {
            warnings.extend(chain.bypass.clone());
            warnings.extend(chain.error.as_ref().map(|error| {
                format!(
                    "the network plugin is not chained: {error}; starting pods are not waited for, so they may lose \
                     their first packets, and addresses are closed only until the API says whose they are"
                )
            }));
            warnings.extend(ungated(chain));
        }
        warnings.extend(crate::ipvs::complaint());
        if let Some(network) = &self.network {
            warnings.extend(network.error.iter().map(|error| format!("pods of this node have no network: {error}")));
            warnings.extend(network.problems.iter().cloned());
        }
        warnings
    }

    fn sync_warning(&self) -> Option<String> {
        let error = self.watches.values().find_map(|watch| watch.error.as_ref());
        let why = || match error {
            None => "not in sync with the API yet".into(),
            Some(error) => format!("the API does not answer: {error}"),
        };
        (!self.in_sync).then(|| format!("{}; what an earlier agent left in the kernel stays in force", why()))
    }

    /// Warnings about addresses of names that rules do not open.
    fn name_warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(error) = &self.learning.error {
            warnings.push(format!("what rules allow by name cannot be learnt, and is denied: {error}"));
        }
        if self.domains.withheld() > 0 {
            warnings.push(format!(
                "no rule opens {} addresses inside of the cluster that names outside stand for: {}, …",
                self.domains.withheld(),
                self.domains.examples(NAMED).join(", ")
            ));
        }
        warnings
    }

    fn range_warning(&self) -> Option<String> {
        (self.index.ranges().is_some_and(<[_]>::is_empty) || self.sandboxes.ranges_ignored).then(|| {
            "the addresses of this node's pods are in no range of it (podCIDRs): only those of known sandboxes are \
             closed until their policy is there, and a false claim to the address of another node's pod cannot be told \
             from a true one"
                .into()
        })
    }

    /// Namespaces that end, and pods that are closed because it is not known which policies select them.
    fn closed_warnings(&self) -> Vec<String> {
        let standing = self.ending.standing().into_iter().map(|(namespace, count)| {
            format!(
                "namespace {namespace} is being deleted: {count} of its policies, which are gone, stand until its pods \
                 are"
            )
        });
        let unguarded = self.ending.unguarded().map(|namespace| {
            format!(
                "the addresses of the pods in namespace {namespace} are closed: it was being deleted, and had no \
                 policy left, before the agent started"
            )
        });
        let homeless = self.index.homeless().map(|pod| {
            format!(
                "the addresses of pod {} are closed: its Namespace object is not known, and so not which policies \
                 select it",
                pod.key
            )
        });
        standing.chain(unguarded).chain(homeless).collect()
    }
}

/// The warning about a node on which a plugin makes a pod's network before the agent is asked.
fn ungated(chain: &api::CniConfig) -> Option<String> {
    let first =
        chain.plugins.first().filter(|_| chain.file.is_some() && chain.error.is_none() && chain.bypass.is_none())?;
    (!conflist::takes_gate(first)).then(|| {
        format!(
            "no gate comes before the network plugin {first}, of which it is not known that it can follow another: \
             pods that start while the agent is away have a network until the last plugin refuses them"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_gate_says_so_only_where_the_plugin_is_chained() {
        let chain = |plugin: &str| api::CniConfig {
            file: Some("10-x.conflist".into()),
            plugins: vec![plugin.into(), "portmap".into()],
            ..api::CniConfig::default()
        };
        assert!(ungated(&chain("unheard-of")).unwrap().contains("plugin unheard-of"));
        assert_eq!(ungated(&chain("bridge")), None);
        let error = Some("why".into());
        assert_eq!(ungated(&api::CniConfig { error, ..chain("unheard-of") }), None);
        assert_eq!(ungated(&api::CniConfig { bypass: Some("why".into()), ..chain("unheard-of") }), None);
        assert_eq!(ungated(&api::CniConfig::default()), None);
    }
}
