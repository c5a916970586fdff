//! Sees every TCP and UDP packet that arrives in a pod, whether it is answered or not.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, recvfrom, setsockopt, socket, sockopt,
};
use parking_lot::RwLock;
use ringfence_netns::Namespace;

use super::ledger::{Expect, Pair};
use super::prober::End;

/// Bytes of packets that wait to be seen.
const BUFFER: usize = 4 << 20;

/// Callers of a pod.
pub(crate) struct Callers {
    /// By address.
    pub(crate) known: RwLock<HashMap<IpAddr, Arc<Pair>>>,
    /// Everybody else.
    pub(crate) others: Arc<Pair>,
    /// Packets that arrived.
    pub(crate) arrived: AtomicU64,
}

impl Callers {
    fn saw(&self, from: IpAddr, protocol: SockProtocol, port: u16) {
        if from.is_loopback() {
            return;
        }
        self.arrived.fetch_add(1, Ordering::Relaxed);
        let known = self.known.read();
        let pair = known.get(&from).unwrap_or(&self.others);
        if pair.ticket().expect == Expect::Shut {
            pair.leaked(&format!("a packet of {from} to port {port} ({protocol:?}) arrived"));
        }
    }
}

/// Watches from inside a namespace until the guard is dropped.
pub(crate) fn start(namespace: &Namespace, family: IpAddr, callers: &Arc<Callers>) -> anyhow::Result<End> {
    let sockets = namespace.run(|| -> anyhow::Result<_> {
        Ok([(raw(family, SockProtocol::Tcp)?, SockProtocol::Tcp), (raw(family, SockProtocol::Udp)?, SockProtocol::Udp)])
    })??;
    let end = Arc::new(AtomicBool::new(false));
    let (stop, callers) = (Arc::clone(&end), Arc::clone(callers));
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let mut polled = sockets.each_ref().map(|(socket, _)| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
            let _ = poll(&mut polled, PollTimeout::from(200_u8));
            for (socket, protocol) in &sockets {
                while let Some((from, port)) = next(socket, family) {
                    callers.saw(from, *protocol, port);
                }
            }
        }
    });
    Ok(End(end))
}

/// A socket that gets every packet of a protocol.
pub(crate) fn raw(family: IpAddr, protocol: SockProtocol) -> anyhow::Result<OwnedFd> {
    let family = if family.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(family, SockType::Raw, flags, protocol).context("cannot see packets")?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).context("cannot make room for packets")?;
    Ok(socket)
}

/// Source of the next packet, and its destination port.
fn next(socket: &OwnedFd, family: IpAddr) -> Option<(IpAddr, u16)> {
    let (from, packet) = receive(socket, family)?;
    Some((from, u16::from_be_bytes([packet[2], packet[3]])))
}

/// Source of the next packet, and the first four bytes of its header: both ports.
pub(crate) fn receive(socket: &OwnedFd, family: IpAddr) -> Option<(IpAddr, [u8; 4])> {
    let mut packet = [0; 128];
    loop {
        let (length, from) = recvfrom::<SockaddrStorage>(socket.as_raw_fd(), &mut packet).ok()?;
        let from = from?;
        let address = from.as_sockaddr_in().map(|from| IpAddr::from(from.ip()));
        let address = address.or_else(|| from.as_sockaddr_in6().map(|from| IpAddr::from(from.ip())))?;
        // IPv4 comes with its header.
        let start = if family.is_ipv4() { usize::from(packet[0] & 0xf) * 4 } else { 0 };
        if let Some(header) = packet[..length].get(start..).and_then(|rest| rest.first_chunk::<4>()) {
            return Some((address, *header));
        }
    }
}
