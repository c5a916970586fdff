//! A connection that stays open and exchanges a message every 10 ms.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ringfence_e2e::knock;

use super::ledger::{Expect, Pair, Ticket};
use super::prober::PATIENCE;
use super::server::{Load, STREAM};

/// A connection that is silent for so long is broken.
const BROKEN: Duration = Duration::from_secs(15);
/// The time that it may take to be opened.
const OPENING: Duration = Duration::from_secs(3);

/// The connection, which is made anew whenever what is expected changes.
pub(crate) struct Stream {
    server: IpAddr,
    open: Option<Open>,
}

struct Open {
    socket: TcpStream,
    ticket: Ticket,
    since: Instant,
    established: bool,
    number: u64,
    heard: Instant,
    waiting: VecDeque<(u64, Instant)>,
    partial: Vec<u8>,
}

impl Stream {
    /// None yet.
    pub(crate) fn to(server: IpAddr) -> Self {
        Self { server, open: None }
    }

    /// Sends a message, and takes what came back. Gives how many were sent.
    pub(crate) fn tick(&mut self, ticket: Ticket, load: &Load, pair: &Pair) -> u64 {
        if self.open.as_ref().is_some_and(|open| open.ticket != ticket) {
            // Whatever becomes of it now is a change's doing.
            self.open = None;
        }
        if ticket.expect != Expect::Open {
            return 0;
        }
        let Some(open) = &mut self.open else {
            self.open = Open::to(self.server, ticket);
            return 0;
        };
        match open.tick(load, pair) {
            Ok(sent) => sent,
            Err(error) => {
                if open.established && pair.ticket() == ticket {
                    let text = format!("broken: {}: the open connection ended: {error}", pair.name);
                    pair.ledger.note(|counts| counts.broken += 1, &text);
                }
                self.open = None;
                0
            }
        }
    }
}

impl Open {
    fn to(server: IpAddr, ticket: Ticket) -> Option<Self> {
        let socket = knock::open(server).ok()?;
        // What became of it shows in writing.
        knock::send(&socket, SocketAddr::new(server, STREAM));
        let socket = TcpStream::from(socket);
        socket.set_nodelay(true).ok()?;
        let now = Instant::now();
        let (waiting, partial) = (VecDeque::new(), Vec::new());
        Some(Self { socket, ticket, since: now, established: false, number: 0, heard: now, waiting, partial })
    }

    fn tick(&mut self, load: &Load, pair: &Pair) -> io::Result<u64> {
        let mut sent = 0;
        self.number += 1;
        match self.socket.write(&self.number.to_be_bytes()) {
            Ok(8) => {
                self.waiting.push_back((self.number, Instant::now()));
                sent = 1;
            }
            Ok(_) => return Err(io::Error::other("half a message fitted")),
            // Not established yet, or the far end does not keep up.
            Err(error) if would_block(&error) => {}
            Err(error) => return Err(error),
        }
        self.hear()?;
        if !self.established {
            return if self.since.elapsed() > OPENING { Err(io::ErrorKind::TimedOut.into()) } else { Ok(sent) };
        }
        while let Some(&(_, at)) = self.waiting.front().filter(|(_, at)| at.elapsed() > PATIENCE) {
            self.waiting.pop_front();
            load.judge(at, pair, "a message on an open connection");
        }
        if self.heard.elapsed() > BROKEN {
            return Err(io::Error::other(format!("nothing came back for {BROKEN:?}")));
        }
        Ok(sent)
    }

    fn hear(&mut self) -> io::Result<()> {
        let mut buffer = [0; 1024];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(io::Error::other("the far end closed it")),
                Ok(length) => {
                    self.established = true;
                    self.heard = Instant::now();
                    self.partial.extend_from_slice(&buffer[..length]);
                    self.take();
                }
                Err(error) if would_block(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self) {
        let whole = self.partial.len() / 8 * 8;
        if let Some(last) = self.partial[..whole].last_chunk::<8>().copied().map(u64::from_be_bytes) {
            // They come back in order.
            while self.waiting.front().is_some_and(|(number, _)| *number <= last) {
                self.waiting.pop_front();
            }
        }
        self.partial.drain(..whole);
    }
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.kind() == io::ErrorKind::NotConnected
}
