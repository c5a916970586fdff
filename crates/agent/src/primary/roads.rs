//! The thread that keeps routes between nodes as the nodes of the cluster want them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ringfence_api as api;
use ringfence_cni::conflist;
use ringfence_model::{Name, Node};
use ringfence_netns::Netlink;
use ringfence_routes::{Encapsulation, Plan, VerifiedFirewall};
use tokio::sync::Notify;

use super::nodes::{Nodes, Nudge};
use super::taken;
use crate::chain::Keeper;
use crate::cni_cache;
use crate::core::{Gone, Handle, Message};
use crate::interfaces;

/// Links, and addresses and routes of both families: bits of the group mask of `rtnetlink(7)`.
const GROUPS: u32 = 0x1 | 0x10 | 0x100 | 0x40 | 0x400;
/// Least time between two looks while nothing failed: each pod that starts changes links, and nodes may change all at
/// once.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two looks without an event: changes of the policy of another's chain have none.
const RESYNC_INTERVAL: Duration = Duration::from_secs(5);
/// Shortest and longest pause before trying again what failed.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_mins(1));

/// State of the thread.
pub(crate) struct Roads {
    own: Name,
    encapsulation: Encapsulation,
    addresses: PathBuf,
    /// True if addresses of running pods are recorded there.
    recalled: bool,
    keeper: Arc<Keeper>,
    core: Handle,
    clear: Arc<Notify>,
    nodes: Nodes,
    /// The last plan that was carried out completely.
    applied: Option<Plan>,
    /// The known table of nftables.
    verified: Option<VerifiedFirewall>,
    told: Option<api::NodeRoutes>,
}

impl Roads {
    /// Knows nothing yet.
    pub(crate) fn new(
        own: Name,
        encapsulation: Encapsulation,
        addresses: PathBuf,
        keeper: Arc<Keeper>,
        core: Handle,
        clear: Arc<Notify>,
    ) -> Self {
        Self {
            own,
            encapsulation,
            addresses,
            recalled: false,
            keeper,
            core,
            clear,
            nodes: Nodes::default(),
            applied: None,
            verified: None,
            told: None,
        }
    }

    /// Starts the thread, and one that listens to links and routes. The sender takes nudges.
    pub(crate) fn start(self) -> std::io::Result<Sender<Nudge>> {
        let (nudges, receiver) = mpsc::channel();
        let (core, changes) = (self.core.clone(), nudges.clone());
        core.spawn("roads", move || self.run(&receiver))?;
        core.spawn("roads-listen", move || {
            if let Err(error) = interfaces::listen(GROUPS, || changes.send(Nudge::Network).is_ok()) {
                tracing::error!(%error, "routes that somebody takes away cannot be followed");
            }
        })?;
        Ok(nudges)
    }

