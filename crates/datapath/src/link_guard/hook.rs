//! Attachment of the programs to a pod link: as filters of a clsact queueing discipline, or in tcx.
//!
//! A filter is attached within a fraction of a millisecond. To attach to tcx takes a grace period of RCU (about 16 ms),
//! during which the kernel holds the lock of all links, so that other CNI plugins wait too. But to create a queueing
//! discipline the kernel takes the link out of use for a moment and drops packets to the pod. Tcx has three advantages:
//! its programs are not removed by accident, they come before all filters, and they need no queueing discipline that
//! another program may own.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use libbpf_rs::{Object, ProgramType};

use super::{PodLink, clsact, tcx};
use crate::Error;
use crate::object::LINK_PROGRAMS;

/// Attachment point of the programs at pod links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkHook {
    /// `tcx` (since Linux 6.6). The program comes first, whatever filters the link has.
    Tcx,
    /// A filter of a `clsact` queueing discipline, or of an `ingress` one that belongs to another program.
    Clsact,
    /// A filter, if the link is not in use yet or has the queueing discipline. Else `tcx`, as well as where programs or
    /// filters of others would come first or the discipline has no place.
    Either,
}

/// The two directions of a link, as seen from its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkDirection {
    /// Frames that the pod sends.
    FromPod,
    /// Frames to the pod.
    ToPod,
}

impl LinkDirection {
    pub(crate) const BOTH: [Self; 2] = [Self::FromPod, Self::ToPod];

    /// Name of the program for this direction, as the kernel keeps it.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::FromPod => LINK_PROGRAMS[0],
            Self::ToPod => LINK_PROGRAMS[1],
        }
    }
}

/// The reason why a link could not be guarded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuardError {
    #[error("this kernel has neither tcx nor BPF filters. hint: Linux 6.6 or later has tcx")]
    NoHook,
    #[error("cannot {what}: {error}")]
    Kernel { what: &'static str, error: io::Error },
    #[error("{0}")]
    HookTaken(&'static str),
}

impl GuardError {
    pub(crate) fn kernel(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Kernel { what, error }
    }

    /// True if the link was deleted in the meantime.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Kernel { error, .. } if error.raw_os_error() == Some(nix::libc::ENODEV))
    }
}

/// The attachment point that this kernel supports. None also without root, because it cannot be probed then.
pub(crate) fn probe() -> Option<LinkHook> {
    if tcx::is_supported() {
        Some(LinkHook::Either)
    } else {
        ProgramType::SchedCls.is_supported().unwrap_or(false).then_some(LinkHook::Clsact)
    }
}

/// Makes sure that exactly those programs of Ringfence are attached to a link that it needs. Returns true if one was
/// missing.
pub(super) fn ensure(
    hook: Option<LinkHook>,
    programs: &Object,
    index: u32,
    link: &PodLink,
) -> Result<bool, GuardError> {
    let hook = hook.ok_or(GuardError::NoHook)?;
    let mut attached = false;
    for direction in LinkDirection::BOTH {
        if !link.directions().contains(&direction) {
            if hook != LinkHook::Clsact {
                tcx::remove(index, direction)?;
            }
            if hook != LinkHook::Tcx {
                clsact::remove(index, direction)?;
            }
            continue;
        }
        let program = programs.progs().find(|program| program.name() == direction.program());
        let Some(program) = program else { return Err(GuardError::NoHook) };
        let descriptor: BorrowedFd<'_> = program.as_fd();
        attached |= match hook {
            LinkHook::Tcx => tcx::ensure(index, direction, descriptor)?,
            LinkHook::Clsact => clsact::ensure(index, direction, descriptor)?,
            LinkHook::Either => ensure_either(index, direction, descriptor, link)?,
        };
    }
    Ok(attached)
}

/// A program that is attached in tcx stays there.
fn ensure_either(
    index: u32,
    direction: LinkDirection,
    program: BorrowedFd<'_>,
    link: &PodLink,
) -> Result<bool, GuardError> {
    if tcx::is_empty(index, direction)? && (link.idle || clsact::is_there(index)?) {
        match clsact::ensure(index, direction, program) {
            Err(error) if !error.is_gone() => {}
            result => return result,
        }
    }
    let attached = tcx::ensure(index, direction, program)?;
    let moved = attached && clsact::remove(index, direction)?;
    Ok(attached && !moved)
}

/// Detaches our programs from a link, from tcx and clsact. No error if the link is gone.
pub(super) fn remove(index: u32) -> Result<(), Error> {
    for direction in LinkDirection::BOTH {
        let removed = if tcx::is_supported() { tcx::remove(index, direction) } else { Ok(()) };
        match removed.and_then(|()| clsact::remove(index, direction).map(drop)) {
            Err(error) if !error.is_gone() => {
                return Err(Error::LinkGuard { index, why: error.to_string() });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Detaches our programs from all links of the calling thread's network namespace that `keep` does not select,
/// including programs of other processes.
pub(crate) fn sweep(keep: impl Fn(u32) -> bool) -> Result<(), Error> {
    let links = nix::net::if_::if_nameindex().map_err(|e| Error::Netlink { what: "list links", error: e.into() })?;
    let indices: BTreeSet<u32> = links.iter().map(nix::net::if_::Interface::index).collect();
    indices.into_iter().filter(|index| !keep(*index)).try_for_each(remove)
}
