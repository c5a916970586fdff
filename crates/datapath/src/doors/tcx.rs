//! Programs in tcx, without a link object: they stay as long as the device, whatever becomes of pins and processes.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use libbpf_rs::{Program, libbpf_sys};

use super::Side;
use super::hook::Refusal;

/// `BPF_F_REPLACE` and `BPF_F_BEFORE` (include/uapi/linux/bpf.h); the latter alone means before all others.
const REPLACE: u32 = 1 << 2;
const BEFORE: u32 = 1 << 3;
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

/// Makes sure that a program is at a link, in place of an earlier one of ours if there is one; true if it was not.
pub(super) fn ensure(index: u32, side: Side, program: BorrowedFd<'_>) -> Result<bool, Refusal> {
    let refused = Refusal::kernel("attach to tcx");
    let own = Program::id_from_fd(program)
        .map_err(|e| Refusal::kernel("look at a program")(io::Error::other(e.to_string())))?;
    let there = list(index, side).map_err(Refusal::kernel("list the programs in tcx"))?;
    if there.contains(&own) {
        return Ok(false);
    }
    let earlier = there.into_iter().find_map(|id| ours(id, side));
    attach(index, side, program, earlier.as_ref().map(|earlier| earlier.as_fd())).map_err(refused)?;
    Ok(true)
}

/// Takes all programs of ours from a side of a link.
pub(super) fn remove(index: u32, side: Side) -> Result<(), Refusal> {
    let there = list(index, side).map_err(Refusal::kernel("list the programs in tcx"))?;
    for program in there.into_iter().filter_map(|id| ours(id, side)) {
        detach(index, side, program.as_fd()).map_err(Refusal::kernel("detach from tcx"))?;
    }
    Ok(())
}

/// The program of an id, if it is one of ours for a side, of whichever version.
pub(super) fn ours(id: u32, side: Side) -> Option<OwnedFd> {
    // One that has gone meanwhile is nobody's.
    let program = Program::fd_from_id(id).ok()?;
    (name(program.as_fd())? == side.program()).then_some(program)
}

/// The ids of the programs at a side of a link, in order.
#[expect(unsafe_code, reason = "the library does not wrap BPF_PROG_QUERY of links")]
fn list(index: u32, side: Side) -> io::Result<Vec<u32>> {
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
    Ok(ids[..count.min(MOST)].to_vec())
}

#[expect(unsafe_code, reason = "the library does not wrap attaching without a link object")]
fn attach(index: u32, side: Side, program: BorrowedFd<'_>, instead_of: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let options = libbpf_sys::bpf_prog_attach_opts {
        sz: size_of::<libbpf_sys::bpf_prog_attach_opts>() as _,
        flags: if instead_of.is_some() { REPLACE } else { BEFORE },
        __bindgen_anon_1: libbpf_sys::bpf_prog_attach_opts__bindgen_ty_1 {
            replace_fd: instead_of.map_or(0, |program| program.as_raw_fd()),
        },
        ..Default::default()
    };
    // SAFETY: the call takes numbers and reads the options, which live until it returns.
    check(unsafe {
        libbpf_sys::bpf_prog_attach_opts(program.as_raw_fd(), target(index)?, side.attach_type(), &raw const options)
    })
}

#[expect(unsafe_code, reason = "the library does not wrap detaching without a link object")]
fn detach(index: u32, side: Side, program: BorrowedFd<'_>) -> io::Result<()> {
    let options = libbpf_sys::bpf_prog_detach_opts {
        sz: size_of::<libbpf_sys::bpf_prog_detach_opts>() as _,
        ..Default::default()
    };
    // SAFETY: the call takes numbers and reads the options, which live until it returns.
    check(unsafe {
        libbpf_sys::bpf_prog_detach_opts(program.as_raw_fd(), target(index)?, side.attach_type(), &raw const options)
    })
}

#[expect(unsafe_code, reason = "the library tells names only of all programs there are, one after another")]
fn name(program: BorrowedFd<'_>) -> Option<String> {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut length = u32::try_from(size_of_val(&info)).ok()?;
    // SAFETY: the kernel writes at most `length` bytes into the structure, whose pointers are null.
    let result = unsafe { libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut info, &raw mut length) };
    check(result).ok()?;
    let bytes: Vec<u8> = info.name.iter().map(|byte| byte.to_ne_bytes()[0]).collect();
    Some(CStr::from_bytes_until_nul(&bytes).ok()?.to_string_lossy().into_owned())
}

fn target(index: u32) -> io::Result<i32> {
    i32::try_from(index).map_err(|_too_large| io::Error::from_raw_os_error(nix::libc::ENODEV))
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}
