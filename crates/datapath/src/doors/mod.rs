//! The doors: a program at the node's end of each pod's link, which settles who sends there before the kernel does
//! anything with a packet (`bpf/door.h`).

mod clsact;
mod hook;
mod keeper;
mod programs;
mod tcx;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use crate::abi::{DoorValue, door_flags};
use crate::mirror::Mirror;
use crate::{ApplyError, Error};

pub use hook::LinkHook;
pub(crate) use hook::{Side, probe, sweep};
pub use keeper::{Done, Doorkeeper, Errand};

/// The node's end of a pod's link, as it has to be guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Index of the bridge it is a port of. None: packets are routed to it, and nobody else is on the link.
    pub bridge: Option<u32>,
    /// The pod's hardware address. On a bridge the pod sends and gets frames under no other; where it is not known this
    /// cannot be held, and [`Guarded::failed`] says so. Without a bridge it does not matter.
    pub mac: Option<[u8; 6]>,
    /// Whether the pod is known. One of a pod that is not sends and receives nothing.
    pub pod: bool,
    /// Whether nothing of the pod runs yet and somebody waits for the guard. Then it may be put where that is fastest,
    /// though a packet on its way to the pod at that moment is lost.
    pub idle: bool,
}

impl Port {
    /// Whether it is to be guarded in the same way as another.
    fn is_like(&self, other: &Self) -> bool {
        Self { idle: other.idle, ..*self } == *other
    }

    /// What would reach the pod has to be looked at where others' packets may: on a bridge. And where none may.
    fn sides(&self) -> &'static [Side] {
        if self.bridge.is_some() || !self.pod { &[Side::From, Side::To] } else { &[Side::From] }
    }

    fn value(&self, index: u32, shut: bool) -> DoorValue {
        let flag = |flag: u32, on: bool| if on { flag } else { 0 };
        let flags =
            flag(door_flags::POD, self.pod) | flag(door_flags::MAC, self.mac.is_some()) | flag(door_flags::SHUT, shut);
        DoorValue::new(index, self.bridge.unwrap_or(0), flags, self.mac.unwrap_or_default())
    }
}

fn are_alike(one: Option<&Port>, other: Option<&Port>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one.is_like(other))
}

/// How the doors stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guarded {
    /// Indices of the links that are guarded.
    pub guarded: BTreeSet<u32>,
    /// Those that are not, or not wholly, and why. A link that has gone, or at which nobody has been yet, is in
    /// neither.
    pub failed: BTreeMap<u32, String>,
    /// Those whose program somebody had taken away, and that have it again.
    pub restored: BTreeSet<u32>,
}

/// The doors of one node: what the programs there go by, and how far a [`Doorkeeper`] has come.
#[derive(Debug)]
pub(crate) struct Doors {
    map: Mirror<u32, DoorValue>,
    ports: BTreeMap<u32, Port>,
    /// The links at which all programs that are wanted were seen.
    shut: BTreeSet<u32>,
    failed: BTreeMap<u32, String>,
    /// What a doorkeeper was sent for and has not told of.
    asked: BTreeMap<u32, Port>,
    /// Links that are no pod's any more, as long as a program may stand there.
    leaving: BTreeSet<u32>,
    /// A doorkeeper was sent to where an earlier agent may have left programs.
    swept: bool,
    /// What programs go by has changed since this was told last.
    changed: bool,
}

impl Doors {
    pub(crate) fn open(maps: &Path) -> Result<Self, Error> {
        Ok(Self {
            map: Mirror::open(maps, "doors")?,
            ports: BTreeMap::new(),
            shut: BTreeSet::new(),
            failed: BTreeMap::new(),
            asked: BTreeMap::new(),
            leaving: BTreeSet::new(),
            swept: false,
            changed: false,
        })
    }

