//! Opens a connection every half millisecond and says which were answered.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, connect, getsockopt, setsockopt, socket, sockopt,
};
use ringfence_netns::Namespace;

/// After so long a first packet counts as unanswered. Less than the second after which the kernel sends another.
pub(super) const PATIENCE: Duration = Duration::from_millis(250);

/// Port probed.
const PORT: u16 = 80;

/// What became of one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    /// When its first packet was sent.
    pub(super) sent: Instant,
    /// Whether it was answered.
    pub(super) answered: bool,
}

/// Stops the prober when dropped.
pub(super) struct End(Arc<AtomicBool>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Probes from inside a namespace until the guard is dropped.
pub(super) fn start(
    namespace: &str,
    server: Ipv4Addr,
    interval: Duration,
    out: mpsc::Sender<Probe>,
) -> anyhow::Result<End> {
    let namespace = Namespace::open(namespace).context("the client's network namespace")?;
    let end = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&end);
    thread::spawn(move || namespace.run(|| run(server, interval, &out, &stop)));
    Ok(End(end))
}

/// A probe that waits for its answer.
struct Waiting {
    connection: OwnedFd,
    sent: Instant,
}

fn run(server: Ipv4Addr, interval: Duration, out: &mpsc::Sender<Probe>, stop: &AtomicBool) {
    let mut waiting: VecDeque<Waiting> = VecDeque::new();
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if let Ok(probe) = send(server) {
            waiting.push_back(probe);
        }
        collect(&mut waiting, |probe| out.send(probe).is_ok());
        next += interval;
        let now = Instant::now();
        match next.checked_duration_since(now) {
            Some(rest) => thread::sleep(rest),
            // Was held up: no burst to catch up.
            None => next = now,
        }
    }
}

fn send(server: Ipv4Addr) -> nix::Result<Waiting> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let connection = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    // Closing sends a reset: no port lingers.
    setsockopt(&connection, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    let sent = Instant::now();
    match connect(connection.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(server, PORT))) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(Waiting { connection, sent }),
        Err(error) => Err(error),
    }
}

/// Reports every probe that has its answer, or has waited long enough.
fn collect(waiting: &mut VecDeque<Waiting>, report: impl Fn(Probe) -> bool) {
    let mut polled: Vec<PollFd<'_>> =
        waiting.iter().map(|probe| PollFd::new(probe.connection.as_fd(), PollFlags::POLLOUT)).collect();
    if poll(&mut polled, PollTimeout::ZERO).is_err() {
        return;
    }
    #[expect(clippy::needless_collect, reason = "the connections are lent to `polled` until its answers are copied")]
    let ready: Vec<bool> = polled.iter().map(|fd| fd.any() == Some(true)).collect();
    let mut ready = ready.into_iter();
    let now = Instant::now();
    waiting.retain(|probe| {
        let ready = ready.next() == Some(true);
        if !ready && now.duration_since(probe.sent) < PATIENCE {
            return true;
        }
        let answered = ready && getsockopt(&probe.connection, sockopt::SocketError) == Ok(0);
        let _ = report(Probe { sent: probe.sent, answered });
        false
    });
}
