//! One pod calls another every 10 ms: by new connections, by datagrams, and on a connection that stays open.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ringfence_e2e::knock;
use ringfence_netns::Namespace;

use super::ledger::{Pair, Ticket};
use super::server::{ECHO, KNOCK, Load};
use super::stream::Stream;

/// Time between two probes of a kind.
pub(crate) const INTERVAL: Duration = Duration::from_millis(10);
/// After so long a first packet counts as unanswered. Less than the second after which the kernel sends another.
pub(crate) const PATIENCE: Duration = Duration::from_millis(900);

/// Ends a thread when dropped.
pub(crate) struct End(pub(crate) Arc<AtomicBool>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Probes from inside a namespace until the guard is dropped.
pub(crate) fn start(namespace: Namespace, server: IpAddr, load: Arc<Load>, pair: Arc<Pair>) -> End {
    let end = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&end);
    thread::spawn(move || {
        let ended = namespace.run(|| run(server, &load, &pair, &stop));
        if let Err(error) = ended.map_err(anyhow::Error::from).flatten() {
            pair.ledger.note(|counts| counts.dropped += 1, &format!("{}: the prober ended: {error:#}", pair.name));
        }
    });
    End(end)
}

/// A first packet that waits for its answer.
struct Waiting {
    connection: OwnedFd,
    sent: Instant,
    ticket: Ticket,
}

fn run(server: IpAddr, load: &Load, pair: &Arc<Pair>, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut waiting: VecDeque<Waiting> = VecDeque::new();
    let mut datagrams = Datagrams::to(server)?;
    let mut stream = Stream::to(server);
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let ticket = pair.ticket();
        let connection = knock::open(server).context("cannot make a socket")?;
        let sent = Instant::now();
        knock::send(&connection, SocketAddr::new(server, KNOCK));
        waiting.push_back(Waiting { connection, sent, ticket });
        datagrams.tick(ticket, load, pair);
        let messages = stream.tick(ticket, load, pair);
        pair.ledger.sent(2 + messages);
        collect(&mut waiting, pair)?;
        next += INTERVAL;
        let now = Instant::now();
        if let Some(rest) = next.checked_duration_since(now) {
            thread::sleep(rest);
        } else {
            // Was held up: no burst to catch up.
            pair.ledger.late(now - next);
            next = now;
        }
    }
    Ok(())
}

/// Decides every first packet that has its answer, or has waited long enough.
fn collect(waiting: &mut VecDeque<Waiting>, pair: &Pair) -> anyhow::Result<()> {
    // Before asking, lest an answer that is there be missed because asking took long.
    let now = Instant::now();
    let mut answers = knock::answers(waiting.iter().map(|probe| &probe.connection)).context("poll")?.into_iter();
    waiting.retain(|probe| {
        let answer = answers.next().flatten();
        if answer.is_none() && now.saturating_duration_since(probe.sent) < PATIENCE {
            return true;
        }
        pair.decide(probe.ticket, probe.sent, answer == Some(true));
        false
    });
    Ok(())
}

/// Datagrams of one socket, which come back.
struct Datagrams {
    socket: UdpSocket,
    number: u64,
    waiting: VecDeque<(u64, Instant, Ticket)>,
}

impl Datagrams {
    fn to(server: IpAddr) -> anyhow::Result<Self> {
        let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0)).context("cannot make a datagram socket")?;
        socket.connect((server, ECHO)).context("cannot address the far end")?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, number: 0, waiting: VecDeque::new() })
    }

    fn tick(&mut self, ticket: Ticket, load: &Load, pair: &Pair) {
        self.number += 1;
        self.waiting.push_back((self.number, Instant::now(), ticket));
        // What cannot be sent is not answered.
        let _ = self.socket.send(&self.number.to_be_bytes());
        let now = Instant::now();
        let mut message = [0; 8];
        // An error is an earlier datagram's, by ICMP: it is no answer, and the next call goes on.
        for _ in 0..1000 {
            match self.socket.recv(&mut message) {
                Ok(8) => self.answered(u64::from_be_bytes(message), pair),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => {}
            }
        }
        while let Some(&(_, sent, then)) = self.waiting.front() {
            if now.saturating_duration_since(sent) < PATIENCE {
                break;
            }
            self.waiting.pop_front();
            if then.expect == super::ledger::Expect::Open && pair.ticket() == then {
                load.judge(sent, pair, "a datagram");
            }
        }
    }

    fn answered(&mut self, number: u64, pair: &Pair) {
        let Ok(at) = self.waiting.binary_search_by_key(&number, |(number, ..)| *number) else { return };
        if let Some((_, _, ticket)) = self.waiting.remove(at)
            && ticket.expect == super::ledger::Expect::Shut
            && pair.ticket() == ticket
        {
            pair.leaked("a datagram was answered");
        }
    }
}
