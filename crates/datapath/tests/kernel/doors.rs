//! The doors: programs at the node's end of pods' links, put there, put back, replaced and taken away.

use std::collections::BTreeSet;

use ringfence_datapath::{Config, Datapath, LinkHook};

use crate::kit::net::{Joint, Net, WORLD, WORLD_V6, address, address_v6};
use crate::kit::plan::Hand;
use crate::kit::talk::{Datagrams, Echo, reaches};
use crate::kit::wire::{Ip, Wire, frame};

/// Pods without policy.
fn open(pods: usize) -> Hand {
    (2..2 + pods)
        .fold(Hand::default(), |hand, number| hand.endpoint(&address(number), 0, 0).endpoint(&address_v6(number), 0, 0))
}

/// Whether what a pod sends under another's address arrives in the world.
fn spoofs(net: &Net) -> bool {
    let (pod, world) = (Wire::new(&net.pods[0], "eth0"), Wire::new(&net.world, "eth0"));
    let gateway = net.gateway(2);
    let packet = Ip::new("10.9.9.9", WORLD, 17);
    let marker = b"under another's address";
    pod.send(&frame(gateway, pod.mac, 0x0800, &packet.around(&packet.udp(4000, 80, marker))));
    world.hears(marker)
}

/// Datapaths with the programs in each place, and a net for each.
fn everywhere(joint: Joint, work: impl Fn(&Net, Datapath)) {
    if !crate::kit::can_run() {
        return;
    }
    for hook in [LinkHook::Tcx, LinkHook::Clsact] {
        let net = Net::new(joint, 2);
        let mut datapath = net.open_with(Config { link_hook: Some(hook), ..net.pins.config() });
        datapath.sync(&open(2).plan).unwrap();
        work(&net, datapath);
    }
}

#[test]
fn doors_are_put_taken_away_and_put_back() {
    for joint in [Joint::Routes, Joint::Bridge] {
        everywhere(joint, |net, mut datapath| {
            assert!(spoofs(net), "nothing is told yet");
            net.guard(&mut datapath);
            assert!(!spoofs(net));
            let _servers = [Echo::new(&net.world, WORLD, 80), Echo::new(&net.world, WORLD_V6, 80)];
            let _pod = [Echo::new(&net.pods[1], &address(3), 80), Echo::new(&net.pods[1], &address_v6(3), 80)];
            for to in [WORLD, WORLD_V6, &address(3), &address_v6(3)] {
                assert!(reaches(&net.pods[0], to, 80), "{joint:?} to {to}");
            }
            assert!(Datagrams::new(&net.pods[0], &address(2), WORLD, 80).live(5000), "fragments");
            assert!(reaches(&net.node, &address(3), 80));
            // Somebody takes them away.
            let links: BTreeSet<u32> = net.ports().into_keys().collect();
            assert!(datapath.check_guards().unwrap().restored.is_empty());
            net.take_doors_away();
            let found = datapath.check_guards().unwrap();
            assert_eq!((found.restored, found.guarded, found.failed.len()), (links.clone(), links, 0));
            assert!(!spoofs(net));
            // Another agent takes over, without the pins; then goes for good.
            drop(datapath);
            let mut datapath = net.open();
            datapath.sync(&open(2).plan).unwrap();
            net.guard(&mut datapath);
            assert!(!spoofs(net));
            net.detach(datapath);
            assert!(spoofs(net), "no program is left behind");
        });
    }
}
