//! Holds answers of DNS servers to this node's pods until they are let go: what an answer says can be in the kernel
//! before the pod reads it.
//!
//! A rule in our table sends such packets to a queue in user space, after the BPF program has let them pass and before
//! source NAT, where the server's own address is seen. Only replies, as connection tracking knows them, are taken. If
//! nobody listens, or too slowly, the kernel lets them pass.

mod queue;
mod rule;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use ipnet::IpNet;

use crate::Error;
pub use queue::Packet;
use queue::Queue;

/// The answers of some DNS servers to some pods, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Answers {
    queue: Queue,
    /// The rule is there.
    holding: bool,
}

impl Answers {
    /// Opens a queue. No packet comes before [`Self::hold`].
    ///
    /// # Errors
    /// If the kernel has no queues, or no number for one is free.
    pub fn open() -> Result<Self, Error> {
        let queue = Queue::open().map_err(|error| Error::Answers(format!("open a queue for packets: {error}")))?;
        Ok(Self { queue, holding: false })
    }

    /// Holds what these servers (address and port) answer to these pods, and nothing else, from now on.
    ///
    /// # Errors
    /// If nftables refuses the rule; the one before may be gone then.
    pub fn hold(&mut self, servers: &BTreeSet<SocketAddr>, pods: &BTreeSet<IpNet>) -> Result<(), Error> {
        // Nothing passes unread in between; if somebody took the rule away, it is put anew.
        if self.holding && rule::change(servers, pods).is_ok() {
            return Ok(());
        }
        let put = rule::put(self.queue.number(), servers, pods);
        self.holding = put.is_ok();
        put.map_err(|why| Error::Answers(format!("send them to a queue: {why}")))
    }

    /// Takes the rule away. Packets that are held stay so until they are let go or this is dropped.
    pub fn stop() -> Result<(), Error> {
        rule::remove().map_err(|why| Error::Answers(format!("take the rule away: {why}")))
    }

    /// Packets that came, without waiting for any; they are held until [`Self::release`].
    ///
    /// # Errors
    /// If the queue is no more.
    pub fn receive(&self) -> io::Result<Vec<Packet>> {
        self.queue.receive()
    }

    /// Lets a packet go its way.
    ///
    /// # Errors
    /// If the queue is no more.
    pub fn release(&self, packet: u32) -> io::Result<()> {
        self.queue.release(packet)
    }
}

/// Readable when packets came.
impl AsFd for Answers {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}
