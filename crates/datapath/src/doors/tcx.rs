//! Programs in tcx, without a link object: they stay as long as the device, whatever becomes of pins and processes.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use libbpf_rs::{Program, libbpf_sys};

use super::Side;
use super::hook::Refusal;
use super::programs::is_ours;

/// `BPF_F_BEFORE`, `BPF_F_AFTER` and `BPF_F_ID` (include/uapi/linux/bpf.h). Before nobody means first of all.
const BEFORE: u32 = 1 << 3;
const AFTER: u32 = 1 << 4;
const BY_ID: u32 = 1 << 5;
/// How many programs the kernel lets stand at one side of a link (`BPF_MPROG_MAX`).
const MOST: usize = 64;
/// The loopback device, which every network namespace has.
const LOOPBACK: u32 = 1;

impl Side {
    fn attach_type(self) -> libbpf_sys::bpf_attach_type {
        match self {
            Self::From => libbpf_sys::BPF_TCX_INGRESS,
            Self::To => libbpf_sys::BPF_TCX_EGRESS,
        }
    }
}

/// Whether this kernel has tcx.
pub(super) fn is_supported() -> bool {
    list(LOOPBACK, Side::From).is_ok()
}

/// Whether no program stands at a side of a link, whoever's.
pub(super) fn is_empty(index: u32, side: Side) -> Result<bool, Refusal> {
    Ok(list(index, side).map_err(Refusal::kernel("list the programs in tcx"))?.ids.is_empty())
}

/// Makes sure that a program is at a link, and no earlier one of ours; true if it was not. The earlier one goes when
/// the new one is there, so that nothing passes in between.
pub(super) fn ensure(index: u32, side: Side, program: BorrowedFd<'_>) -> Result<bool, Refusal> {
    let own = Program::id_from_fd(program)
        .map_err(|e| Refusal::kernel("look at a program")(io::Error::other(e.to_string())))?;
    let there = list(index, side).map_err(Refusal::kernel("list the programs in tcx"))?.ids;
    let anew = !there.contains(&own);
    if anew {
        attach(index, side, program).map_err(Refusal::kernel("attach to tcx"))?;
    }
    there.into_iter().filter(|id| *id != own).try_for_each(|id| remove_ours(index, side, id))?;
    Ok(anew)
}

/// Takes all programs of ours from a side of a link.
pub(super) fn remove(index: u32, side: Side) -> Result<(), Refusal> {
    let there = list(index, side).map_err(Refusal::kernel("list the programs in tcx"))?.ids;
    there.into_iter().try_for_each(|id| remove_ours(index, side, id))
}

/// Takes a program from a side of a link, if it is one of ours.
fn remove_ours(index: u32, side: Side, id: u32) -> Result<(), Refusal> {
    if is_ours(id, side).map_err(Refusal::kernel("list programs"))? {
        detach(index, side, id).map_err(Refusal::kernel("detach from tcx"))?;
    }
    Ok(())
}

/// The programs at a side of a link, and the number of the state in which they are all that is there.
struct List {
    ids: Vec<u32>,
    revision: u64,
}

/// The programs at a side of a link, in order.
#[expect(unsafe_code, reason = "the library does not wrap BPF_PROG_QUERY of links")]
fn list(index: u32, side: Side) -> io::Result<List> {
    let mut ids = [0_u32; MOST];
    let mut options = libbpf_sys::bpf_prog_query_opts {
        sz: size_of::<libbpf_sys::bpf_prog_query_opts>() as _,
        prog_ids: ids.as_mut_ptr(),
        __bindgen_anon_1: libbpf_sys::bpf_prog_query_opts__bindgen_ty_1 { count: 64 },
        ..Default::default()
    };
    // SAFETY: the kernel writes at most `count` ids, for which there is room, and the options, which are ours.
    let result = unsafe { libbpf_sys::bpf_prog_query_opts(target(index)?, side.attach_type(), &raw mut options) };
    check(result)?;
    // SAFETY: both variants of the union are the same number.
    let count = unsafe { options.__bindgen_anon_1.count } as usize;
    Ok(List { ids: ids[..count.min(MOST)].to_vec(), revision: options.revision })
}

#[expect(unsafe_code, reason = "the library does not wrap attaching without a link object")]
fn attach(index: u32, side: Side, program: BorrowedFd<'_>) -> io::Result<()> {
    let options = libbpf_sys::bpf_prog_attach_opts {
        sz: size_of::<libbpf_sys::bpf_prog_attach_opts>() as _,
        flags: BEFORE,
        ..Default::default()
    };
    // SAFETY: the call takes numbers and reads the options, which live until it returns.
    check(unsafe {
        libbpf_sys::bpf_prog_attach_opts(program.as_raw_fd(), target(index)?, side.attach_type(), &raw const options)
    })
}

/// By its place, as to open it by its id would take `CAP_SYS_ADMIN`.
#[expect(unsafe_code, reason = "the library does not wrap detaching without a link object")]
fn detach(index: u32, side: Side, id: u32) -> io::Result<()> {
    loop {
        let List { ids, revision } = list(index, side)?;
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
            libbpf_sys::bpf_prog_detach_opts(0, target(index)?, side.attach_type(), &raw const options)
        });
        // Somebody else changed something there meanwhile: places are others.
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
