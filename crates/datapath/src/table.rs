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
const REFILL: Duration = Duration::from_millis(1);

/// A pinned kernel map.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    pub(crate) name: &'static str,
    handle: MapHandle,
    kinds: PhantomData<fn(K) -> V>,
}

/// Opens the map pinned as `name` in a directory.
pub(crate) fn open_map(directory: &Path, name: &str) -> Result<MapHandle, Error> {
    let path = directory.join(name);
    MapHandle::from_pinned_path(&path).map_err(Error::bpf(format!("open the map pinned at {}", path.display())))
}

impl<K, V> Table<K, V>
where
    K: IntoBytes + FromBytes + Immutable + Copy,
    V: IntoBytes + FromBytes + Immutable + Copy,
{
    pub(crate) fn open(directory: &Path, name: &'static str) -> Result<Self, Error> {
        Ok(Self { name, handle: open_map(directory, name)?, kinds: PhantomData })
    }

    /// How many elements fit.
    pub(crate) fn capacity(&self) -> usize {
        self.handle.max_entries() as usize
    }

    pub(crate) fn get(&self, key: &K) -> Result<Option<V>, ApplyError> {
        let bytes =
            self.handle.lookup(key.as_bytes(), MapFlags::ANY).map_err(|e| self.error("look up an element", e))?;
        Ok(bytes.and_then(|bytes| V::read_from_bytes(&bytes).ok()))
    }

    pub(crate) fn put(&self, key: &K, value: &V) -> Result<(), ApplyError> {
        for attempt in 1.. {
            match self.handle.update(key.as_bytes(), value.as_bytes(), MapFlags::ANY) {
                Err(error) if error.kind() == ErrorKind::OutOfMemory && attempt < ATTEMPTS => thread::sleep(REFILL),
                result => return result.map_err(|e| self.error("put an element", e)),
            }
        }
        Ok(())
    }

    /// Inserts or replaces.
    pub(crate) fn put_all(&self, pairs: &[(K, V)]) -> Result<(), ApplyError> {
        for chunk in pairs.chunks(BATCH) {
            if chunk.len() == 1 || self.put_batch(chunk).is_err() {
                chunk.iter().try_for_each(|(key, value)| self.put(key, value))?;
            }
        }
        Ok(())
    }

    fn put_batch(&self, pairs: &[(K, V)]) -> Result<(), libbpf_rs::Error> {
        let (keys, values): (Vec<K>, Vec<V>) = pairs.iter().copied().unzip();
        let count = u32::try_from(pairs.len()).unwrap_or(u32::MAX);
        self.handle.update_batch(keys.as_bytes(), values.as_bytes(), count, MapFlags::ANY, MapFlags::ANY)
    }

    /// Removes; an element that is not there is no error.
    pub(crate) fn delete(&self, key: &K) -> Result<(), ApplyError> {
        match self.handle.delete(key.as_bytes()) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result.map_err(|e| self.error("delete an element", e)),
        }
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
            match lookup_batch(&self.handle, !begun, &mut token, &mut keys, &mut values) {
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
                    return Err(self.error("read the elements", error));
                }
            }
        }
        Ok(all)
    }

    fn error(&self, what: &'static str, source: libbpf_rs::Error) -> ApplyError {
        ApplyError::Kernel { map: self.name, what, source }
    }
}

/// A map with one value a processor.
#[derive(Debug)]
pub(crate) struct PerCpu<K, V> {
    pub(crate) name: &'static str,
    handle: MapHandle,
    kinds: PhantomData<fn(K) -> V>,
}

impl<K, V> PerCpu<K, V>
where
    K: IntoBytes + FromBytes + Immutable + Copy,
    V: IntoBytes + FromBytes + Immutable + Copy,
{
    pub(crate) fn open(directory: &Path, name: &'static str) -> Result<Self, Error> {
        Ok(Self { name, handle: open_map(directory, name)?, kinds: PhantomData })
    }

    pub(crate) fn capacity(&self) -> usize {
        self.handle.max_entries() as usize
    }

    /// The values of all processors under one key.
    pub(crate) fn get(&self, key: &K) -> Result<Vec<V>, ApplyError> {
        let values = self
            .handle
            .lookup_percpu(key.as_bytes(), MapFlags::ANY)
            .map_err(|e| self.error("look up an element", e))?;
        Ok(values.unwrap_or_default().iter().filter_map(|value| V::read_from_bytes(value).ok()).collect())
    }

    /// Inserts a zero under the key unless there is something.
    pub(crate) fn ensure(&self, key: &K) -> Result<(), ApplyError> {
        let processors = libbpf_rs::num_possible_cpus().map_err(|e| self.error("count the processors", e))?;
        let zeros = vec![vec![0; size_of::<V>()]; processors];
        for attempt in 1.. {
            match self.handle.update_percpu(key.as_bytes(), &zeros, MapFlags::NO_EXIST) {
                Err(error) if error.kind() == ErrorKind::OutOfMemory && attempt < ATTEMPTS => thread::sleep(REFILL),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => break,
                result => return result.map_err(|e| self.error("put an element", e)),
            }
        }
        Ok(())
    }

    pub(crate) fn delete(&self, key: &K) -> Result<(), ApplyError> {
        match self.handle.delete(key.as_bytes()) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result.map_err(|e| self.error("delete an element", e)),
        }
    }

    pub(crate) fn keys(&self) -> Vec<K> {
        self.handle.keys().filter_map(|key| K::read_from_bytes(&key).ok()).collect()
    }

    fn error(&self, what: &'static str, source: libbpf_rs::Error) -> ApplyError {
        ApplyError::Kernel { map: self.name, what, source }
    }
}
