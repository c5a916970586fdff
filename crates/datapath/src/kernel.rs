//! System calls that the libraries do not wrap, and waiting for a grace period.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use libbpf_rs::{MapCore as _, MapFlags, MapHandle, MapType, libbpf_sys};
use nix::errno::Errno;

/// Much longer than the program takes for any packet. Used if the kernel cannot wait for a grace period.
const GRACE_PERIOD_FALLBACK: Duration = Duration::from_secs(1);

/// Waits for a grace period of RCU, which protects netfilter hooks. Every packet that was in the program at the time of
/// the call has left it afterwards. This takes milliseconds.
pub(crate) fn grace_period() {
    if let Err(error) = wait_for_programs() {
        tracing::debug!(%error, "the kernel cannot wait for a grace period, waiting a fixed time instead");
        thread::sleep(GRACE_PERIOD_FALLBACK);
    }
}

/// A change of a map of maps returns when no running program can still use the old map (`kernel/bpf/syscall.c`,
/// `maybe_wait_bpf_programs`). Other than with `membarrier`, this is true with one processor and with `nohz_full` too.
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

/// Pins a link or a map, even if it was pinned before. The library pins a link only once.
#[expect(unsafe_code, reason = "the library's function refuses a link that was pinned, also if the pin is gone")]
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends in a zero and outlives the call, which only reads it.
    match unsafe { libbpf_sys::bpf_obj_pin(object.as_raw_fd(), path.as_ptr()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

/// Calls `BPF_MAP_LOOKUP_BATCH` once. Fills `keys` and `values` from the front. Returns the number of elements, and
/// true if they were the last ones. `token` is the position at which the next call continues; with `from_start` it is
/// only written.
///
/// The library's iterator ends at the first batch that is not full, but any batch of a hash map may be that.
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