    /// Has the doors be exactly these: says what is left for a doorkeeper to do. What a program goes by is there before
    /// it, and goes after it.
    pub(crate) fn set(&mut self, ports: &BTreeMap<u32, Port>) -> Result<Errand, ApplyError> {
        let first = !self.swept;
        // An earlier agent's may be where nothing is known of now.
        let before: Vec<u32> =
            if first { self.map.held()?.keys().copied().collect() } else { self.ports.keys().copied().collect() };
        self.leaving.extend(before);
        self.leaving.retain(|index| !ports.contains_key(index));
        let earlier = std::mem::replace(&mut self.ports, ports.clone());
        // A door that is to look another way has to be looked at again.
        let same = |index: &u32| are_alike(ports.get(index), earlier.get(index));
        self.shut.retain(same);
        self.failed.retain(|index, _| same(index));
        self.asked.retain(|index, _| same(index));
        self.write()?;
        let unasked = |index: &u32| !self.shut.contains(index) && !self.asked.contains_key(index);
        let look: BTreeMap<u32, Port> =
            ports.iter().filter(|(index, _)| unasked(index)).map(|(index, port)| (*index, *port)).collect();
        self.asked.extend(&look);
        self.swept = true;
        Ok(Errand { look, leave: self.leaving.clone(), sweep: first })
    }

    /// Takes in what a doorkeeper has done.
    pub(crate) fn settle(&mut self, done: Done) -> Result<Guarded, ApplyError> {
        let Done { errand, outcome } = done;
        self.asked.retain(|index, port| !are_alike(errand.look.get(index), Some(port)));
        let outcomes = match outcome {
            Ok(outcomes) => outcomes,
            Err(error) => {
                self.swept &= !errand.sweep;
                return Err(error.into());
            }
        };
        self.leaving.retain(|index| !errand.leave.contains(index));
        let mut restored = BTreeSet::new();
        for (index, outcome) in outcomes {
            // What was told since is another errand.
            if !are_alike(self.ports.get(&index), errand.look.get(&index)) {
                continue;
            }
            self.failed.remove(&index);
            match outcome {
                Ok(anew) => {
                    if !self.shut.insert(index) && anew {
                        restored.insert(index);
                    }
                }
                Err(refusal) => {
                    self.shut.remove(&index);
                    if !refusal.is_gone() {
                        self.failed.insert(index, refusal.to_string());
                    }
                }
            }
        }
        self.write()?;
        Ok(self.guarded(restored))
    }

    /// The ports as they are guarded now, closed: as if nobody knew their pods.
    pub(crate) fn closed(&self) -> BTreeMap<u32, Port> {
        self.ports.iter().map(|(index, port)| (*index, Port { pod: false, ..*port })).collect()
    }

    /// Whether what programs go by has changed since the last time this was asked.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// How all doors stand; and which were found without their programs.
    pub(crate) fn guarded(&self, restored: BTreeSet<u32>) -> Guarded {
        let mut failed = self.failed.clone();
        for (index, port) in self.ports.iter().filter(|(index, _)| self.shut.contains(index)) {
            if port.pod && port.bridge.is_some() && port.mac.is_none() {
                failed.insert(*index, "the pod's hardware address is not known".into());
            }
        }
        let guarded = self.shut.iter().filter(|index| !failed.contains_key(index)).copied().collect();
        Guarded { guarded, failed, restored }
    }

    /// Makes the map hold what is to be there now: the ports, their bridges, and what leaves, as it was.
    fn write(&mut self) -> Result<(), ApplyError> {
        let ports = self.ports.iter().map(|(index, port)| (*index, port.value(*index, self.shut.contains(index))));
        let bridges = self.ports.values().filter_map(|port| port.bridge);
        let bridges = bridges.map(|bridge| (bridge, DoorValue::new(bridge, 0, door_flags::BRIDGE, [0; 6])));
        let mut values: HashMap<u32, DoorValue> = bridges.chain(ports).collect();
        for (index, value) in self.map.held()? {
            if self.leaving.contains(index) {
                values.entry(*index).or_insert(*value);
            }
        }
        self.changed |= self.map.set(values)?;
        Ok(())
    }
}
