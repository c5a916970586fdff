//! Link guard: programs at the node's end of each pod's link that check the source of each frame before the kernel
//! processes it (`bpf/link.h`).

mod clsact;
mod hook;
mod programs;
mod tcx;
mod worker;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use crate::abi::{LinkValue, link_flags};
use crate::synced_map::SyncedMap;
use crate::{ApplyError, Error};

pub use hook::LinkHook;
pub(crate) use hook::{LinkDirection, probe, sweep};
pub use worker::{GuardReport, GuardWork, LinkGuard};

/// The node's end of a pod's link, as it has to be guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// Index of the bridge that the link is a port of. None: packets are routed to the link, and no other pod shares
    /// it.
    pub bridge: Option<u32>,
    /// The pod's hardware address. On a bridge the pod may send and receive frames under this address only. If it is
    /// unknown this cannot be enforced, and [`GuardStatus::failed`] names the link. Without a bridge it is not used.
    pub mac: Option<[u8; 6]>,
    /// True if the pod is known. A link without a known pod passes nothing.
    pub pod: bool,
    /// True if the pod does not run yet and its CNI plugin waits for the guard. The guard is then attached in the
    /// fastest way, though a packet to the pod at that moment may be lost.
    pub idle: bool,
}

impl PodLink {
    /// True if both links are guarded in the same way.
    fn is_guarded_like(&self, other: &Self) -> bool {
        Self { idle: other.idle, ..*self } == *other
    }

    /// Returns the directions that need a program. Frames to the pod are checked on a bridge, where they may belong to
    /// other pods, and on links without a known pod.
    fn directions(&self) -> &'static [LinkDirection] {
        if self.bridge.is_some() || !self.pod {
            &[LinkDirection::FromPod, LinkDirection::ToPod]
        } else {
            &[LinkDirection::FromPod]
        }
    }

    fn value(&self, index: u32, guarded: bool) -> LinkValue {
        let flag = |flag: u32, on: bool| if on { flag } else { 0 };
        let flags = flag(link_flags::POD, self.pod)
            | flag(link_flags::MAC, self.mac.is_some())
            | flag(link_flags::GUARDED, guarded);
        LinkValue::new(index, self.bridge.unwrap_or(0), flags, self.mac.unwrap_or_default())
    }
}

fn are_guarded_alike(one: Option<&PodLink>, other: Option<&PodLink>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one.is_guarded_like(other))
}

/// Status of the guarded links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardStatus {
    /// Indices of the links that are guarded.
    pub guarded: BTreeSet<u32>,
    /// Links that are not guarded, or only in part, and the reason. A link that is gone or not processed yet is neither
    /// here nor in `guarded`.
    pub failed: BTreeMap<u32, String>,
    /// Links whose program had been removed by others and was attached again.
    pub restored: BTreeSet<u32>,
}

/// The guarded links of a node: the map that the programs read, and the progress of the [`LinkGuard`].
#[derive(Debug)]
pub(crate) struct GuardedLinks {
    map: SyncedMap<u32, LinkValue>,
    links: BTreeMap<u32, PodLink>,
    /// Links that have all their programs.
    guarded: BTreeSet<u32>,
    failed: BTreeMap<u32, String>,
    /// Links in work that the worker has not reported on.
    in_progress: BTreeMap<u32, PodLink>,
    /// Former pod links that may still have a program.
    leaving: BTreeSet<u32>,
    /// True if the worker has been told to remove programs that an earlier agent may have left.
    swept: bool,
    /// True if the map has changed since the last call of [`Self::take_changed`].
    changed: bool,
}

impl GuardedLinks {
    pub(crate) fn open(maps: &Path) -> Result<Self, Error> {
        Ok(Self {
            map: SyncedMap::open(maps, "pod_links")?,
            links: BTreeMap::new(),
            guarded: BTreeSet::new(),
            failed: BTreeMap::new(),
            in_progress: BTreeMap::new(),
            leaving: BTreeSet::new(),
            swept: false,
            changed: false,
        })
    }

