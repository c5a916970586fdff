//! Which interface of the host each local pod is behind, for the check of source addresses.
//!
//! A pod joined by a route of its own (/32, /128) is behind the interface of that route; a pod on a bridge is behind the
//! port that its network plugin wrote down. Where neither tells, the interface stays unknown, and the status says so. A
//! thread of its own looks again whenever local addresses, links or routes change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use ringfence_datapath::Interface;
use ringfence_netns::{Link, Netlink};

use crate::api::Bridge;
use crate::bridge;
use crate::cni_cache;
use crate::core::{Gone, Handle, Message};

/// What makes the scout look again.
#[derive(Debug)]
pub(crate) enum Nudge {
    /// These are the addresses of local pods now.
    Local(BTreeSet<IpAddr>),
    /// Links or routes of the host changed.
    Network,
}

/// Links, and routes of both families: bits of the group mask of `rtnetlink(7)`.
const GROUPS: u32 = 0x1 | 0x40 | 0x400;
/// How often the bridge settings are read while pods are on a bridge: nothing tells when they change.
const BRIDGE_INTERVAL: Duration = Duration::from_secs(2);
/// How soon, and at the latest how often, to look again for what was not found: plugins write results after the fact.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_mins(1));

/// Finds interfaces.
pub(crate) struct Scout {
    core: Handle,
    results: PathBuf,
    local: BTreeSet<IpAddr>,
    told: Option<(BTreeMap<IpAddr, Interface>, Option<Bridge>)>,
    again: Duration,
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    interfaces: BTreeMap<IpAddr, Interface>,
    /// Some local pod is, or may be, on a bridge.
    bridged: bool,
}

impl Scout {
    pub(crate) fn new(core: Handle) -> Self {
        let results = PathBuf::from(cni_cache::RESULTS);
        Self { core, results, local: BTreeSet::new(), told: None, again: AGAIN.0 }
    }

    /// Looks whenever nudged until the planning thread is gone.
    pub(crate) fn run(mut self, nudges: &Receiver<Nudge>) {
        let mut patience = None;
        loop {
            let nudge = match patience {
                None => nudges.recv().map_err(|_gone| RecvTimeoutError::Disconnected),
                Some(patience) => nudges.recv_timeout(patience),
            };
            match nudge {
                Ok(nudge) => {
                    self.again = AGAIN.0;
                    self.take(nudge);
                    while let Ok(more) = nudges.try_recv() {
                        self.take(more);
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.again = (self.again * 2).min(AGAIN.1),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            match self.look() {
                Ok(next) => patience = next,
                Err(Gone) => return,
            }
        }
    }

    fn take(&mut self, nudge: Nudge) {
        if let Nudge::Local(local) = nudge {
            self.local = local;
        }
    }

    /// Looks once; tells what is new; says when to look again at the latest.
    fn look(&mut self) -> Result<Option<Duration>, Gone> {
        let found = match find(&self.local, &self.results) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "cannot look up the interfaces of local pods");
                return Ok(Some(self.again));
            }
        };
        let bridge = found.bridged.then(bridge::read);
        let unknown = found.interfaces.len() < self.local.len();
        let before = self.told.replace((found.interfaces.clone(), bridge));
        let (interfaces, known_bridge) = before.unwrap_or_default();
        if interfaces != found.interfaces {
            self.core.tell(Message::Interfaces(found.interfaces))?;
        }
        if known_bridge != bridge {
            announce(known_bridge, bridge);
            self.core.tell(Message::Bridge(bridge))?;
        }
        let again = unknown.then_some(self.again);
        Ok(if bridge.is_some() { Some(again.unwrap_or(BRIDGE_INTERVAL).min(BRIDGE_INTERVAL)) } else { again })
    }
}

fn announce(before: Option<Bridge>, now: Option<Bridge>) {
    match now.and_then(bridge::complaint) {
        Some(complaint) => tracing::error!("{complaint}"),
        None if before.and_then(bridge::complaint).is_some() => {
            tracing::info!("packets between pods on the bridge are filtered again");
        }
        None => {}
    }
}

fn find(local: &BTreeSet<IpAddr>, results: &std::path::Path) -> Result<Found, ringfence_netns::Error> {
    let mut netlink = Netlink::open()?;
    let mut found = Found::default();
    let mut rest = Vec::new();
    let links = if local.is_empty() { Vec::new() } else { netlink.links()? };
    let controllers: HashMap<u32, u32> = links.iter().filter_map(|link| Some((link.index, link.controller?))).collect();
    for address in local {
        match netlink.route_ifindex(*address)? {
            Some(index) => {
                let bridge = controllers.get(&index).copied();
                found.interfaces.insert(*address, Interface { index, bridge });
            }
            None => rest.push(*address),
        }
    }
    if !rest.is_empty() {
        let ports = bridge_ports(&rest, &cni_cache::read(results), &links);
        // A pod that is behind nothing we know may be on any bridge there is.
        found.bridged = !ports.is_empty() || links.iter().any(|link| link.controller.is_some());
        found.interfaces.extend(ports);
    }
    Ok(found)
}

