//! First packets of connections to a port that nobody listens on, and whether they were answered.
//!
//! The far end's kernel answers with a reset, at once, and remembers nothing: neither end's processes matter.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getsockopt, socket, sockopt};

/// A connection to be, which does not block.
pub fn open(to: IpAddr) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    Ok(socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?)
}

/// Sends the first packet. Refused at once, or under way: [`answers`] looks.
pub fn send(connection: &OwnedFd, to: SocketAddr) {
    let _ = connect(connection.as_raw_fd(), &SockaddrStorage::from(to));
}

/// Result of each until now: nothing yet, or whether it was answered with a reset.
pub fn answers<'a>(connections: impl Iterator<Item = &'a OwnedFd>) -> io::Result<Vec<Option<bool>>> {
    let connections: Vec<&OwnedFd> = connections.collect();
    let mut polled: Vec<PollFd<'_>> =
        connections.iter().map(|connection| PollFd::new(connection.as_fd(), PollFlags::POLLOUT)).collect();
    poll(&mut polled, PollTimeout::ZERO)?;
    let reset = |connection: &OwnedFd| getsockopt(connection, sockopt::SocketError) == Ok(Errno::ECONNREFUSED as i32);
    let decided = polled.iter().map(|polled| polled.any() == Some(true));
    Ok(decided.zip(&connections).map(|(decided, connection)| decided.then(|| reset(connection))).collect())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_port_without_a_listener_answers_and_one_with_a_listener_is_told_from_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open_port = listener.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let knocks = [closed, open_port].map(|to| {
            let knock = open(to.ip()).unwrap();
            send(&knock, to);
            knock
        });
        let end = Instant::now() + Duration::from_secs(10);
        let mut seen = answers(knocks.iter()).unwrap();
        while seen.contains(&None) {
            assert!(Instant::now() < end, "{seen:?}");
            seen = answers(knocks.iter()).unwrap();
        }
        assert_eq!(seen, [Some(true), Some(false)]);
    }
}
