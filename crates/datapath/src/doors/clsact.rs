//! Programs as filters of traffic control.
//!
//! Others may own the queueing discipline at a link: the plugin `bandwidth` puts one of kind `ingress` there. It stays
//! as it is, and ours becomes one of its filters, unless theirs would be before it. Such a one has no place for what
//! would reach the pod. A `clsact` of ours stays without filters when the last one goes: to take it away the kernel
//! would take the link out of use for a moment and drop what is on its way to the pod. It goes with the link.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use libbpf_rs::{Program, TC_EGRESS, TC_INGRESS, TcAttachPoint, TcHook, TcHookBuilder};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::Side;
use super::hook::Refusal;
use super::programs::is_ours;
use crate::nfnetlink::{ACK, Connection, REQUEST, attribute};

/// Before all others: the kernel asks filters in order of these, and two kinds of filter cannot share one.
const PRIORITY: u32 = 1;
const HANDLE: u32 = 1;
/// `RTM_GETQDISC`, `TC_H_INGRESS`, `TCA_KIND` (include/uapi/linux/rtnetlink.h, pkt_sched.h).
const GET: u16 = 38;
/// `NLM_F_ECHO`: what is asked about is sent to who asked, too, and not to listeners alone.
const ECHO: u16 = 0x8;
const INGRESS: u32 = 0xffff_fff1;
const KIND: u16 = 1;
/// Bytes of `nlmsghdr` and `tcmsg`; bytes of the latter that come before its attributes, but for the first word.
const REQUEST_LENGTH: u32 = 36;
const MESSAGE_REST: usize = 16;

const CLSACT: &str = "clsact";

const NO_PLACE: &str = "somebody else's queueing discipline at this link has no place for what would reach the pod. \
                        hint: Linux 6.6 or later (tcx) needs none";
const NOT_FIRST: &str = "somebody else's filter at this link is before any other. hint: Linux 6.6 or later (tcx) does \
                         not need its place";

impl Side {
    fn attach_point(self) -> TcAttachPoint {
        match self {
            Self::From => TC_INGRESS,
            Self::To => TC_EGRESS,
        }
    }
}

/// Makes sure that a program is at a link, in place of an earlier one of ours if there is one; true if it was not.
pub(super) fn ensure(index: u32, side: Side, program: BorrowedFd<'_>) -> Result<bool, Refusal> {
    let mut hook = at(index, side, program)?;
    let mut kind = discipline(index)?;
    if kind.is_none() {
        hook.create().map_err(refused("make a queueing discipline"))?;
        kind = discipline(index)?;
    }
    if !has_place(kind.as_deref(), side) {
        return Err(Refusal::Taken(NO_PLACE));
    }
    let own = Program::id_from_fd(program).map_err(refused("look at a program"))?;
    let there = hook.query().ok();
    if there == Some(own) {
        return Ok(false);
    }
    match there {
        Some(id) if !is_ours(id, side).map_err(Refusal::kernel("list programs"))? => {
            return Err(Refusal::Taken(NOT_FIRST));
        }
        there => hook.replace(there.is_some()).attach().map_err(|error| match error.kind() {
            // Of another kind, or another protocol's.
            libbpf_rs::ErrorKind::InvalidInput | libbpf_rs::ErrorKind::AlreadyExists => Refusal::Taken(NOT_FIRST),
            _ => refused("attach a filter")(error),
        })?,
    };
    Ok(true)
}

/// Whether a link has the queueing discipline that has a place for both sides.
pub(super) fn is_there(index: u32) -> Result<bool, Refusal> {
    Ok(discipline(index)?.as_deref() == Some(CLSACT))
}

/// Takes our filter from a side of a link; true if there was one.
pub(super) fn remove(index: u32, side: Side) -> Result<bool, Refusal> {
    if !has_place(discipline(index)?.as_deref(), side) {
        return Ok(false);
    }
    // The library wants a program; to look and to remove it is not sent along.
    let none = io::stdin();
    let mut hook = at(index, side, none.as_fd())?;
    match hook.query() {
        Ok(id) if is_ours(id, side).map_err(Refusal::kernel("list programs"))? => {
            hook.detach().map_err(refused("remove a filter"))?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn at(index: u32, side: Side, program: BorrowedFd<'_>) -> Result<TcHook, Refusal> {
    let gone = |_too_large| Refusal::kernel("find a link")(io::Error::from_raw_os_error(nix::libc::ENODEV));
    let mut builder = TcHookBuilder::new(program);
    builder.ifindex(i32::try_from(index).map_err(gone)?).handle(HANDLE).priority(PRIORITY);
    Ok(builder.hook(side.attach_point()))
}

/// An `ingress` one would take a filter for the other side, too, and ask it about what comes in.
fn has_place(discipline: Option<&str>, side: Side) -> bool {
    discipline == Some(CLSACT) || (discipline == Some("ingress") && side == Side::From)
}

fn refused(what: &'static str) -> impl FnOnce(libbpf_rs::Error) -> Refusal {
    move |error| Refusal::kernel(what)(io::Error::other(error.to_string()))
}

/// The kind of the queueing discipline a link has for what comes in, if it has one.
fn discipline(index: u32) -> Result<Option<String>, Refusal> {
    let mut kind = None;
    let asked = ask(index, |attributes| {
        let text = attribute(attributes, KIND).map(|text| String::from_utf8_lossy(text));
        kind = text.map(|text| text.trim_end_matches('\0').to_owned());
    });
    match asked {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        asked => asked.map(|()| kind).map_err(Refusal::kernel("look at the queueing discipline")),
    }
}

/// Asks for it; `each` sees the attributes of what is there.
fn ask(index: u32, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut request = Vec::from(REQUEST_LENGTH.to_ne_bytes());
    request.extend(GET.to_ne_bytes());
    request.extend((REQUEST | ACK | ECHO).to_ne_bytes());
    // Sequence number, port; family; then link, handle, parent and nothing else.
    request.extend([0; 12]);
    request.extend([index, 0, INGRESS, 0].map(u32::to_ne_bytes).concat());
    let connection = Connection::of(NETLINK_ROUTE)?;
    connection.request(&request, |_, rest| each(rest.get(MESSAGE_REST..).unwrap_or_default()))
}
