//! Addresses of one node's pods: given round robin, kept on disk, never given again at once.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::addressing::pod_address;
use crate::place::Place;

/// First and last number a pod can have in its node's range.
const NUMBERS: std::ops::RangeInclusive<u8> = 2..=254;

/// A pod's addresses, default family first.
pub type PodAddresses = Vec<IpAddr>;

/// Allocations of a node's addresses.
#[derive(Debug)]
pub struct Allocations {
    file: PathBuf,
    ranges: Vec<IpNet>,
    state: State,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    /// Number given last.
    last: u8,
    /// Numbers in use, by the uid of the pod.
    used: BTreeMap<String, u8>,
}

impl Allocations {
    /// Those of a node, as they were left.
    pub fn load(place: &Place, node: &str, ranges: Vec<IpNet>) -> io::Result<Self> {
        let directory = place.node_directory(node);
        fs::create_dir_all(&directory)?;
        Self::load_file(&directory.join("addresses.json"), ranges)
    }

    fn load_file(file: &Path, ranges: Vec<IpNet>) -> io::Result<Self> {
        let state = match fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { file: file.to_owned(), ranges, state })
    }

    /// Gives a pod addresses, always the same while it keeps them. None if the node is full.
    pub fn allocate(&mut self, uid: &str) -> io::Result<Option<PodAddresses>> {
        if let Some(number) = self.state.used.get(uid) {
            return Ok(Some(self.addresses(*number)));
        }
        let Some(number) = self.next_free() else { return Ok(None) };
        self.state.last = number;
        self.state.used.insert(uid.to_owned(), number);
        self.save()?;
        Ok(Some(self.addresses(number)))
    }

    /// Takes a pod's addresses back.
    pub fn release(&mut self, uid: &str) -> io::Result<()> {
        if self.state.used.remove(uid).is_some() {
            self.save()?;
        }
        Ok(())
    }

    /// Uids of the pods that have addresses.
    pub fn holders(&self) -> Vec<String> {
        self.state.used.keys().cloned().collect()
    }

    fn next_free(&self) -> Option<u8> {
        let used: Vec<u8> = self.state.used.values().copied().collect();
        NUMBERS.filter(|number| *number > self.state.last).chain(NUMBERS).find(|number| !used.contains(number))
    }

    fn addresses(&self, number: u8) -> PodAddresses {
        self.ranges.iter().map(|range| pod_address(*range, number)).collect()
    }

    fn save(&self) -> io::Result<()> {
        crate::files::replace(&self.file, &serde_json::to_vec(&self.state)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocations(file: &Path) -> Allocations {
        let ranges = vec!["10.245.1.0/24".parse().unwrap(), "fd00:10:245:1::/64".parse().unwrap()];
        Allocations::load_file(file, ranges).unwrap()
    }

    #[test]
    fn an_address_given_back_is_not_given_again_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("addresses.json");
        let mut table = allocations(&file);
        let first = table.allocate("a").unwrap().unwrap();
        assert_eq!(first, ["10.245.1.2".parse::<IpAddr>().unwrap(), "fd00:10:245:1::2".parse().unwrap()]);
        assert_eq!(table.allocate("a").unwrap().unwrap(), first);
        table.release("a").unwrap();
        assert_ne!(table.allocate("b").unwrap().unwrap(), first);
        // The order survives a restart.
        let mut table = allocations(&file);
        assert_eq!(table.holders(), ["b"]);
        assert_ne!(table.allocate("c").unwrap().unwrap(), first);
    }

    #[test]
    fn a_full_node_gives_nothing_until_an_address_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut table = allocations(&directory.path().join("addresses.json"));
        for number in NUMBERS {
            assert!(table.allocate(&format!("pod-{number}")).unwrap().is_some());
        }
        assert_eq!(table.allocate("one more").unwrap(), None);
        table.release("pod-9").unwrap();
        assert_eq!(table.allocate("one more").unwrap().unwrap()[0], "10.245.1.9".parse::<IpAddr>().unwrap());
    }
}
