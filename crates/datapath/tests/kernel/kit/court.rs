//! A datapath that is only asked, about packets built by hand.

use std::fs;

use libbpf_rs::{MapCore as _, MapFlags, MapHandle};
use ringfence_datapath::{Circumstances, Config, Conntrack, Datapath, Trial, Tried};

use super::packet::Packet;
use super::plan::Hand;
use super::space::Bench;

/// A forwarded packet that opens a connection.
pub(crate) const NEW: Circumstances = Circumstances {
    interface: Some(1000),
    out_interface: None,
    conntrack: Conntrack::New,
    about: None,
    called: None,
    guessed: false,
    translated: false,
    local_in: false,
    flows: false,
    tell: false,
};

pub(crate) struct Court {
    pub(crate) datapath: Datapath,
    trial: Trial,
    bench: Bench,
}

impl Court {
    /// One that goes by a plan; none where tests cannot run.
    pub(crate) fn new(hand: &Hand) -> Option<Self> {
        Self::with(|_| {}, hand)
    }

    /// One with other settings.
    pub(crate) fn with(change: impl FnOnce(&mut Config), hand: &Hand) -> Option<Self> {
        if !super::can_run() {
            return None;
        }
        let bench = Bench::new();
        let mut config = bench.pins.config();
        change(&mut config);
        let mut datapath = bench.open_with(config);
        datapath.sync(&hand.plan).unwrap();
        let trial = datapath.trial().unwrap();
        Some(Self { datapath, trial, bench })
    }

    pub(crate) fn ask(&self, packet: &Packet, given: &Circumstances) -> Tried {
        self.ask_bytes(&packet.bytes(), given)
    }

    pub(crate) fn ask_bytes(&self, packet: &[u8], given: &Circumstances) -> Tried {
        self.trial.run(packet, given, 1).unwrap()
    }

    /// Asks so many times at once.
    pub(crate) fn ask_often(&self, packet: &Packet, given: &Circumstances, times: u32) -> Tried {
        self.trial.run(&packet.bytes(), given, times).unwrap()
    }

    /// A map as the kernel holds it.
    pub(crate) fn map(&self, name: &str) -> MapHandle {
        self.bench.pins.map(name)
    }

    pub(crate) fn close(self) {
        self.datapath.detach().unwrap();
    }
}

impl super::space::PinDir {
    /// A pinned map.
    pub(crate) fn map(&self, name: &str) -> MapHandle {
        let entries = fs::read_dir(&self.0).unwrap().flatten();
        let maps = entries.map(|entry| entry.path()).find(|path| path.join(name).exists()).unwrap();
        MapHandle::from_pinned_path(maps.join(name)).unwrap()
    }
}

/// Removes everything from a map behind the datapath's back.
pub(crate) fn clear(map: &MapHandle) {
    let keys: Vec<_> = map.keys().collect();
    assert!(!keys.is_empty(), "there is nothing to remove");
    for key in &keys {
        map.delete(key).unwrap();
    }
}

/// Turns a bit over in every value of a map; once more, and it is as before.
pub(crate) fn spoil(map: &MapHandle, byte: usize) {
    let keys: Vec<_> = map.keys().collect();
    assert!(!keys.is_empty(), "there is nothing to spoil");
    for key in keys {
        let mut value = map.lookup(&key, MapFlags::ANY).unwrap().unwrap();
        value[byte] ^= 1;
        map.update(&key, &value, MapFlags::ANY).unwrap();
    }
}
