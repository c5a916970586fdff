//! Holds answers of DNS servers to this node's pods until they are let go: what an answer says can be in the kernel
//! before the pod reads it.
//!
//! A rule in our table sends such packets to a queue in user space, after the BPF program has let them pass and before
//! source NAT, where the server's own address is seen. Only replies, as connection tracking knows them, are taken. If
//! nobody listens, or too slowly, the kernel lets them pass.
//!
//! Whoever lets answers go must not wait for anything else, and to change the rule means to wait for another program
//! (`nft`). So the two are apart: a queue, and functions for the rule.

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

/// The answers of DNS servers to pods, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Answers {
    queue: Queue,
}

impl Answers {
    /// Opens a queue. No packet comes before [`hold`].
    ///
    /// # Errors
    /// If the kernel has no queues, or no number for one is free.
    pub fn open() -> Result<Self, Error> {
        let queue = Queue::open().map_err(|error| Error::Answers(format!("open a queue for packets: {error}")))?;
        Ok(Self { queue })
    }

    /// The number of the queue, for [`hold`].
    pub fn number(&self) -> u16 {
        self.queue.number()
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

/// Holds in a queue what these servers (address and port) answer to these pods, and nothing else, from now on, in the
/// network namespace of the calling thread.
///
/// # Errors
/// If nftables refuses the rule; the one before may be gone then.
pub fn hold(queue: u16, servers: &BTreeSet<SocketAddr>, pods: &BTreeSet<IpNet>) -> Result<(), Error> {
    rule::put(queue, servers, pods).map_err(|why| Error::Answers(format!("send them to a queue: {why}")))
}

/// The same as [`hold`], where answers are held already in the same queue: none passes unread in between.
///
/// # Errors
/// If nftables refuses, as where somebody took the rule away.
pub fn change(servers: &BTreeSet<SocketAddr>, pods: &BTreeSet<IpNet>) -> Result<(), Error> {
    rule::change(servers, pods).map_err(|why| Error::Answers(format!("change whose are held: {why}")))
}

/// Whether the rule is there that sends answers to a queue.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn are_held() -> Result<bool, Error> {
    rule::is_there()
}

/// Sends no more answers to a queue. Packets that are held stay so until they are let go; what is left of the rule is
/// for [`stop`].
///
/// # Errors
/// If nftables refuses, as where there is no rule.
pub fn pause() -> Result<(), Error> {
    rule::quiet().map_err(|why| Error::Answers(format!("take the rule away: {why}")))
}

/// Takes the rule away, and all that belongs to it. The kernel drops the packets that are held.
///
/// # Errors
/// If nftables refuses.
pub fn stop() -> Result<(), Error> {
    rule::remove().map_err(|why| Error::Answers(format!("take the rule away: {why}")))
}

/// Readable when packets came.
impl AsFd for Answers {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}
