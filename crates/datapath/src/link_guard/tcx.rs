//! Programs attached to tcx without a link object. They stay as long as the device, whether or not pins and processes
//! do.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use libbpf_rs::{Program, libbpf_sys};

use super::LinkDirection;
use super::hook::GuardError;
use super::programs::is_ours;

/// `BPF_F_BEFORE`, `BPF_F_AFTER` and `BPF_F_ID` (include/uapi/linux/bpf.h). `BPF_F_BEFORE` without a program means
/// first of all.
const BEFORE: u32 = 1 << 3;
const AFTER: u32 = 1 << 4;
const BY_ID: u32 = 1 << 5;
/// The number of programs that the kernel permits in one direction of a link (`BPF_MPROG_MAX`).
const MOST: usize = 64;
/// The loopback device, which every network namespace has.
const LOOPBACK: u32 = 1;

impl LinkDirection {
    fn attach_type(self) -> libbpf_sys::bpf_attach_type {
        match self {
            Self::FromPod => libbpf_sys::BPF_TCX_INGRESS,
            Self::ToPod => libbpf_sys::BPF_TCX_EGRESS,
        }
    }
}

/// True if this kernel has tcx.
pub(super) fn is_supported() -> bool {
    list(LOOPBACK, LinkDirection::FromPod).is_ok()
}

/// True if no program is attached in a direction of a link, ours or another.
pub(super) fn is_empty(index: u32, direction: LinkDirection) -> Result<bool, GuardError> {
    Ok(list(index, direction).map_err(GuardError::kernel("list the programs in tcx"))?.ids.is_empty())
}

/// Attaches a program to a link and then removes earlier ones of Ringfence, so that nothing passes in between. Returns
/// false if it was attached already.
pub(super) fn ensure(index: u32, direction: LinkDirection, program: BorrowedFd<'_>) -> Result<bool, GuardError> {
    let own = Program::id_from_fd(program)
        .map_err(|e| GuardError::kernel("look at a program")(io::Error::other(e.to_string())))?;
    let there = list(index, direction).map_err(GuardError::kernel("list the programs in tcx"))?.ids;
    let attached = !there.contains(&own);
    if attached {
        attach(index, direction, program).map_err(GuardError::kernel("attach to tcx"))?;
    }
    there.into_iter().filter(|id| *id != own).try_for_each(|id| remove_ours(index, direction, id))?;
    Ok(attached)
}

/// Removes all programs of Ringfence from one direction of a link.
pub(super) fn remove(index: u32, direction: LinkDirection) -> Result<(), GuardError> {
    let there = list(index, direction).map_err(GuardError::kernel("list the programs in tcx"))?.ids;
    there.into_iter().try_for_each(|id| remove_ours(index, direction, id))
}

/// Removes a program from one direction of a link, if it belongs to Ringfence.
fn remove_ours(index: u32, direction: LinkDirection, id: u32) -> Result<(), GuardError> {
    if is_ours(id, direction).map_err(GuardError::kernel("list programs"))? {
        detach(index, direction, id).map_err(GuardError::kernel("detach from tcx"))?;
    }
    Ok(())
}

/// The programs in one direction of a link, and the revision that the kernel gave this list.
struct List {
    ids: Vec<u32>,
    revision: u64,
}

/// Lists the programs in one direction of a link, in order.
#[expect(unsafe_code, reason = "the library does not wrap BPF_PROG_QUERY of links")]
fn list(index: u32, direction: LinkDirection) -> io::Result<List> {
    let mut ids = [0_u32; MOST];
    let mut options = libbpf_sys::bpf_prog_query_opts {
        sz: size_of::<libbpf_sys::bpf_prog_query_opts>() as _,
        prog_ids: ids.as_mut_ptr(),
        __bindgen_anon_1: libbpf_sys::bpf_prog_query_opts__bindgen_ty_1 { count: 64 },
        ..Default::default()
    };
    // SAFETY: the kernel writes at most `count` ids, for which there is room, and the options, which this function
    // owns.
    let result = unsafe { libbpf_sys::bpf_prog_query_opts(target(index)?, direction.attach_type(), &raw mut options) };
    check(result)?;
    // SAFETY: both variants of the union are the same number.
    let count = unsafe { options.__bindgen_anon_1.count } as usize;
    Ok(List { ids: ids[..count.min(MOST)].to_vec(), revision: options.revision })
}

#[expect(unsafe_code, reason = "the library does not wrap attaching without a link object")]
fn attach(index: u32, direction: LinkDirection, program: BorrowedFd<'_>) -> io::Result<()> {
    let options = libbpf_sys::bpf_prog_attach_opts {
        sz: size_of::<libbpf_sys::bpf_prog_attach_opts>() as _,
        flags: BEFORE,
        ..Default::default()
    };
    // SAFETY: the call takes numbers and reads the options, which live until it returns.
    check(unsafe {
        libbpf_sys::bpf_prog_attach_opts(
            program.as_raw_fd(),
            target(index)?,
            direction.attach_type(),
            &raw const options,
        )
    })
}

/// Detaches a program by its position in the list. Opening it by its id would need `CAP_SYS_ADMIN`.
#[expect(unsafe_code, reason = "the library does not wrap detaching without a link object")]
fn detach(index: u32, direction: LinkDirection, id: u32) -> io::Result<()> {
    loop {
        let List { ids, revision } = list(index, direction)?;
        let Some(place) = ids.iter().position(|there| *there == id) else { return Ok(()) };
        let (flags, relative_id) = place.checked_sub(1).map_or((BEFORE, 0), |before| (AFTER | BY_ID, ids[before]));
        let options = libbpf_sys::bpf_prog_detach_opts {
            sz: size_of::<libbpf_sys::bpf_prog_detach_opts>() as _,
            flags,
            relative_id,
            expected_revision: revision,
            ..Default::default()
        };
        // SAFETY: the call takes numbers and reads the options, which live until it returns.
        let detached = check(unsafe {
            libbpf_sys::bpf_prog_detach_opts(0, target(index)?, direction.attach_type(), &raw const options)
        });
        // The list has changed in the meantime, so positions may differ.
        if !detached.as_ref().is_err_and(|error| error.raw_os_error() == Some(nix::libc::ESTALE)) {
            return detached;
        }
    }
}

fn target(index: u32) -> io::Result<i32> {
    i32::try_from(index).map_err(|_too_large| io::Error::from_raw_os_error(nix::libc::ENODEV))
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}
