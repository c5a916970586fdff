//! Frames made by hand, as whoever has `CAP_NET_RAW` in a pod can send them, and who gets what.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use ringfence_netns::{HardwareAddress, Namespace};

/// How long a frame may take that has to arrive.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest frame that is read, in bytes.
const LONGEST: usize = 65_536;

/// A packet socket at a link of a namespace: sends any frame, and gets every frame.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    at: LinkAddr,
    /// Hardware address of the link.
    pub hardware_address: HardwareAddress,
}

impl Wire {
    /// At a link that is up.
    pub fn at(namespace: &Namespace, link: &str) -> anyhow::Result<Self> {
        namespace
            .run(|| Self::here(link))?
            .with_context(|| format!("a packet socket at {link} in {}", namespace.name()))
    }

    fn here(link: &str) -> anyhow::Result<Self> {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
        let mut found = getifaddrs()?.filter(|found| found.interface_name == link);
        let at = found.find_map(|found| found.address?.as_link_addr().copied()).context("no such link")?;
        bind(socket.as_raw_fd(), &at)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 20_000))?;
        let hardware_address = at.addr().context("it has no hardware address")?;
        Ok(Self { socket, at, hardware_address })
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) -> anyhow::Result<()> {
        sendto(self.socket.as_raw_fd(), frame, &self.at, MsgFlags::empty()).context("cannot send a frame")?;
        Ok(())
    }

    /// Reads until a frame has come with the bytes of `last` in it; whether one with those of `marker` came before.
    ///
    /// # Errors
    ///
    /// If the last one does not come: then nothing is said about the other.
    pub fn hears_before(&self, marker: &[u8], last: &[u8]) -> anyhow::Result<bool> {
        let end = Instant::now() + PATIENCE;
        let mut buffer = vec![0; LONGEST];
        let mut heard = false;
        while Instant::now() < end {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => {
                    let frame = &buffer[..length];
                    heard |= holds(frame, marker);
                    if holds(frame, last) {
                        return Ok(heard);
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => return Err(error).context("cannot read frames"),
            }
        }
        bail!("the packet that has to come did not, within {PATIENCE:?}")
    }
}

fn holds(frame: &[u8], marker: &[u8]) -> bool {
    frame.windows(marker.len()).any(|part| part == marker)
}

/// `EtherType` of IPv4, of ARP, of a VLAN tag.
pub const IPV4: u16 = 0x0800;
/// See [`IPV4`].
pub const ARP: u16 = 0x0806;
const TAG: u16 = 0x8100;

/// Ethernet, with tags for VLAN 0 if any.
pub fn ethernet(to: HardwareAddress, from: HardwareAddress, tags: usize, kind: u16, body: &[u8]) -> Vec<u8> {
    let tag = [TAG.to_be_bytes(), [0, 0]].concat();
    [&to[..], &from, &tag.repeat(tags), &kind.to_be_bytes(), body].concat()
}

/// A datagram in an IPv4 packet; without a checksum of UDP, which IPv4 does not ask for.
pub fn datagram(from: Ipv4Addr, to: (Ipv4Addr, u16), hops: u8, payload: &[u8]) -> Vec<u8> {
    const HEADERS: usize = 28;
    const FROM_PORT: u16 = 40_000;
    let length = |of: usize| u16::try_from(of).unwrap_or(u16::MAX).to_be_bytes();
    let mut bytes = vec![0x45, 0];
    bytes.extend(length(HEADERS + payload.len()));
    bytes.extend([0, 7, 0, 0, hops, 17, 0, 0]);
    bytes.extend(from.octets().into_iter().chain(to.0.octets()));
    let sum = checksum(&bytes);
    bytes[10..12].copy_from_slice(&sum);
    bytes.extend(FROM_PORT.to_be_bytes().into_iter().chain(to.1.to_be_bytes()));
    bytes.extend(length(8 + payload.len()));
    bytes.extend([0, 0]);
    bytes.extend(payload);
    bytes
}

/// Says in ARP, unasked, who has an address (RFC 826).
pub fn claim(hardware_address: HardwareAddress, address: Ipv4Addr, to: (HardwareAddress, Ipv4Addr)) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, 2];
    bytes.extend(hardware_address.into_iter().chain(address.octets()));
    bytes.extend(to.0.into_iter().chain(to.1.octets()));
    bytes
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [.., high, low] = (!sum).to_be_bytes();
    [high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_as_the_standards_say() {
        // The example of RFC 1071, section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), [0x22, 0x0d]);
        let packet = datagram(Ipv4Addr::new(10, 0, 0, 1), (Ipv4Addr::new(10, 0, 0, 2), 80), 1, b"hello");
        assert_eq!((packet.len(), packet[8], checksum(&packet[..20])), (33, 1, [0, 0]));
        let frame = ethernet([1; 6], [2; 6], 2, IPV4, &packet);
        assert_eq!(frame[12..22], [0x81, 0, 0, 0, 0x81, 0, 0, 0, 8, 0]);
        assert_eq!(claim([2; 6], Ipv4Addr::LOCALHOST, ([1; 6], Ipv4Addr::BROADCAST)).len(), 28);
    }
}
