//! Kernel maps with typed keys and values.

use std::marker::PhantomData;
use std::path::Path;
use std::thread;
use std::time::Duration;

use libbpf_rs::{ErrorKind, MapCore as _, MapFlags, MapHandle};
use nix::errno::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::kernel::lookup_batch;
use crate::{ApplyError, Error};

/// How many elements go to the kernel in one call.
const BATCH: usize = 1024;
/// How often an insertion is tried again while the kernel's allocator for map elements refills.
const ATTEMPTS: u32 = 50;
/// How often of these at once.
const AT_ONCE: u32 = 10;
const REFILL: Duration = Duration::from_millis(1);

/// What can be a key or a value.
pub(crate) trait Raw: IntoBytes + FromBytes + Immutable + Copy {}

impl<T: IntoBytes + FromBytes + Immutable + Copy> Raw for T {}

/// Opens the map pinned as `name` in a directory.
pub(crate) fn open_map(directory: &Path, name: &str) -> Result<MapHandle, Error> {
    let path = directory.join(name);
    MapHandle::from_pinned_path(&path).map_err(Error::bpf(format!("open the map pinned at {}", path.display())))
}

/// How many elements of a map stay free: before Linux 6.13 a trie that is full refuses to replace one.
pub(crate) fn spare(name: &str) -> u32 {
    u32::from(matches!(name, "prefixes" | "gates" | "pod_ranges"))
}

/// A pinned kernel map.
#[derive(Debug)]
struct Map {
    name: &'static str,
    handle: MapHandle,
    /// Elements that stay free.
    spare: u32,
}

impl Map {
    fn open(directory: &Path, name: &'static str) -> Result<Self, Error> {
        let handle = open_map(directory, name)?;
        let spare = spare(name);
        Ok(Self { name, handle, spare })
    }

    /// How many elements fit.
    fn capacity(&self) -> usize {
        self.handle.max_entries().saturating_sub(self.spare) as usize
    }

    /// Inserts; tries again while there is no memory.
    fn put(&self, insert: impl Fn(&MapHandle) -> libbpf_rs::Result<()>) -> libbpf_rs::Result<()> {
        let mut attempt = 1;
        loop {
            match insert(&self.handle) {
                // Mostly it refills within microseconds; of values per processor it holds but a few.
                Err(error) if error.kind() == ErrorKind::OutOfMemory && attempt < AT_ONCE => thread::yield_now(),
                Err(error) if error.kind() == ErrorKind::OutOfMemory && attempt < ATTEMPTS => thread::sleep(REFILL),
                result => return result,
            }
            attempt += 1;
        }
    }

    /// Removes; an element that is not there is no error.
    fn delete(&self, key: &impl Raw) -> Result<(), ApplyError> {
        self.may_write("delete an element")?;
        match self.handle.delete(key.as_bytes()) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result.map_err(|e| self.error("delete an element", e)),
        }
    }

    fn error(&self, what: &'static str, error: libbpf_rs::Error) -> ApplyError {
        ApplyError::Kernel { map: self.name, what, error }
    }

    /// In tests a write can be made to fail.
    #[cfg(test)]
    fn may_write(&self, what: &'static str) -> Result<(), ApplyError> {
        crate::faults::strike().map_err(|errno| self.error(what, libbpf_rs::Error::from_raw_os_error(errno as i32)))
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "in tests it does something")]
    fn may_write(&self, _what: &'static str) -> Result<(), ApplyError> {
        Ok(())
    }
}

/// A map with one value a key.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    map: Map,
    kinds: PhantomData<fn(K) -> V>,
}

impl<K: Raw, V: Raw> Table<K, V> {
    pub(crate) fn open(directory: &Path, name: &'static str) -> Result<Self, Error> {
        Ok(Self { map: Map::open(directory, name)?, kinds: PhantomData })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.map.name
    }

    /// How many elements fit.
    pub(crate) fn capacity(&self) -> usize {
        self.map.capacity()
    }

    pub(crate) fn get(&self, key: &K) -> Result<Option<V>, ApplyError> {
        let bytes = self.map.handle.lookup(key.as_bytes(), MapFlags::ANY);
        let bytes = bytes.map_err(|e| self.map.error("look up an element", e))?;
        Ok(bytes.and_then(|bytes| V::read_from_bytes(&bytes).ok()))
    }

    pub(crate) fn put(&self, key: &K, value: &V) -> Result<(), ApplyError> {
        self.map.may_write("put an element")?;
        let put = self.map.put(|handle| handle.update(key.as_bytes(), value.as_bytes(), MapFlags::ANY));
        put.map_err(|e| self.map.error("put an element", e))
    }

