//! The links of this node's pods: what was found of them, what plugins told since, and how far the kernel guards them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringfence_api as api;
use ringfence_datapath::{GuardReport, GuardStatus, Interface};

use super::state::Core;
use crate::cni_cache::Told;
use crate::enforcer::EnforceError;
use crate::interfaces::{Found, Nudge};
use crate::ports::Ports;

/// Name of guards among the repaired components.
const GUARDS: &str = "guards";

/// The warning before the first look at links.
const UNSEEN: &str = "the links of this node's pods have not been looked at yet";

/// The known links and their guards.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// The last look's result; none before anybody has looked.
    found: Option<Found>,
    /// Reports of plugins that it does not take into account, by number.
    news: BTreeMap<u64, Ports>,
    /// Number of the last news.
    last: u64,
    /// Both together: what the kernel is to hold.
    ports: Ports,
    /// The settings of bridges, as last seen; none if no pod is on a bridge.
    bridge: Option<api::BridgeNetfilter>,
    /// The kernel may hold something else.
    stirred: bool,
    /// Links that are guarded.
    guarded: BTreeSet<u32>,
    /// Links that are not guarded though they should be, and why.
    unguarded: BTreeMap<u32, String>,
    /// The reason why the kernel is not up to date.
    error: Option<String>,
}

impl Core {
    /// Takes in what was found, without forgetting what has been told since.
    pub(super) fn found(&mut self, found: Found) {
        let links = &mut self.links;
        links.news.retain(|number, _| *number > found.news);
        let mut ports = found.ports.clone();
        for newer in links.news.values() {
            ports.extend(newer.clone());
        }
        let tunnels = links.found.as_ref().map(|before| &before.tunnels);
        links.stirred |= links.ports != ports || tunnels != Some(&found.tunnels);
        links.ports = ports;
        links.bridge = found.bridge;
        links.found = Some(found);
        self.look_at_guards();
        if !self.dirty {
            self.release();
        }
    }

    /// Takes in where a pod is that a plugin is telling of. The link is guarded before anybody is told that the pod's
    /// policy is in the kernel.
    pub(super) fn placed(&mut self, told: Told, ports: Ports, bridge: Option<api::BridgeNetfilter>) {
        let links = &mut self.links;
        links.bridge = bridge.or(links.bridge);
        links.last += 1;
        links.stirred = true;
        links.ports.extend(ports.clone());
        links.news.insert(links.last, ports);
        if let Some(scout) = &self.setup.scout {
            // A scout that is gone means that the agent is stopping.
            let _ = scout.send(Nudge::Told(links.last, told));
        }
        self.guard();
    }

    /// Has the kernel hold what is known of links; not before it holds the whole view once, and somebody has looked at
    /// all links: what an agent before this one guards is not to be taken away.
    pub(super) fn guard(&mut self) {
        if self.ready && self.links.found.is_some() && self.links.stirred {
            self.carry(Self::guard_links);
        }
    }

    /// The same, and has put back what somebody took away.
    fn look_at_guards(&mut self) {
        self.guard();
        if self.ready && !self.links.stirred {
            self.setup.enforcer.look_at_guards();
        }
    }

    /// Takes in what was done at links. Somebody may have waited for it.
    pub(super) fn settled(&mut self, done: GuardReport) {
        self.carry(|core| {
            let settled = core.setup.enforcer.settle(done);
            // What could not be done at all is tried again with the next look.
            core.links.stirred |= settled.is_err();
            core.take_guarded(settled?);
            Ok(())
        });
        if !self.dirty {
            self.release();
        }
    }

    fn take_guarded(&mut self, guarded: GuardStatus) {
        let Self { links, setup, .. } = self;
        if !guarded.restored.is_empty() {
            let names: Vec<_> = guarded.restored.iter().map(|index| links.name(*index)).collect();
            let found = format!("guards of links of pods were taken away ({}); they are back", names.join(", "));
            setup.meters.mended.mended_all(GUARDS, names.len(), found);
        }
        for (index, why) in guarded.failed.iter().filter(|(index, _)| !links.unguarded.contains_key(index)) {
            tracing::error!(link = links.name(*index), why, "a link of a pod cannot be guarded");
        }
        links.guarded = guarded.guarded;
        links.unguarded = guarded.failed;
    }

    fn carry(&mut self, work: impl FnOnce(&mut Self) -> Result<(), EnforceError>) {
        let before = self.links.error.take();
        self.links.error = work(self).err().map(|error| error.to_string());
        if let Some(error) = self.links.error.as_ref().filter(|error| before.as_ref() != Some(error)) {
            tracing::error!(error, "links of pods are not guarded as they should be");
        }
    }

