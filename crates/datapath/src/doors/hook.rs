//! Where the programs of a door stand: as filters of a clsact queueing discipline, or in tcx.
//!
//! A filter stands within a fraction of a millisecond. To attach to tcx takes a grace period of RCU (16 ms or so), for
//! which the kernel holds the lock of all links: other pods' plugins wait for it too. But to make a queueing discipline
//! the kernel takes the link out of use for a moment, and drops what is on its way to the pod. Also nobody removes a
//! program of tcx by accident, it comes before all filters, and it takes no queueing discipline that somebody else may
//! want.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use libbpf_rs::{Object, ProgramType};

use super::{Port, clsact, tcx};
use crate::Error;
use crate::object::DOOR_PROGRAMS;

/// Where a kernel lets a program see what passes a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkHook {
    /// `tcx` (since Linux 6.6): the program is first, whoever else has filters there.
    Tcx,
    /// A filter of a `clsact` queueing discipline, or of an `ingress` one that is somebody else's.
    Clsact,
    /// A filter at links that are not in use yet, or have the queueing discipline; else tcx, and where others' programs
    /// of tcx or others' filters would come before ours, or there is no place for it.
    Either,
}

/// The two sides of a link, as its pod sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// What the pod sends.
    From,
    /// What would reach it.
    To,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::From, Self::To];

    /// The name of its program, which the kernel keeps.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::From => DOOR_PROGRAMS[0],
            Self::To => DOOR_PROGRAMS[1],
        }
    }
}

/// Why a link could not be guarded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("this kernel has neither tcx nor filters of BPF. hint: Linux 6.6 or later has tcx")]
    Nowhere,
    #[error("cannot {what}: {error}")]
    Kernel { what: &'static str, error: io::Error },
    #[error("{0}")]
    Taken(&'static str),
}

impl Refusal {
    pub(crate) fn kernel(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Kernel { what, error }
    }

    /// The link went while it was looked at.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Kernel { error, .. } if error.raw_os_error() == Some(nix::libc::ENODEV))
    }
}

/// What this kernel has. None also where that cannot be told, without root.
pub(crate) fn probe() -> Option<LinkHook> {
    if tcx::is_supported() {
        Some(LinkHook::Either)
    } else {
        ProgramType::SchedCls.is_supported().unwrap_or(false).then_some(LinkHook::Clsact)
    }
}

/// Makes sure that the programs a port needs, and no others of ours, are at a link; true if one was missing.
pub(super) fn ensure(hook: Option<LinkHook>, programs: &Object, index: u32, port: &Port) -> Result<bool, Refusal> {
    let hook = hook.ok_or(Refusal::Nowhere)?;
    let mut anew = false;
    for side in Side::BOTH {
        if !port.sides().contains(&side) {
            if hook != LinkHook::Clsact {
                tcx::remove(index, side)?;
            }
            if hook != LinkHook::Tcx {
                clsact::remove(index, side)?;
            }
            continue;
        }
        let program = programs.progs().find(|program| program.name() == side.program());
        let Some(program) = program else { return Err(Refusal::Nowhere) };
        let descriptor: BorrowedFd<'_> = program.as_fd();
        anew |= match hook {
            LinkHook::Tcx => tcx::ensure(index, side, descriptor)?,
            LinkHook::Clsact => clsact::ensure(index, side, descriptor)?,
            LinkHook::Either => ensure_either(index, side, descriptor, port)?,
        };
    }
    Ok(anew)
}

/// One that is in tcx stays there.
fn ensure_either(index: u32, side: Side, program: BorrowedFd<'_>, port: &Port) -> Result<bool, Refusal> {
    if tcx::is_empty(index, side)? && (port.idle || clsact::is_there(index)?) {
        match clsact::ensure(index, side, program) {
            Err(refusal) if !refusal.is_gone() => {}
            done => return done,
        }
    }
    let anew = tcx::ensure(index, side, program)?;
    let moved = anew && clsact::remove(index, side)?;
    Ok(anew && !moved)
}

/// Takes our programs from a link, wherever they stand. No error if the link is gone.
pub(super) fn remove(index: u32) -> Result<(), Error> {
    for side in Side::BOTH {
        let removed = if tcx::is_supported() { tcx::remove(index, side) } else { Ok(()) };
        match removed.and_then(|()| clsact::remove(index, side).map(drop)) {
            Err(refusal) if !refusal.is_gone() => {
                return Err(Error::Door { index, why: refusal.to_string() });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Takes our programs from all links of the calling thread's network namespace but some, whoever put them there.
pub(crate) fn sweep(keep: impl Fn(u32) -> bool) -> Result<(), Error> {
    let links = nix::net::if_::if_nameindex().map_err(|e| Error::Netlink { what: "list links", error: e.into() })?;
    let indices: BTreeSet<u32> = links.iter().map(nix::net::if_::Interface::index).collect();
    indices.into_iter().filter(|index| !keep(*index)).try_for_each(remove)
}
