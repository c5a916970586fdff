//! Sends first packets to every address that pods of a node may get, long before they have it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, SockProtocol, SockaddrIn, sendto};
use parking_lot::Mutex;
use ringfence_netns::Namespace;

use super::ledger::Ledger;
use super::prober::End;
use super::server::KNOCK;
use super::witness::{raw, receive};

/// How often each address has its turn.
const INTERVAL: Duration = Duration::from_millis(100);
/// In so many parts: a burst would overflow the kernel's queue between two ends of a link, at the cost of others.
const PARTS: u32 = 20;
/// Source ports of the packets, by turns. Few: the sender's node tracks each for minutes.
const SOURCES: std::ops::Range<u16> = 40_000..40_004;

/// Who answered, and when first.
pub(crate) type Answers = HashMap<Ipv4Addr, Instant>;

/// A sweep under way.
pub(crate) struct Sweep {
    answers: Arc<Mutex<Answers>>,
    sent: Arc<AtomicU64>,
    own: Ipv4Addr,
    _end: End,
}

impl Sweep {
    /// Begins from inside a pod's namespace, whose address is `from`.
    pub(crate) fn start(
        namespace: Namespace,
        from: Ipv4Addr,
        range: Vec<Ipv4Addr>,
        ledger: &Arc<Ledger>,
    ) -> anyhow::Result<Self> {
        let family = IpAddr::from(from);
        let socket = namespace.run(|| raw(family, SockProtocol::Tcp))??;
        let (answers, sent, end): (Arc<Mutex<Answers>>, Arc<AtomicU64>, Arc<AtomicBool>) = Default::default();
        let (heard, number, stop) = (Arc::clone(&answers), Arc::clone(&sent), Arc::clone(&end));
        let ledger = Arc::clone(ledger);
        let own = range.first().copied().unwrap_or(from);
        thread::spawn(move || {
            let mut turn = Instant::now();
            let mut sources = SOURCES.cycle();
            while !stop.load(Ordering::Relaxed) {
                let source = sources.next().unwrap_or_default();
                for part in range.chunks(range.len().div_ceil(PARTS as usize).max(1)) {
                    for to in part {
                        let address = SockaddrIn::from(SocketAddrV4::new(*to, 0));
                        // Refused while nobody has the address: that is no answer.
                        let _ = sendto(socket.as_raw_fd(), &syn(from, *to, source), &address, MsgFlags::empty());
                    }
                    listen(&socket, family, &heard);
                    turn += INTERVAL / PARTS;
                    let now = Instant::now();
                    match turn.checked_duration_since(now) {
                        Some(rest) => thread::sleep(rest),
                        None => turn = now,
                    }
                }
                number.fetch_add(range.len() as u64, Ordering::Relaxed);
                ledger.sent(range.len() as u64);
            }
            // It is a namespace's as long as it is held.
            drop(namespace);
        });
        Ok(Self { answers, sent, own, _end: End(end) })
    }

    /// Who answered up to now. The first address of a range is the node's own on it, and no pod's.
    pub(crate) fn answers(&self) -> Answers {
        let mut answers = self.answers.lock().clone();
        answers.remove(&self.own);
        answers
    }

    /// How many packets were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

fn listen(socket: &OwnedFd, family: IpAddr, heard: &Mutex<Answers>) {
    while let Some((from, ports)) = receive(socket, family) {
        let [source, destination] = [[ports[0], ports[1]], [ports[2], ports[3]]].map(u16::from_be_bytes);
        if let IpAddr::V4(from) = from
            && source == KNOCK
            && SOURCES.contains(&destination)
        {
            heard.lock().entry(from).or_insert_with(Instant::now);
        }
    }
}

/// A first packet of a TCP connection, without its IP header.
fn syn(from: Ipv4Addr, to: Ipv4Addr, source: u16) -> [u8; 20] {
    let mut packet = [0; 20];
    packet[0..2].copy_from_slice(&source.to_be_bytes());
    packet[2..4].copy_from_slice(&KNOCK.to_be_bytes());
    packet[4..8].copy_from_slice(&[1, 2, 3, 4]);
    // Five words of header; SYN; a window.
    packet[12..16].copy_from_slice(&[5 << 4, 2, 0x10, 0]);
    let mut around = [0; 12];
    around[0..4].copy_from_slice(&from.octets());
    around[4..8].copy_from_slice(&to.octets());
    around[8..12].copy_from_slice(&[0, 6, 0, 20]);
    let words = around.chunks(2).chain(packet.chunks(2));
    let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    #[expect(clippy::cast_possible_truncation, reason = "it is folded to 16 bits")]
    packet[16..18].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    packet
}

/// The addresses of hosts in a range; at most 1,022 of them.
pub(crate) fn hosts(range: &str) -> anyhow::Result<Vec<Ipv4Addr>> {
    let (address, length) = range.split_once('/').unwrap_or((range, "32"));
    let (address, length): (Ipv4Addr, u32) = (address.parse()?, length.parse()?);
    let size = 1_u32.checked_shl(32 - length).unwrap_or(u32::MAX).min(1024);
    let base = u32::from(address);
    Ok((1..size.saturating_sub(1)).map(|host| Ipv4Addr::from(base + host)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_neither_its_first_nor_its_last_address() {
        let hosts = hosts("10.1.2.0/24").unwrap();
        assert_eq!(hosts.len(), 254);
        assert_eq!(hosts[0], Ipv4Addr::new(10, 1, 2, 1));
        assert!(super::hosts("nonsense").is_err());
    }

    #[test]
    fn the_checksum_of_a_packet_with_its_checksum_is_nought() {
        let (from, to) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let packet = syn(from, to, 40_000);
        let around = [10, 0, 0, 1, 10, 0, 0, 2, 0, 6, 0, 20];
        let all: Vec<u8> = around.into_iter().chain(packet).collect();
        let sum: u32 = all.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
