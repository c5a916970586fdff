//! Queues DNS answers to this node's pods in user space. The addresses in an answer can then be in the kernel before
//! the pod reads them.
//!
//! A rule in our table sends such packets to a queue in user space. Its hook comes after the BPF program, and before
//! source NAT replaces the server's own address. The rule matches replies only, as connection tracking knows them. If
//! no process reads the queue, or reads it too slowly, the kernel lets the packets pass.
//!
//! A thread that releases packets must not wait for anything else, and a change of the rule waits for another program
//! (`nft`). So the queue and the functions for the rule are separate.

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

/// The queue of DNS answers to pods, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct DnsQueue {
    queue: Queue,
}

impl DnsQueue {
    /// Opens a queue. It receives no packet before [`hold`] is called.
    ///
    /// # Errors
    /// If the kernel has no queues, or no number for one is free.
    pub fn open() -> Result<Self, Error> {
        let queue = Queue::open().map_err(|error| Error::DnsQueue(format!("open a queue for packets: {error}")))?;
        Ok(Self { queue })
    }

    /// Number of the queue, for [`hold`].
    pub fn number(&self) -> u16 {
        self.queue.number()
    }

    /// Returns the packets that have arrived, without waiting. They are held until [`Self::release`].
    ///
    /// # Errors
    /// If the queue does not exist any more.
    pub fn receive(&self) -> io::Result<Vec<Packet>> {
        self.queue.receive()
    }

    /// Releases a packet.
    ///
    /// # Errors
    /// If the queue does not exist any more.
    pub fn release(&self, packet: u32) -> io::Result<()> {
        self.queue.release(packet)
    }
}

/// Sends the answers of these servers (address and port) to these pods into a queue, and no other packets, in the
/// network namespace of the calling thread.
///
/// # Errors
/// If nftables refuses the rule. The earlier rule may have been removed then.
pub fn hold(queue: u16, servers: &BTreeSet<SocketAddr>, pods: &BTreeSet<IpNet>) -> Result<(), Error> {
    rule::put(queue, servers, pods).map_err(|why| Error::DnsQueue(format!("create the rule: {why}")))
}

/// Changes servers and pods of a rule that exists. No answer passes unread in between.
///
/// # Errors
/// If nftables refuses, for example because another program removed the rule.
pub fn change(servers: &BTreeSet<SocketAddr>, pods: &BTreeSet<IpNet>) -> Result<(), Error> {
    rule::change(servers, pods).map_err(|why| Error::DnsQueue(format!("change the rule: {why}")))
}

/// True if the rule that sends answers to a queue exists.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn are_held() -> Result<bool, Error> {
    rule::is_there()
}

/// Sends no more answers to the queue. Packets that are held stay until they are released. [`stop`] removes the rest of
/// the rule.
///
/// # Errors
/// If nftables refuses, for example because there is no rule.
pub fn pause() -> Result<(), Error> {
    rule::flush_hook().map_err(|why| Error::DnsQueue(format!("remove the rule: {why}")))
}

/// Removes the rule with its chains and sets. The kernel drops the packets that are held.
///
/// # Errors
/// If nftables refuses.
pub fn stop() -> Result<(), Error> {
    rule::remove().map_err(|why| Error::DnsQueue(format!("remove the rule: {why}")))
}

/// Readable when packets have arrived.
impl AsFd for DnsQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}
