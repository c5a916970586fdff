//! Random domain names, their addresses, and patterns that match some of them.

use std::net::IpAddr;

use ringfence_model::{
    Action, Connection, Direction, Domain, DomainName, DomainPattern, Peer, Peers, Ports, Rule, World,
};

use super::{Rng, small};
use crate::reference;

/// Names at, below and beside each other.
const NAMES: &[&str] =
    &["example.com", "www.example.com", "a.www.example.com", "notexample.com", "example.org", "www.example.org", "com"];

/// A random domain name with no, few or many addresses, some of them expired.
pub(super) fn domain(rng: &mut Rng) -> Domain {
    let count = *rng.pick(&[0, 1, 1, 2, 3, 5, 120]);
    let addresses = (0..count).map(|_| {
        let v6 = rng.percent(30);
        address(rng, v6)
    });
    let mut addresses: Vec<_> = addresses.collect();
    addresses.sort_unstable();
    addresses.dedup();
    let (over, within) = (*rng.pick(&[0, 30, 100]), *rng.pick(&[0, 0, 30]));
    let inside = addresses.iter().copied().filter(|_| rng.percent(within)).collect();
    let (lingering, addresses) = addresses.into_iter().partition(|_| rng.percent(over));
    Domain { name: DomainName::new(rng.pick::<&str>(NAMES)), addresses, lingering, inside }
}

/// A rule that means a name.
pub(super) fn rule(name: &DomainName) -> Rule {
    let peers = Peers::List(vec![Peer::Domain(DomainPattern::new(name.as_str()))]);
    Rule { name: None, action: Action::Accept, peers, ports: Ports::Any }
}

/// Addresses at which names linger.
pub(super) fn lingering(world: &World) -> Vec<IpAddr> {
    world.domains.values().flat_map(|domain| domain.lingering.iter().copied()).collect()
}

/// True if the verdict of the source differs between new and open connections.
pub(super) fn matters(world: &World, connection: &Connection) -> bool {
    let evaluate_direction = |established| {
        reference::evaluate_direction(world, &Connection { established, ..connection.clone() }, Direction::Egress)
    };
    evaluate_direction(false) != evaluate_direction(true)
}

pub(super) fn pattern(rng: &mut Rng) -> DomainPattern {
    let name = rng.pick(NAMES);
    DomainPattern::new(&if rng.percent(50) { format!("*.{name}") } else { (*name).to_owned() })
}

/// Outside of the cluster most of the time; else that of a node or of a pod (a headless Service).
pub(super) fn address(rng: &mut Rng, v6: bool) -> IpAddr {
    match (rng.below(6), v6) {
        (0, false) => IpAddr::from([192, 168, 0, small(rng, 3)]),
        (0, true) => IpAddr::from([0xfd00, 1, 0, 0, 0, 0, 0, small(rng, 3).into()]),
        (1, false) => IpAddr::from([10, 0, small(rng, 3), small(rng, 12)]),
        (1, true) => IpAddr::from([0xfd00, 0, 0, small(rng, 3).into(), 0, 0, 0, 1 + u16::from(small(rng, 12))]),
        (_, false) => IpAddr::from([203, 0, 113, small(rng, 24)]),
        (_, true) => IpAddr::from([0xfd00, 2, 0, 0, 0, 0, 0, small(rng, 24).into()]),
    }
}
