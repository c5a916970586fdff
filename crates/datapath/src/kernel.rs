//! What is asked of the kernel beside single elements of maps.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use libbpf_rs::{MapCore as _, MapFlags, MapHandle, MapType, libbpf_sys};
use nix::errno::Errno;

/// Far longer than any packet is in the program; should the kernel refuse to say.
const LONG_ENOUGH: Duration = Duration::from_secs(1);

/// Returns when every packet that was being judged when it was called has been: after a grace period of RCU, under
/// whose protection netfilter hooks run. Takes milliseconds.
pub(crate) fn grace_period() {
    if let Err(error) = wait_for_programs() {
        tracing::debug!(%error, "the kernel does not say when a grace period is over, waiting instead");
        thread::sleep(LONG_ENOUGH);
    }
}

/// A change of a map of maps comes back when no program that runs can still use what was there (`kernel/bpf/syscall.c`,
/// `maybe_wait_bpf_programs`). Other than `membarrier` that holds with one processor, too, and with `nohz_full`.
fn wait_for_programs() -> libbpf_rs::Result<()> {
    /// Bytes of keys and values.
    const SIZE: u32 = 4;
    let mut options =
        libbpf_sys::bpf_map_create_opts { sz: size_of::<libbpf_sys::bpf_map_create_opts>() as _, ..Default::default() };
    let inner = MapHandle::create(MapType::Array, Some("rf_inner"), SIZE, SIZE, 1, &options)?;
    let fd = inner.as_fd().as_raw_fd();
    options.inner_map_fd = fd.cast_unsigned();
    let outer = MapHandle::create(MapType::ArrayOfMaps, Some("rf_grace"), SIZE, SIZE, 1, &options)?;
    outer.update(&0u32.to_ne_bytes(), &fd.to_ne_bytes(), MapFlags::ANY)
}

/// Pins a link or a map, whatever it was pinned at before: the library pins a link only once.
#[expect(unsafe_code, reason = "the library's function refuses a link that was pinned, also if the pin is gone")]
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends in a zero and outlives the call, which only reads it.
    match unsafe { libbpf_sys::bpf_obj_pin(object.as_raw_fd(), path.as_ptr()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

/// One call of `BPF_MAP_LOOKUP_BATCH`. Fills `keys` and `values` from the front and returns how many elements there
/// are and whether they were the last. `token` says where to go on; `from_start` where there is none yet.
///
/// The library's iterator takes a batch that is not full for the last one; of a hash map any may be.
///
/// # Errors
/// `ENOSPC` if the buffers are too small for the next bucket of a hash map.
#[expect(unsafe_code, reason = "the library's iterator over batches ends too early")]
pub(crate) fn lookup_batch(
    map: &MapHandle,
    from_start: bool,
    token: &mut [u8],
    keys: &mut [u8],
    values: &mut [u8],
) -> Result<(usize, bool), Errno> {
    let (key, value) = (map.key_size() as usize, map.value_size() as usize);
    assert!(token.len() >= key.max(size_of::<u32>()), "the token has the size of a key, or of a bucket's number");
    let mut count = u32::try_from((keys.len() / key).min(values.len() / value)).unwrap_or(u32::MAX);
    let options =
        libbpf_sys::bpf_map_batch_opts { sz: size_of::<libbpf_sys::bpf_map_batch_opts>() as _, ..Default::default() };
    let start = if from_start { std::ptr::null_mut() } else { token.as_mut_ptr() };
    // SAFETY: the kernel writes at most `count` keys and values, for which there is room, and a token that is no
    // longer than asserted; it reads a token from the same memory before it writes it.
    let result = unsafe {
        libbpf_sys::bpf_map_lookup_batch(
            map.as_fd().as_raw_fd(),
            start.cast(),
            token.as_mut_ptr().cast(),
            keys.as_mut_ptr().cast(),
            values.as_mut_ptr().cast(),
            &raw mut count,
            &raw const options,
        )
    };
    match result {
        0 => Ok((count as usize, false)),
        _ if Errno::from_raw(-result) == Errno::ENOENT => Ok((count as usize, true)),
        _ => Err(Errno::from_raw(-result)),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_says_when_a_grace_period_is_over() {
        if nix::unistd::geteuid().is_root() {
            super::wait_for_programs().unwrap();
        } else {
            println!("skipped: it takes root");
        }
    }
}