    /// Inserts or replaces.
    pub(crate) fn put_all(&self, pairs: &[(K, V)]) -> Result<(), ApplyError> {
        for chunk in pairs.chunks(batch()) {
            if chunk.len() == 1 || self.put_batch(chunk).is_err() {
                chunk.iter().try_for_each(|(key, value)| self.put(key, value))?;
            }
        }
        Ok(())
    }

    fn put_batch(&self, pairs: &[(K, V)]) -> Result<(), libbpf_rs::Error> {
        let (keys, values): (Vec<K>, Vec<V>) = pairs.iter().copied().unzip();
        let count = u32::try_from(pairs.len()).unwrap_or(u32::MAX);
        self.map.handle.update_batch(keys.as_bytes(), values.as_bytes(), count, MapFlags::ANY, MapFlags::ANY)
    }

    /// Removes; an element that is not there is no error.
    pub(crate) fn delete(&self, key: &K) -> Result<(), ApplyError> {
        self.map.delete(key)
    }

    /// Removes all of these.
    pub(crate) fn delete_all(&self, keys: &[K]) -> Result<(), ApplyError> {
        keys.iter().try_for_each(|key| self.delete(key))
    }

    /// Everything in the map.
    pub(crate) fn dump(&self) -> Result<Vec<(K, V)>, ApplyError> {
        self.dump_first(usize::MAX)
    }

    /// At least the first so many elements.
    pub(crate) fn dump_first(&self, enough: usize) -> Result<Vec<(K, V)>, ApplyError> {
        let mut all = Vec::new();
        let mut token = vec![0; size_of::<K>().max(size_of::<u32>())];
        let mut room = BATCH;
        let mut begun = false;
        while all.len() < enough {
            let (mut keys, mut values) = (vec![0; room * size_of::<K>()], vec![0; room * size_of::<V>()]);
            match lookup_batch(&self.map.handle, !begun, &mut token, &mut keys, &mut values) {
                Ok((count, last)) => {
                    let keys = keys.chunks_exact(size_of::<K>()).map(K::read_from_bytes);
                    let values = values.chunks_exact(size_of::<V>()).map(V::read_from_bytes);
                    all.extend(keys.zip(values).take(count).filter_map(|(key, value)| Some((key.ok()?, value.ok()?))));
                    if last {
                        break;
                    }
                    begun = true;
                }
                Err(Errno::ENOSPC) => room *= 2,
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(error) => {
                    let error = libbpf_rs::Error::from_raw_os_error(error as i32);
                    return Err(self.map.error("read the elements", error));
                }
            }
        }
        Ok(all)
    }
}

/// How many elements of a change go to the kernel in one call: in tests that make writes fail, one.
fn batch() -> usize {
    #[cfg(test)]
    if crate::faults::are_planned() {
        return 1;
    }
    BATCH
}

/// A map with one value a processor.
#[derive(Debug)]
pub(crate) struct PerCpu<K, V> {
    map: Map,
    kinds: PhantomData<fn(K) -> V>,
}

impl<K: Raw, V: Raw> PerCpu<K, V> {
    pub(crate) fn open(directory: &Path, name: &'static str) -> Result<Self, Error> {
        Ok(Self { map: Map::open(directory, name)?, kinds: PhantomData })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.map.name
    }

    pub(crate) fn capacity(&self) -> usize {
        self.map.capacity()
    }

    /// The values of all processors under one key.
    pub(crate) fn get(&self, key: &K) -> Result<Vec<V>, ApplyError> {
        let values = self.map.handle.lookup_percpu(key.as_bytes(), MapFlags::ANY);
        let values = values.map_err(|e| self.map.error("look up an element", e))?;
        Ok(values.unwrap_or_default().iter().filter_map(|value| V::read_from_bytes(value).ok()).collect())
    }

    /// Inserts a zero under the key unless there is something.
    pub(crate) fn ensure(&self, key: &K) -> Result<(), ApplyError> {
        self.map.may_write("put an element")?;
        let processors = libbpf_rs::num_possible_cpus().map_err(|e| self.map.error("count the processors", e))?;
        let zeros = vec![vec![0; size_of::<V>()]; processors];
        match self.map.put(|handle| handle.update_percpu(key.as_bytes(), &zeros, MapFlags::NO_EXIST)) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            result => result.map_err(|e| self.map.error("put an element", e)),
        }
    }

    pub(crate) fn delete(&self, key: &K) -> Result<(), ApplyError> {
        self.map.delete(key)
    }

    pub(crate) fn keys(&self) -> Vec<K> {
        self.map.handle.keys().filter_map(|key| K::read_from_bytes(&key).ok()).collect()
    }
}
