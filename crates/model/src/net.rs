//! Protocols, port ranges and `ipBlock`s.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// An IP protocol number (IANA "Protocol Numbers").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);

    /// True if packets of the protocol have a destination port that rules can name.
    pub fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TCP => f.write_str("TCP"),
            Self::UDP => f.write_str("UDP"),
            Self::SCTP => f.write_str("SCTP"),
            Self::ICMP => f.write_str("ICMP"),
            Self::ICMPV6 => f.write_str("ICMPv6"),
            Self(number) => write!(f, "protocol {number}"),
        }
    }
}

/// Destination ports `first..=last` of one protocol. `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// Protocol whose ports these are.
    pub protocol: Protocol,
    /// Lowest port.
    pub first: u16,
    /// Highest port, included.
    pub last: u16,
}

impl PortRange {
    /// Every port of a protocol.
    pub fn all(protocol: Protocol) -> Self {
        Self { protocol, first: 0, last: u16::MAX }
    }

    /// One port of a protocol.
    pub fn single(protocol: Protocol, port: u16) -> Self {
        Self { protocol, first: port, last: port }
    }

    /// True if the destination port of a connection lies inside.
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol == protocol && (self.first..=self.last).contains(&port)
    }
}

/// Addresses inside `cidr` and inside none of `except` (NetworkPolicy `ipBlock`). Host bits are masked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpBlock {
    cidr: IpNet,
    except: Vec<IpNet>,
}

impl IpBlock {
    /// Masks host bits. `except` is sorted and deduplicated, so that equal `ipBlock`s are equal values.
    pub fn new(cidr: IpNet, except: impl IntoIterator<Item = IpNet>) -> Self {
        let mut except: Vec<_> = except.into_iter().map(|net| net.trunc()).collect();
        except.sort_unstable();
        except.dedup();
        Self { cidr: cidr.trunc(), except }
    }

    /// The `cidr` field.
    pub fn cidr(&self) -> IpNet {
        self.cidr
    }

    /// The `except` field.
    pub fn except(&self) -> &[IpNet] {
        &self.except
    }

    /// True if the address matches. IPv4 and IPv6 never match each other.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = canonical(address);
        self.cidr.contains(&address) && !self.except.iter().any(|net| net.contains(&address))
    }
}

/// IPv4-mapped IPv6 addresses as the IPv4 addresses they are.
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_masked_and_families_kept_apart() {
        let block = IpBlock::new("10.1.2.3/8".parse().unwrap(), ["10.1.0.9/16".parse().unwrap()]);
        assert!(block.contains("10.200.0.1".parse().unwrap()));
        assert!(!block.contains("10.1.2.3".parse().unwrap()));
        assert!(block.contains("::ffff:10.2.0.1".parse().unwrap()));
        assert!(!IpBlock::new("0.0.0.0/0".parse().unwrap(), []).contains("fd00::1".parse().unwrap()));
    }
}
