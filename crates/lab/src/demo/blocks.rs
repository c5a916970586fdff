//! A block of addresses for the tour: around two of three pods whose addresses the cluster has chosen.

use std::net::IpAddr;

use ipnet::IpNet;

/// The smallest block around the two addresses that are closest, which never holds the third.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    /// The block.
    pub(super) block: IpNet,
    /// Its exception.
    pub(super) except: IpNet,
    /// The pods in the block, excepted, and outside.
    pub(super) roles: [usize; 3],
}

impl Blocks {
    /// Around two of three different addresses of one family; none if they are not that.
    pub(super) fn around(addresses: [IpAddr; 3]) -> Option<Self> {
        let pair = |roles: [usize; 3]| Some((common(addresses[roles[0]], addresses[roles[1]])?, roles));
        let pairs = [pair([0, 1, 2])?, pair([0, 2, 1])?, pair([1, 2, 0])?];
        let (block, roles) = pairs.into_iter().max_by_key(|(block, _)| block.prefix_len())?;
        Some(Self { block, except: IpNet::from(addresses[roles[1]]), roles })
    }
}

/// The smallest block around two different addresses.
fn common(one: IpAddr, other: IpAddr) -> Option<IpNet> {
    let whole = IpNet::from(one);
    let around = |length: u8| IpNet::new(one, length).ok().filter(|block| block.contains(&other));
    let block = (0..=whole.prefix_len()).rev().find_map(around)?.trunc();
    (block != whole).then_some(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(addresses: [&str; 3], block: &str, except: &str, roles: [usize; 3]) {
        let found = Blocks::around(addresses.map(|address| address.parse().unwrap())).unwrap();
        assert_eq!(
            (found.block.to_string(), found.except.to_string(), found.roles),
            (block.into(), except.into(), roles)
        );
        let contains = roles.map(|role| found.block.contains(&addresses[role].parse::<IpAddr>().unwrap()));
        assert_eq!(contains, [true, true, false]);
    }

    #[test]
    fn the_third_is_outside() {
        check(["10.0.1.2", "10.0.1.3", "10.0.2.2"], "10.0.1.2/31", "10.0.1.3/32", [0, 1, 2]);
        check(["10.0.1.2", "10.0.2.2", "10.0.1.9"], "10.0.1.0/28", "10.0.1.9/32", [0, 2, 1]);
        check(["10.0.1.4", "10.0.1.3", "10.0.1.2"], "10.0.1.2/31", "10.0.1.2/32", [1, 2, 0]);
        check(["fd00::1:2", "fd00::2:2", "fd00::2:3"], "fd00::2:2/127", "fd00::2:3/128", [1, 2, 0]);
    }

    #[test]
    fn what_cannot_be_told_apart_has_no_block() {
        for addresses in [["10.0.0.1", "10.0.0.1", "10.0.0.2"], ["10.0.0.1", "fd00::1", "10.0.0.2"]] {
            assert_eq!(Blocks::around(addresses.map(|address| address.parse().unwrap())), None);
        }
    }
}
