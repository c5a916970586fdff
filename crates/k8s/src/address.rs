//! Addresses and CIDRs in the lenient syntax that Kubernetes has always accepted: with leading zeros and host bits.
//!
//! The API server keeps an old parser for these fields, so that objects stored long ago stay valid (semantics of
//! `ipBlock`, and `podIPs` written by old kubelets).

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

/// An address; leading zeros are accepted and decimal, IPv4-mapped IPv6 becomes IPv4.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    let address: IpAddr = without_leading_zeros(text).parse().ok()?;
    Some(address.to_canonical())
}

/// Parses a CIDR. Host bits are masked, leading zeros accepted, and IPv4-mapped CIDRs of at least 96 bits become IPv4
/// CIDRs.
pub fn parse_cidr(text: &str) -> Option<IpNet> {
    parse_written_cidr(text).map(|(net, _)| net)
}

/// Parses a CIDR, and returns the prefix length as written. An IPv4-mapped CIDR has another one.
pub(crate) fn parse_written_cidr(text: &str) -> Option<(IpNet, u8)> {
    let (address, length) = text.split_once('/')?;
    if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let length: u8 = without_leading_zeros(length).parse().ok()?;
    let address: IpAddr = without_leading_zeros(address).parse().ok()?;
    let net = IpNet::new(address, length).ok()?.trunc();
    let net = match net {
        IpNet::V6(v6) if length >= 96 => v6.network().to_ipv4_mapped().map_or(net, |v4| mapped(v4, length)),
        IpNet::V4(_) | IpNet::V6(_) => net,
    };
    Some((net, length))
}

/// True if the address or CIDR is written in the one form that every parser reads alike.
pub fn is_canonical(text: &str) -> bool {
    parse_cidr(text).is_some_and(|net| net.to_string() == text)
        || parse_ip(text).is_some_and(|address| address.to_string() == text)
}

fn mapped(address: Ipv4Addr, length: u8) -> IpNet {
    Ipv4Net::new(address, length.saturating_sub(96)).map_or_else(|_| IpNet::from(IpAddr::V4(address)), IpNet::V4)
}

/// Drops the zeros that begin each group of digits.
fn without_leading_zeros(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let mut start = true;
    while let Some(c) = chars.next() {
        let more = chars.peek().is_some_and(char::is_ascii_hexdigit);
        if !(start && c == '0' && more) {
            out.push(c);
            start = !c.is_ascii_hexdigit();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_are_decimal() {
        assert_eq!(parse_ip("010.000.0.08"), parse_ip("10.0.0.8"));
        assert_eq!(parse_ip("fd00::0001"), parse_ip("fd00::1"));
        assert_eq!(parse_cidr("010.0.0.7/08").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(parse_ip("100.0.0.200").unwrap().to_string(), "100.0.0.200");
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        assert_eq!(parse_ip("::ffff:10.0.0.1").unwrap().to_string(), "10.0.0.1");
        assert_eq!(parse_cidr("::ffff:10.1.2.3/104").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(parse_cidr("::ffff:10.1.2.3/80").unwrap().to_string(), "::/80");
        assert_eq!(parse_cidr("::/0").unwrap().to_string(), "::/0");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["", "/", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/+8", "fe80::1%eth0/64", "::/129"]
        {
            assert_eq!(parse_cidr(text), None, "{text}");
        }
        for text in ["", "1.2.3", "1.2.3.4.5", "256.0.0.1", "fe80::1%eth0", "12345::"] {
            assert_eq!(parse_ip(text), None, "{text}");
        }
    }

    #[test]
    fn canonical_form_is_told_apart() {
        assert!(is_canonical("10.0.0.0/8") && is_canonical("fd00::1"));
        assert!(!is_canonical("10.0.0.1/8") && !is_canonical("010.0.0.0/8"));
    }
}