/// The bridge ports of addresses: of the interfaces a plugin wrote down, the one that is a port of a bridge.
fn bridge_ports(
    addresses: &[IpAddr],
    names: &HashMap<IpAddr, Vec<String>>,
    links: &[Link],
) -> BTreeMap<IpAddr, Interface> {
    let ports: HashMap<&str, &Link> =
        links.iter().filter(|link| link.controller.is_some()).map(|link| (link.name.as_str(), link)).collect();
    let port = |address: &IpAddr| {
        let link = names.get(address)?.iter().find_map(|name| ports.get(name.as_str()))?;
        Some((*address, Interface { index: link.index, bridge: link.controller }))
    };
    addresses.iter().filter_map(port).collect()
}

/// Tells whenever something of these groups changes in the network namespace of the calling thread; blocks for as long
/// as somebody hears it.
pub(crate) fn listen(groups: u32, changed: impl Fn() -> bool) -> std::io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, groups))?;
    loop {
        // What exactly changed does not matter; neither does an overrun, which means that much did.
        match socket.recv_from_full() {
            Err(error) if error.raw_os_error() != Some(nix::libc::ENOBUFS) => return Err(error),
            _ => {}
        }
        if !changed() {
            return Ok(());
        }
    }
}

/// Starts looking: the sender takes nudges.
pub(crate) fn start(core: Handle) -> std::io::Result<Sender<Nudge>> {
    let (nudges, receiver) = mpsc::channel();
    std::thread::Builder::new().name("scout".into()).spawn(move || Scout::new(core).run(&receiver))?;
    let listener = nudges.clone();
    std::thread::Builder::new().name("scout-listen".into()).spawn(move || {
        if let Err(error) = listen(GROUPS, || listener.send(Nudge::Network).is_ok()) {
            tracing::warn!(%error, "changes of links and routes go unnoticed until the next change of a pod");
        }
    })?;
    Ok(nudges)
}

#[cfg(test)]
mod tests {
    use ringfence_netns::{Route, VethEnd};

    use super::*;
    use crate::scratch::{Scratch, can_run};

    fn link(index: u32, name: &str, controller: Option<u32>) -> Link {
        let name = name.to_owned();
        Link { index, name, hardware_address: Vec::new(), up: true, controller, peer: None, mtu: 1500 }
    }

    #[test]
    fn the_port_of_the_bridge_is_taken_never_the_bridge() {
        let address: IpAddr = "10.244.0.7".parse().unwrap();
        let other: IpAddr = "10.244.0.8".parse().unwrap();
        let links = [link(3, "cni0", None), link(9, "veth1234", Some(3)), link(10, "veth-gone", None)];
        let names = HashMap::from([
            (address, vec!["cni0".to_owned(), "veth1234".to_owned()]),
            (other, vec!["cni0".to_owned(), "veth-gone".to_owned()]),
        ]);
        assert_eq!(
            bridge_ports(&[address, other], &names, &links),
            BTreeMap::from([(address, Interface { index: 9, bridge: Some(3) })])
        );
    }

    #[test]
    fn routed_pods_are_found_by_their_route_and_bridged_ones_by_what_the_plugin_wrote() {
        if !can_run() {
            return;
        }
        let (host, pods) = (Scratch::new("host"), Scratch::new("pods"));
        let mut netlink = host.0.netlink().unwrap();
        for (here, there) in [("routed", "eth0"), ("port", "eth1")] {
            let here = VethEnd { name: here, namespace: &host.0 };
            netlink.add_veth(here, VethEnd { name: there, namespace: &pods.0 }, None).unwrap();
            netlink.set_up(here.name).unwrap();
        }
        netlink.set_route(&Route::direct("10.244.0.7/32".parse().unwrap(), "routed")).unwrap();
        netlink.set_route(&Route::direct("fd00:10:244::7/128".parse().unwrap(), "routed")).unwrap();
        let results = std::env::temp_dir().join(format!("ringfence-results-{}", std::process::id()));
        let local = BTreeSet::from(["10.244.0.7", "fd00:10:244::7"].map(|address| address.parse().unwrap()));
        let routed = netlink.link_index("routed").unwrap();
        let found = host.0.run(|| find(&local, &results)).unwrap().unwrap();
        assert_eq!(
            found.interfaces,
            local.iter().map(|address| (*address, Interface { index: routed, bridge: None })).collect()
        );
        assert!(!found.bridged);

        netlink.add_bridge("cni0").unwrap();
        netlink.set_controller("port", "cni0").unwrap();
        netlink.set_up("cni0").unwrap();
        netlink.set_route(&Route::direct("10.244.1.0/24".parse().unwrap(), "cni0")).unwrap();
        let local = BTreeSet::from(["10.244.1.8".parse().unwrap()]);
        let found = host.0.run(|| find(&local, &results)).unwrap().unwrap();
        assert_eq!((found.interfaces.len(), found.bridged), (0, true), "unknown, and perhaps on the bridge");
        std::fs::create_dir_all(&results).unwrap();
        let result = r#"{"result": {"interfaces": [{"name": "cni0"}, {"name": "port"}, {"name": "eth1", "sandbox": "/x"}],
            "ips": [{"address": "10.244.1.8/24", "interface": 2}]}}"#;
        std::fs::write(results.join("bridge-x-eth0"), result).unwrap();
        let found = host.0.run(|| find(&local, &results)).unwrap().unwrap();
        std::fs::remove_dir_all(&results).unwrap();
        let port = Interface { index: netlink.link_index("port").unwrap(), bridge: netlink.link_index("cni0").ok() };
        assert_eq!(found.interfaces, local.iter().map(|address| (*address, port)).collect());
        assert!(found.bridged);
    }
}
