//! Finds the DNS messages in packets: datagrams of UDP, segments of TCP.

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// A connection: server and client.
pub(crate) type Flow = (SocketAddr, SocketAddr);

/// Contents of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Carried<'a> {
    /// One message.
    Datagram(&'a [u8]),
    /// A piece of a stream.
    Segment(Flow, Segment<'a>),
}

/// A piece of a stream of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment<'a> {
    /// Sequence number of its first byte, or of its SYN.
    pub(crate) sequence: u32,
    /// Begins the stream.
    pub(crate) syn: bool,
    /// Ends the stream: FIN or RST.
    pub(crate) end: bool,
    /// Its payload.
    pub(crate) payload: &'a [u8],
}

/// Reads a packet from its IP header on. None if it carries no message.
pub(crate) fn read(packet: &[u8]) -> Option<Carried<'_>> {
    let packet = SlicedPacket::from_ip(packet).ok()?;
    let (source, destination): (IpAddr, IpAddr) = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Arp(_) => return None,
    };
    match packet.transport? {
        TransportSlice::Udp(udp) => Some(Carried::Datagram(udp.payload())),
        TransportSlice::Tcp(tcp) => {
            let server = SocketAddr::new(source, tcp.source_port());
            let client = SocketAddr::new(destination, tcp.destination_port());
            let segment = Segment {
                sequence: tcp.sequence_number(),
                syn: tcp.syn(),
                end: tcp.fin() || tcp.rst(),
                payload: tcp.payload(),
            };
            Some(Carried::Segment((server, client), segment))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn datagrams_and_segments_of_both_families_are_read() {
        let mut udp = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(53, 4000).write(&mut udp, b"answer").unwrap();
        assert_eq!(read(&udp), Some(Carried::Datagram(b"answer")));

        let mut tcp = Vec::new();
        let (server, client) = ([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], [0xfd; 16]);
        PacketBuilder::ipv6(server, client, 64).tcp(53, 4000, 7, 9).fin().write(&mut tcp, b"piece").unwrap();
        let flow = (SocketAddr::from((server, 53)), SocketAddr::from((client, 4000)));
        let segment = Segment { sequence: 7, syn: false, end: true, payload: b"piece" };
        assert_eq!(read(&tcp), Some(Carried::Segment(flow, segment)));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 0_u8..16) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = (version << 4) | (*first & 0xf);
            }
            let _ = read(&bytes);
        }
    }
}
