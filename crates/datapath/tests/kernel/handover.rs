//! An address that is given to another pod: what the pod before had open is forgotten.

use ringfence_datapath::{Config, Connections, forget_connections_of};
use ringfence_engine::Plan;

use crate::kit::eventually;
use crate::kit::net::{Joint, Net, WORLD, WORLD_V6, address, address_v6};
use crate::kit::plan::Hand;
use crate::kit::talk::{Datagrams, Sink};

/// The pod may talk to anybody, or to nobody.
fn plan(own: &str, free: bool) -> Plan {
    let hand = Hand::default();
    if free { hand.endpoint(own, 0, 0).plan } else { hand.endpoint(own, 0, 8).isolated(8, 80).plan }
}

#[test]
fn nothing_is_open_any_more_under_an_address_that_was_forgotten() {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Routes, 2);
    let mut datapath = net.open_with(Config { connections: Connections::Drain, ..net.pins.config() });
    for (own, other, world) in [(address(2), address(3), WORLD), (address_v6(2), address_v6(3), WORLD_V6)] {
        datapath.sync(&plan(&own, true)).unwrap();
        let sink = Sink::new(&net.world, world, 514);
        let log = Datagrams::new(&net.pods[0], &own, world, 514);
        eventually("the addresses can be used", || {
            log.are_dead_at_once();
            sink.receives()
        });
        // What waited for a neighbour to be found comes late.
        while sink.receives() {}
        datapath.sync(&plan(&own, false)).unwrap();
        log.are_dead_at_once();
        assert!(sink.receives(), "what was open before drains");
        let forget = |address: &str| {
            let address = address.parse().unwrap();
            net.node.enter(|| forget_connections_of(address)).unwrap()
        };
        assert_eq!(forget(&other), 0, "nobody else's");
        log.are_dead_at_once();
        assert!(sink.receives());
        assert!(forget(&own) > 0);
        log.are_dead_at_once();
        assert!(!sink.receives(), "another pod has the address");
    }
    net.detach(datapath);
}
