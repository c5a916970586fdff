//! Programs attached as filters of traffic control.
//!
//! The queueing discipline at a link may belong to another program: the plugin `bandwidth` creates one of kind
//! `ingress`. It is kept, and the program becomes one of its filters, unless another filter would come first. A
//! discipline of kind `ingress` has no place for frames to the pod. A `clsact` discipline that Ringfence created is
//! kept without filters after the last one is removed. To remove it, the kernel would take the link out of use for a
//! moment and drop packets to the pod. It is removed together with the link.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use libbpf_rs::{Program, TC_EGRESS, TC_INGRESS, TcAttachPoint, TcHook, TcHookBuilder};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::LinkDirection;
use super::hook::GuardError;
use super::programs::is_ours;
use crate::nfnetlink::{ACK, Connection, REQUEST, attribute};

/// The first priority: the kernel runs filters in this order, and two kinds of filter cannot share a priority.
const PRIORITY: u32 = 1;
const HANDLE: u32 = 1;
/// `RTM_GETQDISC`, `TC_H_INGRESS`, `TCA_KIND` (include/uapi/linux/rtnetlink.h, pkt_sched.h).
const GET: u16 = 38;
/// `NLM_F_ECHO`: the answer is sent to the socket that asked too, not only to listeners.
const ECHO: u16 = 0x8;
const INGRESS: u32 = 0xffff_fff1;
const KIND: u16 = 1;
/// Bytes of `nlmsghdr` and `tcmsg`, and bytes between the first word of `tcmsg` and its attributes.
const REQUEST_LENGTH: u32 = 36;
const MESSAGE_REST: usize = 16;

const CLSACT: &str = "clsact";

const NO_PLACE: &str = "the queueing discipline of another program at this link has no place for frames to the pod. \
                        hint: Linux 6.6 or later (tcx) needs none";
const NOT_FIRST: &str = "the filter of another program at this link comes first. hint: Linux 6.6 or later (tcx) runs \
                         programs before all filters";

impl LinkDirection {
    fn attach_point(self) -> TcAttachPoint {
        match self {
            Self::FromPod => TC_INGRESS,
            Self::ToPod => TC_EGRESS,
        }
    }
}

/// Attaches a program to a link, in place of an earlier one of Ringfence if there is one. Returns false if it was
/// attached already.
pub(super) fn ensure(index: u32, direction: LinkDirection, program: BorrowedFd<'_>) -> Result<bool, GuardError> {
    let mut hook = at(index, direction, program)?;
    let mut kind = discipline(index)?;
    if kind.is_none() {
        hook.create().map_err(refused("make a queueing discipline"))?;
        kind = discipline(index)?;
    }
    if !has_place(kind.as_deref(), direction) {
        return Err(GuardError::HookTaken(NO_PLACE));
    }
    let own = Program::id_from_fd(program).map_err(refused("look at a program"))?;
    let there = hook.query().ok();
    if there == Some(own) {
        return Ok(false);
    }
    match there {
        Some(id) if !is_ours(id, direction).map_err(GuardError::kernel("list programs"))? => {
            return Err(GuardError::HookTaken(NOT_FIRST));
        }
        there => hook.replace(there.is_some()).attach().map_err(|error| match error.kind() {
            // The filter there is of another kind, or for another protocol.
            libbpf_rs::ErrorKind::InvalidInput | libbpf_rs::ErrorKind::AlreadyExists => {
                GuardError::HookTaken(NOT_FIRST)
            }
            _ => refused("attach a filter")(error),
        })?,
    };
    Ok(true)
}

/// True if a link has a clsact queueing discipline, which has a place for both directions.
pub(super) fn is_there(index: u32) -> Result<bool, GuardError> {
    Ok(discipline(index)?.as_deref() == Some(CLSACT))
}

/// Removes the filter of Ringfence from one direction of a link. Returns true if there was one.
pub(super) fn remove(index: u32, direction: LinkDirection) -> Result<bool, GuardError> {
    if !has_place(discipline(index)?.as_deref(), direction) {
        return Ok(false);
    }
    // The library requires a program, but does not send it with queries and removals.
    let none = io::stdin();
    let mut hook = at(index, direction, none.as_fd())?;
    match hook.query() {
        Ok(id) if is_ours(id, direction).map_err(GuardError::kernel("list programs"))? => {
            hook.detach().map_err(refused("remove a filter"))?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn at(index: u32, direction: LinkDirection, program: BorrowedFd<'_>) -> Result<TcHook, GuardError> {
    let gone = |_too_large| GuardError::kernel("find a link")(io::Error::from_raw_os_error(nix::libc::ENODEV));
    let mut builder = TcHookBuilder::new(program);
    builder.ifindex(i32::try_from(index).map_err(gone)?).handle(HANDLE).priority(PRIORITY);
    Ok(builder.hook(direction.attach_point()))
}

/// True if a discipline of this kind can hold a filter for a direction. One of kind `ingress` would accept a filter for
/// the other direction, but would run it for frames from the pod.
fn has_place(discipline: Option<&str>, direction: LinkDirection) -> bool {
    discipline == Some(CLSACT) || (discipline == Some("ingress") && direction == LinkDirection::FromPod)
}

fn refused(what: &'static str) -> impl FnOnce(libbpf_rs::Error) -> GuardError {
    move |error| GuardError::kernel(what)(io::Error::other(error.to_string()))
}

/// Returns the kind of the queueing discipline for frames from the pod, if the link has one.
fn discipline(index: u32) -> Result<Option<String>, GuardError> {
    let mut kind = None;
    let asked = ask(index, |attributes| {
        let text = attribute(attributes, KIND).map(|text| String::from_utf8_lossy(text));
        kind = text.map(|text| text.trim_end_matches('\0').to_owned());
    });
    match asked {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        asked => asked.map(|()| kind).map_err(GuardError::kernel("look at the queueing discipline")),
    }
}

/// Asks the kernel for that discipline. `each` is called with the attributes of the answer.
fn ask(index: u32, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut request = Vec::from(REQUEST_LENGTH.to_ne_bytes());
    request.extend(GET.to_ne_bytes());
    request.extend((REQUEST | ACK | ECHO).to_ne_bytes());
    // Sequence number, port, family; then link, handle, parent and info.
    request.extend([0; 12]);
    request.extend([index, 0, INGRESS, 0].map(u32::to_ne_bytes).concat());
    let connection = Connection::of(NETLINK_ROUTE)?;
    connection.request(&request, |_, rest| each(rest.get(MESSAGE_REST..).unwrap_or_default()))
}