    fn run(mut self, nudges: &Receiver<Nudge>) {
        // When to look at the latest.
        let mut due: Option<Instant> = None;
        let mut looked: Option<Instant> = None;
        let mut again = BACKOFF.0;
        loop {
            let nudge = match due {
                None => nudges.recv().map_err(|_gone| RecvTimeoutError::Disconnected),
                Some(due) => nudges.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match nudge {
                Ok(nudge) => {
                    if self.take(nudge) {
                        due = Some(soon(looked, due, Instant::now()));
                    }
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            looked = Some(Instant::now());
            let pause = match self.look() {
                Ok(true) => {
                    again = BACKOFF.0;
                    RESYNC_INTERVAL
                }
                Ok(false) => {
                    let pause = again;
                    again = (again * 2).min(BACKOFF.1);
                    pause
                }
                Err(Gone) => return,
            };
            due = Some(Instant::now() + pause);
        }
    }

    /// Takes in a nudge. Whether it is worth a look.
    fn take(&mut self, nudge: Nudge) -> bool {
        // Whoever said that its network is missing may say so at any time.
        if matches!(&nudge, Nudge::Put(node) if node.name == self.own) && self.applied.is_some() {
            self.clear.notify_one();
        }
        self.nodes.take(nudge)
    }

    /// Brings everything to what the nodes want. False: try again.
    fn look(&mut self) -> Result<bool, Gone> {
        let Some(nodes) = self.nodes.all() else { return Ok(true) };
        let carried_out = carry_out(&self.own, nodes, self.encapsulation, &mut self.verified).and_then(|plan| {
            // Before the configuration is there, and so before any pod is given an address. Once: later a pod that is
            // going might be taken for one that runs.
            if plan.is_some() && !self.recalled {
                recall(&self.addresses)?;
                self.recalled = true;
            }
            Ok(plan)
        });
        let network = match carried_out {
            Ok(Some(plan)) => {
                self.keeper.want(&self.configuration(&plan))?;
                let network = network(&plan);
                if self.applied.replace(plan).is_none() {
                    self.clear.notify_one();
                }
                network
            }
            Ok(None) => {
                let error = format!(
                    "node {} has no range of pods (spec.podCIDRs), or none of its addresses is on a link that is up; \
                     hint: kube-controller-manager --allocate-node-cidrs",
                    self.own
                );
                api::NodeRoutes { error: Some(error), ..api::NodeRoutes::default() }
            }
            Err(error) => {
                // What is in the kernel is not known any more.
                (self.applied, self.verified) = (None, None);
                api::NodeRoutes { error: Some(format!("{error:#}")), ..api::NodeRoutes::default() }
            }
        };
        let fine = network.error.is_none();
        if self.told.as_ref() != Some(&network) {
            if let Some(error) = &network.error {
                tracing::error!(error, "pods of this node have no network");
            }
            for problem in &network.problems {
                tracing::error!("{problem}");
            }
            self.core.tell(Message::Network(network.clone()))?;
            self.told = Some(network);
        }
        Ok(fine)
    }

    fn configuration(&self, plan: &Plan) -> conflist::Primary {
        conflist::Primary { ranges: plan.ranges.clone(), mtu: plan.mtu, data_dir: self.addresses.clone() }
    }
}

/// When to look after a nudge: at once, but not sooner than an interval after the last look, nor later than was due.
fn soon(looked: Option<Instant>, due: Option<Instant>, now: Instant) -> Instant {
    let soon = looked.map_or(now, |looked| (looked + MIN_INTERVAL).max(now));
    due.map_or(soon, |due| due.min(soon))
}

/// Plans and applies. None: there is nothing to plan yet.
fn carry_out(
    own: &Name,
    nodes: &BTreeMap<Name, Node>,
    encapsulation: Encapsulation,
    verified: &mut Option<VerifiedFirewall>,
) -> anyhow::Result<Option<Plan>> {
    let mut netlink = Netlink::open()?;
    let interfaces = ringfence_routes::interfaces(&mut netlink)?;
    let Some(plan) = ringfence_routes::plan(own, nodes, &interfaces, encapsulation) else { return Ok(None) };
    for change in ringfence_routes::apply(&plan, verified, &interfaces, &mut netlink)? {
        tracing::info!("{change}");
    }
    Ok(Some(plan))
}

/// Sees to it that addresses of pods that run are not given again, where which are taken was forgotten.
fn recall(directory: &Path) -> anyhow::Result<()> {
    let mut netlink = Netlink::open()?;
    let sandboxes = cni_cache::sandboxes(Path::new(cni_cache::RESULTS)).into_iter().map(|(sandbox, _recent)| sandbox);
    // `ptp` gives each pod's address a route of its own, which goes with the pod.
    let is_here = |address| anyhow::Ok(netlink.route_ifindex(address)?.is_some());
    let taken = taken::recall(directory, conflist::NETWORK, sandboxes, is_here)
        .with_context(|| format!("cannot write down which addresses are taken in {}", directory.display()))?;
    if taken > 0 {
        tracing::info!(taken, "addresses of pods that run are not given again");
    }
    Ok(())
}

fn network(plan: &Plan) -> api::NodeRoutes {
    let names = |names: &std::collections::BTreeSet<Name>| names.iter().map(ToString::to_string).collect();
    api::NodeRoutes {
        ranges: plan.ranges.iter().map(ToString::to_string).collect(),
        mtu: plan.mtu,
        direct: names(&plan.direct),
        tunnelled: names(&plan.tunnelled),
        problems: plan.problems.clone(),
        error: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_nudges_come_looks_are_an_interval_apart() {
        let start = Instant::now();
        assert_eq!(soon(None, None, start), start, "the first at once");
        let (mut looked, mut due, mut looks) = (None, None, 0);
        for millis in (0..10_000).step_by(10) {
            let now = start + Duration::from_millis(millis);
            due = Some(soon(looked, due, now));
            if due.is_some_and(|due| due <= now) {
                (looked, due) = (Some(now), None);
                looks += 1;
            }
        }
        assert_eq!(looks, 10);
        let long_ago = start.checked_sub(MIN_INTERVAL * 5);
        assert_eq!(soon(long_ago, Some(start + MIN_INTERVAL), start), start, "after a while without any at once again");
    }
}
