//! Frames made by hand, as whoever has `CAP_NET_RAW` in a pod can send them, and who gets what.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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

/// The time that a frame may take that has to arrive.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);
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
        let end = Instant::now() + FRAME_TIMEOUT;
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
        bail!("the packet that has to come did not, within {FRAME_TIMEOUT:?}")
    }
}

fn holds(frame: &[u8], marker: &[u8]) -> bool {
    frame.windows(marker.len()).any(|part| part == marker)
}

/// `EtherType` of ARP, of a VLAN tag, of packets.
pub const ARP: u16 = 0x0806;
const TAG: u16 = 0x8100;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Protocol numbers.
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// Hop limit of neighbour discovery: it comes from the link itself (RFC 4861).
const FROM_THE_LINK: u8 = 255;

/// The `EtherType` of a packet.
pub fn kind_of(packet: &[u8]) -> u16 {
    if packet.first().is_some_and(|first| first >> 4 == 6) { IPV6 } else { IPV4 }
}

/// Ethernet, with tags for VLAN 0 if any.
pub fn ethernet(to: HardwareAddress, from: HardwareAddress, tags: usize, kind: u16, body: &[u8]) -> Vec<u8> {
    let tag = [TAG.to_be_bytes(), [0, 0]].concat();
    [&to[..], &from, &tag.repeat(tags), &kind.to_be_bytes(), body].concat()
}

/// A datagram in a packet; both ends have to be of one family.
pub fn datagram(from: IpAddr, to: (IpAddr, u16), hops: u8, payload: &[u8]) -> Vec<u8> {
    const HEADER: usize = 8;
    const FROM_PORT: u16 = 40_000;
    let ports = [FROM_PORT.to_be_bytes(), to.1.to_be_bytes()].concat();
    let body = [&ports[..], &length(HEADER + payload.len()), &[0, 0], payload].concat();
    packet(from, to.0, (UDP, 6), hops, body)
}

/// Says in ARP, unasked, who has an address (RFC 826).
pub fn claim(hardware_address: HardwareAddress, address: Ipv4Addr, to: (HardwareAddress, Ipv4Addr)) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, 2];
    bytes.extend(hardware_address.into_iter().chain(address.octets()));
    bytes.extend(to.0.into_iter().chain(to.1.octets()));
    bytes
}

/// Says in a neighbour advertisement, unasked, who has an address (RFC 4861, section 4.4).
pub fn advertisement(from: Ipv6Addr, to: Ipv6Addr, hardware_address: HardwareAddress, address: Ipv6Addr) -> Vec<u8> {
    const OVERRIDE: u8 = 0x20;
    let body = [&[136, 0, 0, 0, OVERRIDE, 0, 0, 0][..], &address.octets(), &[2, 1], &hardware_address].concat();
    packet(from.into(), to.into(), (ICMPV6, 2), FROM_THE_LINK, body)
}

/// Says that a router is here, and that an address of a range may be taken (RFC 4861, sections 4.2 and 4.6.2).
pub fn router_advertisement(from: Ipv6Addr, to: Ipv6Addr, range: Ipv6Addr) -> Vec<u8> {
    const LINK_AND_ADDRESSES: u8 = 0xc0;
    const MINUTE: [u8; 4] = [0, 0, 0, 60];
    let router = [134, 0, 0, 0, 64, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0, 0];
    let prefix = [&[3, 4, 64, LINK_AND_ADDRESSES][..], &MINUTE, &MINUTE, &[0; 4], &range.octets()].concat();
    packet(from.into(), to.into(), (ICMPV6, 2), FROM_THE_LINK, [&router[..], &prefix].concat())
}

/// A packet around what a protocol says, in which the checksum is put where it belongs.
fn packet(from: IpAddr, to: IpAddr, (protocol, checksum_at): (u8, usize), hops: u8, mut body: Vec<u8>) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let ends = [octets(from), octets(to)].concat();
    // The pseudo header of both families adds up to the same.
    let sum = checksum(&[&ends[..], &[0, protocol], &length(body.len()), &body].concat());
    // Of UDP none is 0, which stands for no checksum.
    body[checksum_at..][..2].copy_from_slice(if sum == [0, 0] { &[0xff, 0xff] } else { &sum });
    let mut header = if from.is_ipv4() {
        [&[0x45, 0][..], &length(20 + body.len()), &[0, 7, 0, 0, hops, protocol, 0, 0]].concat()
    } else {
        [&[0x60, 0, 0, 0][..], &length(body.len()), &[protocol, hops]].concat()
    };
    header.extend(ends);
    if from.is_ipv4() {
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum);
    }
    [header, body].concat()
}

fn length(of: usize) -> [u8; 2] {
    u16::try_from(of).unwrap_or(u16::MAX).to_be_bytes()
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
        let packet = datagram([10, 0, 0, 1].into(), ([10, 0, 0, 2].into(), 80), 1, b"hello");
        assert_eq!((packet.len(), packet[8], checksum(&packet[..20])), (33, 1, [0, 0]));
        assert_eq!(checksum(&[&packet[12..20], &[0, UDP, 0, 13], &packet[20..]].concat()), [0, 0]);
        let frame = ethernet([1; 6], [2; 6], 2, kind_of(&packet), &packet);
        assert_eq!(frame[12..22], [0x81, 0, 0, 0, 0x81, 0, 0, 0, 8, 0]);
        assert_eq!(claim([2; 6], Ipv4Addr::LOCALHOST, ([1; 6], Ipv4Addr::BROADCAST)).len(), 28);
        let (here, there) = (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));
        for packet in [
            datagram(here.into(), (there.into(), 80), 1, b"hello"),
            advertisement(here, there, [2; 6], here),
            router_advertisement(here, there, there),
        ] {
            let (length, protocol) = ([packet[4], packet[5]], packet[6]);
            assert_eq!((usize::from(u16::from_be_bytes(length)), kind_of(&packet)), (packet.len() - 40, IPV6));
            let pseudo = [&packet[8..40], &[0, protocol], &length, &packet[40..]].concat();
            assert_eq!(checksum(&pseudo), [0, 0], "protocol {protocol}");
        }
    }
}
