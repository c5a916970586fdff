//! The doors: a program at the node's end of each pod's link, which settles who sends there before the kernel does
//! anything with a packet (`bpf/door.h`).

mod clsact;
mod hook;
mod programs;
mod tcx;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use libbpf_rs::Object;

use crate::abi::{DoorValue, door_flags};
use crate::mirror::Mirror;
use crate::namespace::Namespace;
use crate::object::{DOOR_PROGRAMS, load};
use crate::{ApplyError, Config, Error};

pub use hook::LinkHook;
pub(crate) use hook::{Side, probe, sweep};

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
}

impl Port {
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

/// What became of the doors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guarded {
    /// Indices of the links that are guarded.
    pub guarded: BTreeSet<u32>,
    /// Those that are not, or not wholly, and why. A link that has gone meanwhile is in neither.
    pub failed: BTreeMap<u32, String>,
    /// Those whose program somebody had taken away, and that have it again.
    pub restored: BTreeSet<u32>,
}

/// The doors of one node.
#[derive(Debug)]
pub(crate) struct Doors {
    map: Mirror<u32, DoorValue>,
    hook: Option<LinkHook>,
    programs: Option<Object>,
    ports: BTreeMap<u32, Port>,
    /// The links at which both programs that are wanted were seen.
    shut: BTreeSet<u32>,
}

impl Doors {
    pub(crate) fn open(maps: &Path, hook: Option<LinkHook>) -> Result<Self, Error> {
        let map = Mirror::open(maps, "doors")?;
        Ok(Self { map, hook, programs: None, ports: BTreeMap::new(), shut: BTreeSet::new() })
    }

    pub(crate) fn hook(&self) -> Option<LinkHook> {
        self.hook
    }

    /// Makes the doors exactly these. Says what became of them, and whether verdicts may differ now.
    pub(crate) fn set(
        &mut self,
        ports: &BTreeMap<u32, Port>,
        (config, maps, namespace): (&Config, &Path, &Namespace),
    ) -> Result<(Guarded, bool), ApplyError> {
        let first = self.programs.is_none();
        if first {
            self.programs = Some(load(&DOOR_PROGRAMS, &config.sizes, Some(maps))?);
        }
        // A door that is to look another way has to be looked at again.
        let before = std::mem::replace(&mut self.ports, ports.clone());
        self.shut.retain(|index| ports.get(index).is_some_and(|port| before.get(index) == Some(port)));
        // What a program goes by is there before it, and goes after it.
        let mut values = self.map.held()?.clone();
        values.extend(self.values());
        let changed = self.map.set(values)?;
        let leave: Option<BTreeSet<u32>> = first.then(|| ports.keys().copied().collect());
        let gone: Vec<u32> = before.keys().filter(|index| !ports.contains_key(index)).copied().collect();
        let (guarded, _) = self.look(namespace, |index, shut| !shut.contains(&index), &|| {
            // An earlier agent's may be where nothing is known of now.
            if let Some(keep) = &leave {
                sweep(|index| keep.contains(&index))?;
            }
            gone.iter().try_for_each(|index| hook::remove(*index))
        })?;
        let settled = self.map.set(self.values())?;
        Ok((guarded, changed || settled))
    }

    /// The ports as they are guarded now, closed: as if nobody knew their pods.
    pub(crate) fn closed(&self) -> BTreeMap<u32, Port> {
        self.ports.iter().map(|(index, port)| (*index, Port { pod: false, ..*port })).collect()
    }

    /// Looks whether all programs are still where they were put, and puts those back that are not.
    pub(crate) fn check(&mut self, namespace: &Namespace) -> Result<Guarded, Error> {
        if self.programs.is_none() {
            return Ok(Guarded::default());
        }
        let (mut guarded, put) = self.look(namespace, |_, _| true, &|| Ok(()))?;
        guarded.restored = put;
        Ok(guarded)
    }

    /// Does something, then looks at some of the links. Says which of those that had a program were given it anew.
    fn look(
        &mut self,
        namespace: &Namespace,
        wanted: impl Fn(u32, &BTreeSet<u32>) -> bool + Sync,
        first: &(impl Fn() -> Result<(), Error> + Sync),
    ) -> Result<(Guarded, BTreeSet<u32>), Error> {
        let (ports, shut, hook, programs) = (&self.ports, &self.shut, self.hook, self.programs.as_ref());
        let seen = namespace.enter(|| {
            first()?;
            let some = ports.iter().filter(|(index, _)| wanted(**index, shut));
            Ok(some.map(|(index, port)| (*index, hook::ensure(hook, programs, *index, port))).collect::<Vec<_>>())
        })?;
        let mut guarded = Guarded::default();
        let mut put = BTreeSet::new();
        for (index, outcome) in seen {
            match outcome {
                Ok(anew) => {
                    if anew && self.shut.contains(&index) {
                        put.insert(index);
                    }
                    self.shut.insert(index);
                }
                Err(error) => {
                    self.shut.remove(&index);
                    if !error.is_gone() {
                        guarded.failed.insert(index, error.to_string());
                    }
                }
            }
        }
        for (index, port) in self.ports.iter().filter(|(index, _)| self.shut.contains(index)) {
            if port.pod && port.bridge.is_some() && port.mac.is_none() {
                guarded.failed.insert(*index, "the pod's hardware address is not known".into());
            }
        }
        guarded.guarded = self.shut.iter().filter(|index| !guarded.failed.contains_key(index)).copied().collect();
        Ok((guarded, put))
    }

    /// The content of the map: the ports, and their bridges.
    fn values(&self) -> HashMap<u32, DoorValue> {
        let ports = self.ports.iter().map(|(index, port)| (*index, port.value(*index, self.shut.contains(index))));
        let bridges = self.ports.values().filter_map(|port| port.bridge);
        bridges.map(|bridge| (bridge, DoorValue::new(bridge, 0, door_flags::BRIDGE, [0; 6]))).chain(ports).collect()
    }
}