    /// Sets the links to guard and returns the work that is left. The map entry of a link is written before its program
    /// is attached, and removed after the program is detached.
    pub(crate) fn set(&mut self, links: &BTreeMap<u32, PodLink>) -> Result<GuardWork, ApplyError> {
        let first = !self.swept;
        // An earlier agent may have guarded links that are unknown now.
        let before: Vec<u32> =
            if first { self.map.held()?.keys().copied().collect() } else { self.links.keys().copied().collect() };
        self.leaving.extend(before);
        self.leaving.retain(|index| !links.contains_key(index));
        let earlier = std::mem::replace(&mut self.links, links.clone());
        // A link with another setting has to be processed again.
        let same = |index: &u32| are_guarded_alike(links.get(index), earlier.get(index));
        self.guarded.retain(same);
        self.failed.retain(|index, _| same(index));
        self.in_progress.retain(|index, _| same(index));
        self.write()?;
        let not_started = |index: &u32| !self.guarded.contains(index) && !self.in_progress.contains_key(index);
        let ensure: BTreeMap<u32, PodLink> =
            links.iter().filter(|(index, _)| not_started(index)).map(|(index, link)| (*index, *link)).collect();
        self.in_progress.extend(&ensure);
        self.swept = true;
        Ok(GuardWork { ensure, remove: self.leaving.clone(), sweep: first })
    }

    /// Records finished work.
    pub(crate) fn complete(&mut self, report: GuardReport) -> Result<GuardStatus, ApplyError> {
        let GuardReport { work, result } = report;
        self.in_progress.retain(|index, link| !are_guarded_alike(work.ensure.get(index), Some(link)));
        let results = match result {
            Ok(results) => results,
            Err(error) => {
                self.swept &= !work.sweep;
                return Err(error.into());
            }
        };
        self.leaving.retain(|index| !work.remove.contains(index));
        let mut restored = BTreeSet::new();
        for (index, result) in results {
            // The setting has changed since, so another work item covers this link.
            if !are_guarded_alike(self.links.get(&index), work.ensure.get(&index)) {
                continue;
            }
            self.failed.remove(&index);
            match result {
                Ok(attached) => {
                    if !self.guarded.insert(index) && attached {
                        restored.insert(index);
                    }
                }
                Err(error) => {
                    self.guarded.remove(&index);
                    if !error.is_gone() {
                        self.failed.insert(index, error.to_string());
                    }
                }
            }
        }
        self.write()?;
        Ok(self.guarded(restored))
    }

    /// Returns the guarded links, all without a known pod, so that they pass nothing.
    pub(crate) fn closed(&self) -> BTreeMap<u32, PodLink> {
        self.links.iter().map(|(index, link)| (*index, PodLink { pod: false, ..*link })).collect()
    }

    /// Returns true if the map has changed since the last call.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Returns the status of all links. `restored` are links whose programs had been removed by others.
    pub(crate) fn guarded(&self, restored: BTreeSet<u32>) -> GuardStatus {
        let mut failed = self.failed.clone();
        for (index, link) in self.links.iter().filter(|(index, _)| self.guarded.contains(index)) {
            if link.pod && link.bridge.is_some() && link.mac.is_none() {
                failed.insert(*index, "the pod's hardware address is not known".into());
            }
        }
        let guarded = self.guarded.iter().filter(|index| !failed.contains_key(index)).copied().collect();
        GuardStatus { guarded, failed, restored }
    }

    /// Writes the map: the guarded links, their bridges, and the earlier values of links that leave.
    fn write(&mut self) -> Result<(), ApplyError> {
        let links = self.links.iter().map(|(index, link)| (*index, link.value(*index, self.guarded.contains(index))));
        let bridges = self.links.values().filter_map(|link| link.bridge);
        let bridges = bridges.map(|bridge| (bridge, LinkValue::new(bridge, 0, link_flags::BRIDGE, [0; 6])));
        let mut values: HashMap<u32, LinkValue> = bridges.chain(links).collect();
        for (index, value) in self.map.held()? {
            if self.leaving.contains(index) {
                values.entry(*index).or_insert(*value);
            }
        }
        self.changed |= self.map.set(values)?;
        Ok(())
    }
}
