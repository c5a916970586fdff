//! Hand-made frames, as a pod with `CAP_NET_RAW` can send them, and their receivers.

use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, recvfrom, sendto, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::space::Space;

pub(crate) type Mac = [u8; 6];
pub(crate) const BROADCAST: Mac = [0xff; 6];
/// `PACKET_OUTGOING` (include/uapi/linux/if_packet.h).
const OUTGOING: u8 = 4;
/// The time to wait for a frame that must not arrive.
pub(crate) const SILENCE: Duration = Duration::from_millis(250);
/// The time to wait for a frame that has to arrive, on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A packet socket at an interface of a space.
pub(crate) struct Wire {
    socket: OwnedFd,
    at: LinkAddr,
    pub(crate) mac: Mac,
}

impl Wire {
    pub(crate) fn new(space: &Space, interface: &str) -> Self {
        space.enter(|| {
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), SockProtocol::EthAll).unwrap();
            let mut found = getifaddrs().unwrap().filter(|found| found.interface_name == interface);
            let at = found.find_map(|found| found.address?.as_link_addr().copied()).unwrap();
            bind(socket.as_raw_fd(), &at).unwrap();
            setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).unwrap();
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 20_000)).unwrap();
            Self { socket, at, mac: at.addr().unwrap() }
        })
    }

    /// Drops all frames that arrived before.
    pub(crate) fn forget(&self) {
        let mut buffer = vec![0; 65_536];
        while recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        sendto(self.socket.as_raw_fd(), frame, &self.at, MsgFlags::empty()).unwrap();
    }

    /// True if a frame with these bytes arrives within a short time. Used for frames that must not arrive.
    pub(crate) fn hears(&self, marker: &[u8]) -> bool {
        self.hears_for(marker, SILENCE)
    }

    /// True if a frame with these bytes arrives. Used for frames that have to arrive.
    pub(crate) fn hears_soon(&self, marker: &[u8]) -> bool {
        self.hears_for(marker, TIMEOUT)
    }

    pub(crate) fn hears_for(&self, marker: &[u8], patience: Duration) -> bool {
        let end = Instant::now() + patience;
        let mut buffer = vec![0; 65_536];
        while Instant::now() < end {
            // Frames sent here pass by too: replies that contain the original packet.
            if let Ok((length, Some(from))) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer)
                && from.pkttype() != OUTGOING
                && buffer[..length].windows(marker.len()).any(|part| part == marker)
            {
                return true;
            }
        }
        false
    }
}

/// Builds an Ethernet frame.
pub(crate) fn frame(to: Mac, from: Mac, kind: u16, body: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), body].concat()
}

/// The same with tags: their ethertypes and values.
pub(crate) fn tagged(to: Mac, from: Mac, tags: &[(u16, u16)], kind: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = [&to[..], &from].concat();
    for (ethertype, tag) in tags {
        bytes.extend(ethertype.to_be_bytes());
        bytes.extend(tag.to_be_bytes());
    }
    bytes.extend(kind.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Returns the ethertype of a packet.
pub(crate) fn kind_of(packet: &[u8]) -> u16 {
    if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd }
}

/// An IP packet of a protocol, with sound checksums of its header.
#[derive(Clone, Debug)]
pub(crate) struct Ip {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) hops: u8,
    /// IPv4: options, in whole words. IPv6: extension headers as they are; each begins with a byte for the next one.
    pub(crate) options: Vec<u8>,
    /// IPv6: the number of the first extension header.
    pub(crate) first: u8,
    /// Offset in bytes, true if more fragments follow, identification.
    pub(crate) fragment: Option<(u16, bool, u16)>,
}

impl Ip {
    pub(crate) fn new(source: &str, destination: &str, protocol: u8) -> Self {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        Self { source, destination, protocol, hops: 64, options: Vec::new(), first: 0, fragment: None }
    }

    /// Builds the packet around a payload.
    pub(crate) fn around(&self, payload: &[u8]) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => self.ipv4(from.octets(), to.octets(), payload),
            (IpAddr::V6(from), IpAddr::V6(to)) => self.ipv6(from.octets(), to.octets(), payload),
            _ => panic!("both ends have to be of one family"),
        }
    }

    fn ipv4(&self, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let length = 20 + self.options.len();
        let (offset, more, identification) = self.fragment.unwrap_or((0, false, 7));
        let mut bytes = vec![0x40 | u8::try_from(length / 4).unwrap(), 0];
        bytes.extend(u16::try_from(length + payload.len()).unwrap().to_be_bytes());
        bytes.extend(identification.to_be_bytes());
        bytes.extend(((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
        bytes.extend([self.hops, self.protocol, 0, 0]);
        bytes.extend(from);
        bytes.extend(to);
        bytes.extend(&self.options);
        let checksum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&checksum);
        bytes.extend(payload);
        bytes
    }

    fn ipv6(&self, from: [u8; 16], to: [u8; 16], payload: &[u8]) -> Vec<u8> {
        let mut headers = self.options.clone();
        let mut first = if headers.is_empty() { self.protocol } else { self.first };
        if let Some((offset, more, identification)) = self.fragment {
            assert!(headers.is_empty(), "either");
            headers = vec![self.protocol, 0];
            headers.extend((offset | u16::from(more)).to_be_bytes());
            headers.extend(u32::from(identification).to_be_bytes());
            first = 44;
        }
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(u16::try_from(headers.len() + payload.len()).unwrap().to_be_bytes());
        bytes.extend([first, self.hops]);
        bytes.extend(from);
        bytes.extend(to);
        bytes.extend(headers);
        bytes.extend(payload);
        bytes
    }

    /// Builds a UDP datagram.
    pub(crate) fn udp(&self, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
        bytes.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(payload);
        let checksum = self.checksum_of(&bytes);
        bytes[6..8].copy_from_slice(&checksum);
        bytes
    }

    /// Builds an ICMPv6 message of a type and code.
    pub(crate) fn icmpv6(&self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 0, 0];
        bytes.extend(payload);
        let checksum = self.checksum_of(&bytes);
        bytes[2..4].copy_from_slice(&checksum);
        bytes
    }

    /// A segment of TCP without data.
    pub(crate) fn tcp(&self, (from, to): (u16, u16), sequence: u32, flags: u8) -> Vec<u8> {
        let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
        bytes.extend(sequence.to_be_bytes());
        bytes.extend([0, 0, 0, 0, 0x50, flags, 0x10, 0, 0, 0, 0, 0]);
        let checksum = self.checksum_of(&bytes);
        bytes[16..18].copy_from_slice(&checksum);
        bytes
    }

    /// With the pseudo header (RFC 768, RFC 8200).
    fn checksum_of(&self, bytes: &[u8]) -> [u8; 2] {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let mut all = [octets(self.source), octets(self.destination)].concat();
        all.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
        all.extend([0, 0, 0, self.protocol]);
        all.extend(bytes);
        checksum(&all)
    }
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let word = |pair: &[u8]| (u32::from(pair[0]) << 8) | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

/// Builds an ARP packet for Ethernet and IPv4: a request (1) or a reply (2).
pub(crate) fn arp(operation: u16, sender: (Mac, &str), target: (Mac, &str)) -> Vec<u8> {
    let octets = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(operation.to_be_bytes());
    for (mac, address) in [sender, target] {
        bytes.extend(mac);
        bytes.extend(octets(address));
    }
    bytes
}
