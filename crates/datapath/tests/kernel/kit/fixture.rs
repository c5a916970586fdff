//! A datapath for test runs with packets built by hand.

use std::fs;

use libbpf_rs::{MapCore as _, MapFlags, MapHandle};
use ringfence_datapath::{Config, Conntrack, Datapath, PacketContext, TestRun, TestVerdict};

use super::packet::Packet;
use super::plan::Hand;
use super::space::Bench;

/// A forwarded packet that opens a connection.
pub(crate) const NEW: PacketContext = PacketContext {
    interface: Some(1000),
    out_interface: None,
    conntrack: Conntrack::New,
    related_to: None,
    original_destination: None,
    picked_up: false,
    translated: false,
    local_in: false,
    flows: false,
    notify: false,
};

pub(crate) struct Fixture {
    pub(crate) datapath: Datapath,
    test_run: TestRun,
    bench: Bench,
}

impl Fixture {
    /// A fixture with a plan. None where tests cannot run.
    pub(crate) fn new(hand: &Hand) -> Option<Self> {
        Self::with(|_| {}, hand)
    }

    /// A fixture with other settings.
    pub(crate) fn with(change: impl FnOnce(&mut Config), hand: &Hand) -> Option<Self> {
        if !super::can_run() {
            return None;
        }
        let bench = Bench::new();
        let mut config = bench.pins.config();
        change(&mut config);
        let mut datapath = bench.open_with(config);
        datapath.sync(&hand.plan).unwrap();
        let test_run = datapath.test_run().unwrap();
        Some(Self { datapath, test_run, bench })
    }

    pub(crate) fn run(&self, packet: &Packet, given: &PacketContext) -> TestVerdict {
        self.run_bytes(&packet.bytes(), given)
    }

    pub(crate) fn run_bytes(&self, packet: &[u8], given: &PacketContext) -> TestVerdict {
        self.test_run.run(packet, given, 1).unwrap()
    }

    /// Runs the program several times on one packet.
    pub(crate) fn run_repeatedly(&self, packet: &Packet, given: &PacketContext, times: u32) -> TestVerdict {
        self.test_run.run(&packet.bytes(), given, times).unwrap()
    }

    /// Opens a pinned map.
    pub(crate) fn map(&self, name: &str) -> MapHandle {
        self.bench.pins.map(name)
    }

    pub(crate) fn close(self) {
        self.datapath.detach().unwrap();
    }
}

impl super::space::PinDir {
    /// Opens a pinned map.
    pub(crate) fn map(&self, name: &str) -> MapHandle {
        let entries = fs::read_dir(&self.0).unwrap().flatten();
        let maps = entries.map(|entry| entry.path()).find(|path| path.join(name).exists()).unwrap();
        MapHandle::from_pinned_path(maps.join(name)).unwrap()
    }
}

/// Removes all elements of a map without the datapath.
pub(crate) fn clear(map: &MapHandle) {
    let keys: Vec<_> = map.keys().collect();
    assert!(!keys.is_empty(), "there is nothing to remove");
    for key in &keys {
        map.delete(key).unwrap();
    }
}

/// Flips one bit in every value of a map. A second call restores the values.
pub(crate) fn spoil(map: &MapHandle, byte: usize) {
    let keys: Vec<_> = map.keys().collect();
    assert!(!keys.is_empty(), "there is nothing to spoil");
    for key in keys {
        let mut value = map.lookup(&key, MapFlags::ANY).unwrap().unwrap();
        value[byte] ^= 1;
        map.update(&key, &value, MapFlags::ANY).unwrap();
    }
}
