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

/// Elements per batch call.
const BATCH: usize = 1024;
/// Attempts at an insertion while the kernel's allocator for map elements refills.
const INSERT_ATTEMPTS: u32 = 50;
/// Attempts that follow each other without a pause.
const SPIN_ATTEMPTS: u32 = 10;
const REFILL_INTERVAL: Duration = Duration::from_millis(1);

/// A type that can be a key or a value.
pub(crate) trait MapBytes: IntoBytes + FromBytes + Immutable + Copy {}

impl<T: IntoBytes + FromBytes + Immutable + Copy> MapBytes for T {}

/// Opens the map pinned as `name` in a directory.
pub(crate) fn open_map(directory: &Path, name: &str) -> Result<MapHandle, Error> {
    let path = directory.join(name);
    MapHandle::from_pinned_path(&path).map_err(Error::bpf(format!("open the map pinned at {}", path.display())))
}

/// Elements of a map that stay free: before Linux 6.13 a full trie refuses to replace an element.
pub(crate) fn reserved(name: &str) -> u32 {
    u32::from(matches!(name, "ipcache_cidrs" | "closed_cidrs" | "pod_cidrs"))
}

/// A pinned kernel map.
#[derive(Debug)]
struct Map {
    name: &'static str,
    handle: MapHandle,
    /// Elements that stay free.
    reserved: u32,
}

impl Map {
    fn open(directory: &Path, name: &'static str) -> Result<Self, Error> {
        let handle = open_map(directory, name)?;
        let reserved = reserved(name);
        Ok(Self { name, handle, reserved })
    }

    /// Capacity in elements.
    fn capacity(&self) -> usize {
        self.handle.max_entries().saturating_sub(self.reserved) as usize
    }

    /// Inserts an element. Tries again while the kernel has no memory for it.
    fn put(&self, insert: impl Fn(&MapHandle) -> libbpf_rs::Result<()>) -> libbpf_rs::Result<()> {
        let mut attempt = 1;
        loop {
            match insert(&self.handle) {
                // The allocator mostly refills within microseconds; for values per processor it holds only a few.
                Err(error) if error.kind() == ErrorKind::OutOfMemory && attempt < SPIN_ATTEMPTS => thread::yield_now(),
                Err(error) if error.kind() == ErrorKind::OutOfMemory && attempt < INSERT_ATTEMPTS => {
                    thread::sleep(REFILL_INTERVAL);
                }
                result => return result,
            }
            attempt += 1;
        }
    }

    /// Deletes an element. No error if it does not exist.
    fn delete(&self, key: &impl MapBytes) -> Result<(), ApplyError> {
        self.may_write("delete an element")?;
        match self.handle.delete(key.as_bytes()) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result.map_err(|e| self.error("delete an element", e)),
        }
    }

    fn error(&self, what: &'static str, error: libbpf_rs::Error) -> ApplyError {
        ApplyError::Kernel { map: self.name, what, error }
    }

    /// Lets a write fail if a test has planned that.
    #[cfg(test)]
    fn may_write(&self, what: &'static str) -> Result<(), ApplyError> {
        crate::faults::write().map_err(|errno| self.error(what, libbpf_rs::Error::from_raw_os_error(errno as i32)))
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "in tests it does something")]
    fn may_write(&self, _what: &'static str) -> Result<(), ApplyError> {
        Ok(())
    }
}

/// A map with one value per key.
#[derive(Debug)]
pub(crate) struct TypedMap<K, V> {
    map: Map,
    kinds: PhantomData<fn(K) -> V>,
}

impl<K: MapBytes, V: MapBytes> TypedMap<K, V> {
    pub(crate) fn open(directory: &Path, name: &'static str) -> Result<Self, Error> {
        Ok(Self { map: Map::open(directory, name)?, kinds: PhantomData })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.map.name
    }

    /// Capacity in elements.
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

    /// Inserts or replaces elements.
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

    /// Deletes an element. No error if it does not exist.
    pub(crate) fn delete(&self, key: &K) -> Result<(), ApplyError> {
        self.map.delete(key)
    }

    /// Deletes elements.
    pub(crate) fn delete_all(&self, keys: &[K]) -> Result<(), ApplyError> {
        keys.iter().try_for_each(|key| self.delete(key))
    }

    /// Returns all elements.
    pub(crate) fn dump(&self) -> Result<Vec<(K, V)>, ApplyError> {
        self.dump_first(usize::MAX)
    }

    /// Returns at least the first `enough` elements.
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

/// Elements per batch call: one in tests that make writes fail.
fn batch() -> usize {
    #[cfg(test)]
    if crate::faults::are_planned() {
        return 1;
    }
    BATCH
}

/// A map with one value per key and processor.
#[derive(Debug)]
pub(crate) struct PerCpuMap<K, V> {
    map: Map,
    kinds: PhantomData<fn(K) -> V>,
}

impl<K: MapBytes, V: MapBytes> PerCpuMap<K, V> {
    pub(crate) fn open(directory: &Path, name: &'static str) -> Result<Self, Error> {
        Ok(Self { map: Map::open(directory, name)?, kinds: PhantomData })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.map.name
    }

    pub(crate) fn capacity(&self) -> usize {
        self.map.capacity()
    }

    /// Returns the values of all processors for a key.
    pub(crate) fn get(&self, key: &K) -> Result<Vec<V>, ApplyError> {
        let values = self.map.handle.lookup_percpu(key.as_bytes(), MapFlags::ANY);
        let values = values.map_err(|e| self.map.error("look up an element", e))?;
        Ok(values.unwrap_or_default().iter().filter_map(|value| V::read_from_bytes(value).ok()).collect())
    }

    /// Inserts zeros for a key that does not exist.
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
