//! Who puts the programs of doors where they belong, and takes them away.
//!
//! Each of these system calls waits for the lock that the kernel has for all links of a namespace, and one of tcx holds
//! it for a grace period of RCU. Nobody who has something else to do should wait for that: what is to be done
//! ([`Errand`]) and what came of it ([`Done`]) can go from one thread to another. What somebody waits for comes first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use libbpf_rs::Object;

use super::Port;
use super::hook::{self, LinkHook, Refusal, sweep};
use crate::namespace::Namespace;
use crate::object::{DOOR_PROGRAMS, load};
use crate::{Error, Sizes};

/// What is to be done at links.
#[derive(Debug, Default)]
pub struct Errand {
    /// How these are to be guarded.
    pub(super) look: BTreeMap<u32, Port>,
    /// From these our programs go.
    pub(super) leave: BTreeSet<u32>,
    /// They go from all links but those that are guarded, whoever put them there.
    pub(super) sweep: bool,
}

impl Errand {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.look.is_empty() && self.leave.is_empty() && !self.sweep
    }
}

/// Of a link, whether a program was missing there, or cannot be put there.
type Outcome = (u32, Result<bool, Refusal>);

/// What was done at links.
#[derive(Debug)]
pub struct Done {
    pub(super) errand: Errand,
    /// Or why nothing could be done at all.
    pub(super) outcome: Result<Vec<Outcome>, Error>,
}

impl Default for Done {
    fn default() -> Self {
        Self { errand: Errand::default(), outcome: Ok(Vec::new()) }
    }
}

/// Does what is to be done at links of one network namespace, from whichever thread.
#[derive(Debug)]
pub struct Doorkeeper {
    namespace: Namespace,
    hook: Option<LinkHook>,
    /// Where maps are pinned, and how large they are.
    maps: (PathBuf, Sizes),
    /// None before there was anything to do.
    programs: Option<Object>,
    /// All links that are to be guarded, as told last.
    ports: BTreeMap<u32, Port>,
    /// What is to be done at once.
    urgent: Errand,
    /// Links to be looked at when nothing is urgent.
    later: BTreeSet<u32>,
}

/// How long something urgent may have to wait, unless one single link takes longer.
const PIECE: Duration = Duration::from_millis(2);

impl Doorkeeper {
    pub(crate) fn new(namespace: Namespace, hook: Option<LinkHook>, maps: (PathBuf, Sizes)) -> Self {
        let (urgent, later) = (Errand::default(), BTreeSet::new());
        Self { namespace, hook, maps, programs: None, ports: BTreeMap::new(), urgent, later }
    }

    /// Takes an errand. Those of one datapath have to be taken in the order in which they were given.
    pub fn take(&mut self, errand: Errand) {
        let gone = |index: &u32| errand.leave.contains(index);
        self.ports.retain(|index, _| !gone(index));
        self.urgent.look.retain(|index, _| !gone(index));
        for (index, port) in errand.look {
            self.ports.insert(index, port);
            self.urgent.leave.remove(&index);
            if port.idle {
                self.urgent.look.insert(index, port);
            } else {
                self.urgent.look.remove(&index);
                self.later.insert(index);
            }
        }
        self.urgent.leave.extend(errand.leave);
        self.urgent.sweep |= errand.sweep;
    }

    /// Means to look whether the programs are still at all links, and to put back what somebody has taken away. A few
    /// system calls a link.
    pub fn look(&mut self) {
        self.later.extend(self.ports.keys());
    }

    /// Does a piece of what is to be done. None: there is nothing left.
    pub fn work(&mut self) -> Option<Done> {
        let errand = std::mem::take(&mut self.urgent);
        if !errand.is_empty() {
            let outcome = self.carry_out(&errand);
            return Some(Done { errand, outcome });
        }
        let (begun, mut errand, mut outcomes) = (Instant::now(), Errand::default(), Vec::new());
        while begun.elapsed() < PIECE
            && let Some(index) = self.later.pop_first()
        {
            let Some(port) = self.ports.get(&index) else { continue };
            // By now it may be in use.
            let port = Port { idle: false, ..*port };
            let one = Errand { look: BTreeMap::from([(index, port)]), ..Errand::default() };
            errand.look.insert(index, port);
            match self.carry_out(&one) {
                Ok(outcome) => outcomes.extend(outcome),
                Err(error) => return Some(Done { errand, outcome: Err(error) }),
            }
        }
        (!errand.is_empty()).then_some(Done { errand, outcome: Ok(outcomes) })
    }

    fn carry_out(&mut self, errand: &Errand) -> Result<Vec<Outcome>, Error> {
        let Self { namespace, hook, maps: (maps, sizes), programs, ports, .. } = self;
        let programs = match programs {
            Some(programs) => &*programs,
            None => programs.insert(load(&DOOR_PROGRAMS, sizes, Some(maps))?),
        };
        namespace.enter(|| {
            if errand.sweep {
                sweep(|index| ports.contains_key(&index))?;
            }
            errand.leave.iter().try_for_each(|index| hook::remove(*index))?;
            let looks = errand.look.iter();
            Ok(looks.map(|(index, port)| (*index, hook::ensure(*hook, programs, *index, port))).collect())
        })
    }
}
