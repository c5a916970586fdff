//! Packets, built byte by byte.

use std::net::IpAddr;

use ringfence_model::Protocol;

/// A packet under construction.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: Protocol,
    pub(crate) source_port: u16,
    /// For ICMP the type.
    pub(crate) port: u16,
    /// IPv4: bytes of options, padded to words. IPv6: extension headers, by their number.
    pub(crate) options: Vec<u8>,
    pub(crate) extensions: Vec<u8>,
    /// Offset of the fragment in units of eight bytes.
    pub(crate) fragment: Option<u16>,
    /// Bytes of transport header and payload that are present.
    pub(crate) payload: usize,
    /// Hop limit.
    pub(crate) hops: u8,
}

pub(crate) const TRANSPORT: usize = 40;

impl Packet {
    pub(crate) fn new(source: &str, destination: &str, protocol: Protocol, port: u16) -> Self {
        Self {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol,
            source_port: 40_000,
            port,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
            payload: TRANSPORT,
            hops: 255,
        }
    }

    /// Builds the reply to the packet.
    pub(crate) fn reply(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.port,
            port: self.source_port,
            ..self.clone()
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut transport = vec![0; TRANSPORT];
        if self.protocol == Protocol::ICMP || self.protocol == Protocol::ICMPV6 {
            transport[0] = self.port.to_be_bytes()[1];
            transport[4..6].copy_from_slice(&self.source_port.to_be_bytes());
        } else {
            transport[..2].copy_from_slice(&self.source_port.to_be_bytes());
            transport[2..4].copy_from_slice(&self.port.to_be_bytes());
            transport[12] = 5 << 4;
        }
        transport.truncate(self.payload);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.ipv4(source.octets(), destination.octets(), &transport)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.ipv6(source.octets(), destination.octets(), &transport)
            }
            _ => panic!("both ends have to be of one family"),
        }
    }

    fn ipv4(&self, source: [u8; 4], destination: [u8; 4], transport: &[u8]) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let length = u16::try_from(20 + options.len() + transport.len()).unwrap();
        let mut bytes = vec![0x45 + u8::try_from(options.len() / 4).unwrap(), 0];
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(self.fragment.unwrap_or(0).to_be_bytes());
        bytes.extend([self.hops, self.protocol.0, 0, 0]);
        bytes.extend(source);
        bytes.extend(destination);
        bytes.extend(options);
        bytes.extend(transport);
        bytes
    }

    fn ipv6(&self, source: [u8; 16], destination: [u8; 16], transport: &[u8]) -> Vec<u8> {
        let mut headers = self.extensions.clone();
        headers.extend(self.fragment.map(|_| 44));
        let next = |i: usize| headers.get(i).copied().unwrap_or(self.protocol.0);
        let mut chain = Vec::new();
        for (i, header) in headers.iter().enumerate() {
            chain.extend(match header {
                44 => {
                    let [high, low] = (self.fragment.unwrap_or(0) << 3).to_be_bytes();
                    [next(i + 1), 0, high, low, 0, 0, 0, 9]
                }
                // Eight bytes, no segments left; for AH two words less two.
                51 => [next(i + 1), 0, 0, 0, 0, 0, 0, 0],
                _ => [next(i + 1), 0, 1, 0, 0, 0, 0, 0],
            });
        }
        let length = u16::try_from(chain.len() + transport.len()).unwrap();
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(length.to_be_bytes());
        bytes.extend([next(0), self.hops]);
        bytes.extend(source);
        bytes.extend(destination);
        bytes.extend(chain);
        bytes.extend(transport);
        bytes
    }
}