    fn guard_links(&mut self) -> Result<(), EnforceError> {
        let Self { links, setup, .. } = self;
        setup.enforcer.set_interfaces(&links.ports.interfaces)?;
        if let Some(found) = &links.found {
            setup.enforcer.set_tunnels(&found.tunnels)?;
        }
        setup.enforcer.guard(&links.ports.links)?;
        links.stirred = false;
        Ok(())
    }

    /// The reason why the pod with these addresses may not start although its policy is in the kernel.
    pub(super) fn exposed(&self, addresses: &[IpAddr]) -> Option<String> {
        let links = &self.links;
        if self.unseen() {
            return Some(UNSEEN.into());
        }
        if let Some(error) = &links.error {
            return Some(format!("links of pods are not guarded: {error}"));
        }
        addresses.iter().find_map(|address| {
            let interface = links.ports.interfaces.get(&address.to_canonical())?;
            let complaint = links.bridge.filter(|_| interface.bridge.is_some()).and_then(crate::bridge::complaint);
            complaint.or_else(|| links.bare(interface.index))
        })
    }

    /// True if somebody is to look at links, and has not yet.
    fn unseen(&self) -> bool {
        self.setup.scout.is_some() && self.links.found.is_none()
    }

    /// The reason why links of this node are not guarded, if there is one.
    pub(super) fn links_complaint(&self) -> Option<String> {
        let links = &self.links;
        if self.setup.enforcer.link_hook().is_none() {
            return Some(
                "this kernel cannot guard links of pods: it has neither tcx nor clsact, and what pods send under \
                 addresses that are not theirs is seen too late (hint: Linux 6.6 or later has tcx)"
                    .into(),
            );
        }
        if self.ready && self.unseen() {
            return Some(UNSEEN.into());
        }
        if let Some(complaint) = self.bridge().and_then(crate::bridge::complaint) {
            return Some(complaint);
        }
        if let Some(error) = &links.error {
            return Some(format!("links of pods are not guarded as they should be: {error}"));
        }
        let (index, why) = links.unguarded.iter().next()?;
        let names: BTreeSet<&str> = links.unguarded.keys().map(|index| links.name(*index)).collect();
        let names: Vec<_> = names.into_iter().take(3).collect();
        let more = links.unguarded.len().saturating_sub(names.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Some(format!("links of pods cannot be guarded: {}{more}; {}: {why}", names.join(", "), links.name(*index)))
    }

    /// The warning about bridge ports that are closed because no known pod is behind them.
    pub(super) fn strangers(&self) -> Option<String> {
        let names: Vec<&str> = self.links.strangers().collect();
        (!names.is_empty()).then(|| {
            format!(
                "nothing passes through {}: ports of a bridge of pods that are of no pod of this node that is known",
                names.join(", ")
            )
        })
    }

    /// The settings of the bridge, where pods are on one.
    pub(super) fn bridge(&self) -> Option<api::BridgeNetfilter> {
        self.links.bridge
    }

    /// The link of an address, if it is known.
    pub(super) fn interface(&self, address: &IpAddr) -> Option<&Interface> {
        self.links.ports.interfaces.get(address)
    }

    /// True if packets of an address are held to its link.
    pub(super) fn is_guarded(&self, address: &IpAddr) -> bool {
        let Some(Interface { index, .. }) = self.interface(address) else { return false };
        self.links.error.is_none() && self.links.guarded.contains(index)
    }

    /// For the status.
    pub(super) fn links_status(&self) -> api::HostInterfaces {
        let links = &self.links;
        api::HostInterfaces {
            guarded: links.guarded.len(),
            unguarded: links.unguarded.iter().map(|(index, why)| format!("{}: {why}", links.name(*index))).collect(),
            closed: links.strangers().map(str::to_owned).collect(),
        }
    }
}

impl Links {
    /// Something changed by which the kernel may hold something else than it should.
    pub(super) fn stir(&mut self) {
        self.stirred = true;
    }

    /// The reason why the pod behind a link may not start yet; links that are not to be guarded do not keep it.
    fn bare(&self, index: u32) -> Option<String> {
        if let Some(why) = self.unguarded.get(&index) {
            return Some(format!("the pod's link cannot be guarded: {why}"));
        }
        let waits = self.ports.links.contains_key(&index) && !self.guarded.contains(&index);
        waits.then(|| "the pod's link is not guarded yet".into())
    }

    fn strangers(&self) -> impl Iterator<Item = &str> {
        self.ports.links.iter().filter(|(_, port)| !port.pod).map(|(index, _)| self.name(*index))
    }

    fn name(&self, index: u32) -> &str {
        self.ports.names.get(&index).map_or("?", String::as_str)
    }
}
