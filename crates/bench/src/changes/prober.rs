//! Knocks every half millisecond and says which knocks were answered.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ringfence_e2e::knock;
use ringfence_netns::Namespace;

/// After so long a first packet counts as unanswered. Less than the second after which the kernel sends another.
const PROBE_TIMEOUT: Duration = Duration::from_millis(250);

/// Port probed. Nobody listens there: the far end's kernel answers at once with a reset and remembers nothing. An
/// accepted connection would stay open at the far end if a change of policy cut it before the near end closed it, and
/// the next probe from the same source port would be answered with a challenge (RFC 5961, 4.2) instead.
pub(crate) const PORT: u16 = 9;

/// Report of a prober. For each probe first that it is sent, in order; later what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Its first packet is about to be sent.
    Sent(Instant),
    /// Nothing that happens from now on can change its outcome.
    Decided {
        /// When it was sent.
        sent: Instant,
        /// True if it was answered.
        answered: bool,
    },
}

/// Stops the prober when dropped.
pub(crate) struct End(Arc<AtomicBool>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Probes from inside a namespace until the guard is dropped.
pub(crate) fn start(namespace: Arc<Namespace>, server: Ipv4Addr, interval: Duration, out: mpsc::Sender<Told>) -> End {
    let end = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&end);
    thread::spawn(move || namespace.run(|| run(server, interval, &out, &stop)));
    End(end)
}

/// A probe that waits for its answer.
struct Waiting {
    connection: OwnedFd,
    sent: Instant,
}

fn run(server: Ipv4Addr, interval: Duration, out: &mpsc::Sender<Told>, stop: &AtomicBool) {
    let mut waiting: VecDeque<Waiting> = VecDeque::new();
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if let Ok(connection) = knock::open(server.into()) {
            let sent = Instant::now();
            let _ = out.send(Told::Sent(sent));
            knock::send(&connection, SocketAddrV4::new(server, PORT).into());
            waiting.push_back(Waiting { connection, sent });
        }
        collect(&mut waiting, out);
        next += interval;
        let now = Instant::now();
        match next.checked_duration_since(now) {
            Some(rest) => thread::sleep(rest),
            // Was held up: no burst to catch up.
            None => next = now,
        }
    }
}

/// Tells of every probe that has its answer, or has waited long enough.
fn collect(waiting: &mut VecDeque<Waiting>, out: &mpsc::Sender<Told>) {
    // Before asking, lest an answer that is there be missed because asking took long.
    let now = Instant::now();
    let Ok(answers) = knock::answers(waiting.iter().map(|probe| &probe.connection)) else { return };
    let mut answers = answers.into_iter();
    waiting.retain(|probe| {
        let answer = answers.next().flatten();
        if answer.is_none() && now.saturating_duration_since(probe.sent) < PROBE_TIMEOUT {
            return true;
        }
        let answered = answer == Some(true);
        let _ = out.send(Told::Decided { sent: probe.sent, answered });
        false
    });
}
