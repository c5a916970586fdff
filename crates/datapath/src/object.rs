//! The compiled kernel program: map sizes, loading, and the version.

use std::path::Path;

use libbpf_rs::{Object, ObjectBuilder, OpenMapMut, PrintLevel};

use crate::abi::ABI;
use crate::{Error, Sizes};

/// The bytes of the ELF object, aligned for its headers.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/ringfence.bpf.o")));

/// The program that is attached.
pub(crate) const PROGRAM: &str = "ringfence";
/// The program that only test runs use.
pub(crate) const TEST_PROGRAM: &str = "ringfence_test";
/// The programs at a pod link: for frames from the pod and for frames to it. The kernel keeps at most 15 bytes of a
/// name.
pub(crate) const LINK_PROGRAMS: [&str; 2] = ["ringfence_from", "ringfence_to"];
/// The program that lists all programs of the kernel. It uses no map.
pub(crate) const LIST_PROGRAM: &str = "ringfence_list";
/// The map that only test runs use.
const TEST_MAP: &str = "test_run";

/// All maps that are pinned.
pub(crate) const MAPS: [&str; 18] = [
    "endpoints",
    "ipcache",
    "policy",
    "interfaces",
    "pod_links",
    "tunnels",
    "ipcache_cidrs",
    "closed_cidrs",
    "pod_cidrs",
    "infra_addresses",
    "port_ranges",
    "flows",
    "drop_dedup",
    "notify_limits",
    "config",
    "drops",
    "rule_counters",
    "events",
];

/// The version of layout and program. Versions of equal layout can share maps; versions with an equal program have the
/// same code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) layout: u64,
    pub(crate) program: u64,
}

impl Version {
    pub(crate) fn new(sizes: &Sizes) -> Self {
        let layout = MAPS.iter().fold(hash(HASH_START, &ABI.to_ne_bytes()), |state, name| {
            let entries = sizes.of(name).unwrap_or_default();
            hash(hash(state, name.as_bytes()), &entries.to_ne_bytes())
        });
        let layout = map_definitions().iter().fold(layout, |state, definition| hash(state, definition));
        Self { layout, program: hash(layout, &OBJECT.0) }
    }
}

/// Key size, value size, type and flags of every map.
fn map_definitions() -> Vec<[u8; 16]> {
    let Ok(object) = ObjectBuilder::default().open_memory(&OBJECT.0) else { return Vec::new() };
    let mut definitions: Vec<_> = object
        .maps()
        .map(|map| {
            let mut definition = [0; 16];
            for (at, number) in
                [map.key_size(), map.value_size(), map.map_type() as u32, map.map_flags()].into_iter().enumerate()
            {
                definition[at * 4..][..4].copy_from_slice(&number.to_ne_bytes());
            }
            definition
        })
        .collect();
    definitions.sort_unstable();
    definitions
}

/// Sends the output of libbpf to the log at level debug. Much of it is expected, such as a priority that is taken.
pub(crate) fn log_at_debug() {
    let log = |_, text: String| tracing::debug!(target: "libbpf", "{}", text.trim_end());
    libbpf_rs::set_print(Some((PrintLevel::Info, log)));
}

/// Loads some of the programs. They use the maps pinned in a directory, if one is given, else new maps.
pub(crate) fn load(programs: &[&str], sizes: &Sizes, maps: Option<&Path>) -> Result<Object, Error> {
    let mut open = ObjectBuilder::default().open_memory(&OBJECT.0).map_err(Error::bpf("read the BPF object"))?;
    for mut candidate in open.progs_mut() {
        let wanted = programs.iter().any(|program| candidate.name() == *program);
        candidate.set_autoload(wanted);
    }
    for mut map in open.maps_mut() {
        prepare_map(&mut map, programs, sizes, maps)?;
    }
    open.load().map_err(Error::bpf(format!("load the BPF program `{}`", programs.join("`, `"))))
}

fn prepare_map(map: &mut OpenMapMut<'_>, programs: &[&str], sizes: &Sizes, maps: Option<&Path>) -> Result<(), Error> {
    let name = map.name().to_string_lossy().into_owned();
    if name == TEST_MAP || programs == [LIST_PROGRAM] {
        return map
            .set_autocreate(programs.contains(&TEST_PROGRAM))
            .map_err(Error::bpf(format!("prepare the BPF map `{name}`")));
    }
    if let Some(directory) = maps.filter(|_| MAPS.contains(&name.as_str())) {
        let path = directory.join(&name);
        return map
            .reuse_pinned_map(&path)
            .map_err(Error::bpf(format!("reuse the BPF map pinned at {}", path.display())));
    }
    match sizes.of(&name) {
        Some(entries) => map.set_max_entries(entries).map_err(Error::bpf(format!("size the BPF map `{name}`"))),
        None => Ok(()),
    }
}

const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a. The hash only distinguishes versions of our own files.
fn hash(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |state, byte| (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_does_not_tell_where_it_was_compiled() {
        for directory in [env!("CARGO_MANIFEST_DIR"), env!("OUT_DIR")] {
            let named = OBJECT.0.windows(directory.len()).any(|part| part == directory.as_bytes());
            assert!(!named, "{directory}: the same sources would give another object elsewhere");
        }
    }
}
