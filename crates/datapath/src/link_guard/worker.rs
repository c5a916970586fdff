//! The worker that attaches and detaches the programs at pod links.
//!
//! Each of these system calls waits for the lock that the kernel has for all links of a namespace. Attaching to tcx
//! holds this lock for a grace period of RCU. Other work should not wait for that, so work ([`GuardWork`]) and reports
//! ([`GuardReport`]) can pass between threads. Links that a CNI plugin waits for come first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use libbpf_rs::Object;

use super::PodLink;
use super::hook::{self, GuardError, LinkHook, sweep};
use crate::namespace::Namespace;
use crate::object::{LINK_PROGRAMS, load};
use crate::{Error, Sizes};

/// Work at links.
#[derive(Debug, Default)]
pub struct GuardWork {
    /// Links to guard.
    pub(super) ensure: BTreeMap<u32, PodLink>,
    /// Links from which all programs of Ringfence are to be removed.
    pub(super) remove: BTreeSet<u32>,
    /// True if the programs are to be removed from all links that are not guarded, including programs of earlier
    /// processes.
    pub(super) sweep: bool,
}

impl GuardWork {
    /// True if there is no work.
    pub fn is_empty(&self) -> bool {
        self.ensure.is_empty() && self.remove.is_empty() && !self.sweep
    }
}

/// Index of a link, and true if a program was missing there and has been attached.
type GuardResult = (u32, Result<bool, GuardError>);

/// A report of finished work.
#[derive(Debug)]
pub struct GuardReport {
    pub(super) work: GuardWork,
    /// Results by link, or the error if nothing could be done at all.
    pub(super) result: Result<Vec<GuardResult>, Error>,
}

impl Default for GuardReport {
    fn default() -> Self {
        Self { work: GuardWork::default(), result: Ok(Vec::new()) }
    }
}

/// Attaches and detaches the programs at the links of one network namespace, from any thread.
#[derive(Debug)]
pub struct LinkGuard {
    namespace: Namespace,
    hook: Option<LinkHook>,
    /// The directory of the pinned maps, and their sizes.
    maps: (PathBuf, Sizes),
    /// The loaded programs. None before the first link to guard.
    programs: Option<Object>,
    /// All links to guard, by the latest work.
    links: BTreeMap<u32, PodLink>,
    /// Work to do at once.
    urgent: GuardWork,
    /// Links to check when nothing is urgent.
    later: BTreeSet<u32>,
}

/// The longest time that urgent work waits, unless one link takes longer.
const TIME_SLICE: Duration = Duration::from_millis(2);

impl LinkGuard {
    pub(crate) fn new(namespace: Namespace, hook: Option<LinkHook>, maps: (PathBuf, Sizes)) -> Self {
        let (urgent, later) = (GuardWork::default(), BTreeSet::new());
        Self { namespace, hook, maps, programs: None, links: BTreeMap::new(), urgent, later }
    }

    /// Adds work. The work of one datapath has to be added in the order in which it was returned.
    pub fn enqueue(&mut self, work: GuardWork) {
        let gone = |index: &u32| work.remove.contains(index);
        self.links.retain(|index, _| !gone(index));
        self.urgent.ensure.retain(|index, _| !gone(index));
        for (index, link) in work.ensure {
            self.links.insert(index, link);
            self.urgent.remove.remove(&index);
            if link.idle {
                self.urgent.ensure.insert(index, link);
            } else {
                self.urgent.ensure.remove(&index);
                self.later.insert(index);
            }
        }
        self.urgent.remove.extend(work.remove);
        self.urgent.sweep |= work.sweep;
    }

    /// Schedules a check of all links, which attaches programs that others have removed. It costs a few system calls
    /// per link.
    pub fn check_all_links(&mut self) {
        self.later.extend(self.links.keys());
    }

    /// Carries out part of the work. Returns none if there is no more work.
    pub fn run_next(&mut self) -> Option<GuardReport> {
        let work = std::mem::take(&mut self.urgent);
        if !work.is_empty() {
            let result = self.carry_out(&work);
            return Some(GuardReport { work, result });
        }
        let (begun, mut work, mut results) = (Instant::now(), GuardWork::default(), Vec::new());
        while begun.elapsed() < TIME_SLICE
            && let Some(index) = self.later.pop_first()
        {
            let Some(link) = self.links.get(&index) else { continue };
            // The pod may run by now.
            let link = PodLink { idle: false, ..*link };
            let one = GuardWork { ensure: BTreeMap::from([(index, link)]), ..GuardWork::default() };
            work.ensure.insert(index, link);
            match self.carry_out(&one) {
                Ok(result) => results.extend(result),
                Err(error) => return Some(GuardReport { work, result: Err(error) }),
            }
        }
        (!work.is_empty()).then_some(GuardReport { work, result: Ok(results) })
    }

    fn carry_out(&mut self, work: &GuardWork) -> Result<Vec<GuardResult>, Error> {
        let Self { namespace, hook, maps: (maps, sizes), programs, links, .. } = self;
        let programs = match programs {
            Some(programs) => &*programs,
            None => programs.insert(load(&LINK_PROGRAMS, sizes, Some(maps))?),
        };
        namespace.enter(|| {
            if work.sweep {
                sweep(|index| links.contains_key(&index))?;
            }
            work.remove.iter().try_for_each(|index| hook::remove(*index))?;
            let looks = work.ensure.iter();
            Ok(looks.map(|(index, link)| (*index, hook::ensure(*hook, programs, *index, link))).collect())
        })
    }
}
