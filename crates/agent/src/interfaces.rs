//! Looks which links of the node are pods', and which tunnels end there.
//!
//! A thread of its own looks again whenever local addresses, links or routes change, and every few seconds. What it
//! finds is decided by [`crate::ports::find`]; here is only the looking. A pod that a network plugin tells of while it
//! connects it is looked for at once, and it alone ([`place`]).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use ringfence_api::BridgeNetfilter;
use ringfence_netns::{HardwareAddress, Link, Netlink, Peer, Tunnel};

use crate::bridge;
use crate::cni_cache::{self, Results, Told};
use crate::core::{Gone, Handle, Message};
use crate::ports::{Ports, Seen, find, is_end};

/// A reason to look again.
#[derive(Debug)]
pub(crate) enum Nudge {
    /// These are the addresses of local pods now.
    Local(BTreeSet<IpAddr>),
    /// A plugin's report, and its number.
    Told(u64, Told),
    /// Links, routes or filters of the host changed.
    Network,
}

/// The finding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// The pod behind each link.
    pub(crate) ports: Ports,
    /// Settings of bridges; none if no local pod is on a bridge.
    pub(crate) bridge: Option<BridgeNetfilter>,
    /// Tunnels that end on this node.
    pub(crate) tunnels: BTreeSet<Tunnel>,
    /// Number of the last news of a plugin that this takes into account.
    pub(crate) news: u64,
}

/// Links, filters at them, and routes of both families: bits of the group mask of `rtnetlink(7)`.
const GROUPS: u32 = 0x1 | 0x8 | 0x40 | 0x400;
/// Least time between two looks: each pod that starts makes a dozen changes.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// Time that a bridge port may be of no known pod before it is closed: as a rule a plugin is just making it, and will
/// tell. Meanwhile nothing of the pod runs; and plugins would wait for the closing, which takes the lock of all links.
const UNKNOWN_PORT_GRACE: Duration = Duration::from_millis(250);
/// Time between two looks while there are links to guard, and while pods are on a bridge: nothing tells when a guard is
/// taken away from tcx, or a setting of the bridge changes.
const GUARDS_INTERVAL: Duration = Duration::from_secs(4);
const BRIDGE_INTERVAL: Duration = Duration::from_secs(2);
/// Time between two looks while there is nothing to guard.
const RESYNC_INTERVAL: Duration = Duration::from_mins(1);
/// First and longest pause before the next look for what was not found: plugins write results after the fact.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_mins(1));
/// Time that a plugin's report is kept while its link does not exist.
const REPORT_RETENTION: Duration = Duration::from_mins(1);

/// Looks.
pub(crate) struct Scout {
    core: Handle,
    results: Results,
    /// None before the planning thread has said so once: nothing is a stranger before it is known who belongs here.
    local: Option<BTreeSet<IpAddr>>,
    /// Reports of plugins since this agent runs, of pods whose links exist.
    told: Vec<Told>,
    news: u64,
    /// Hardware addresses at the other ends of links as first seen: whoever is there can change them later.
    hardware: HashMap<u32, HardwareAddress>,
    /// Since when ports of bridges of pods were seen to be nobody's; none before the first look.
    strange: Option<HashMap<u32, Instant>>,
    bridge: Option<BridgeNetfilter>,
    again: Duration,
}

impl Scout {
    pub(crate) fn new(core: Handle, results: PathBuf) -> Self {
        Self {
            core,
            results: Results::new(results),
            local: None,
            told: Vec::new(),
            news: 0,
            hardware: HashMap::new(),
            strange: None,
            bridge: None,
            again: BACKOFF.0,
        }
    }

    /// Looks whenever nudged, and now and then, until the planning thread is gone.
    pub(crate) fn run(mut self, nudges: &Receiver<Nudge>) {
        let mut soon = Instant::now();
        let mut due = soon + RESYNC_INTERVAL;
        loop {
            match nudges.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(nudge) => {
                    self.again = BACKOFF.0;
                    self.take(nudge);
                    due = due.min(soon);
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let Ok(pause) = self.look() else { return };
            let now = Instant::now();
            (soon, due) = (now + MIN_INTERVAL, now + pause);
        }
    }

    fn take(&mut self, nudge: Nudge) {
        match nudge {
            Nudge::Local(local) => self.local = Some(local),
            Nudge::Told(number, told) => {
                self.news = number;
                self.told.push(told);
            }
            Nudge::Network => {}
        }
    }

    /// Looks once and tells; says when to look again at the latest.
    fn look(&mut self) -> Result<Duration, Gone> {
        let Some(local) = self.local.clone() else { return Ok(RESYNC_INTERVAL) };
        let mut found = match self.find(&local) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "cannot look up the links of local pods");
                return Ok(self.pause());
            }
        };
        announce(self.bridge, found.bridge);
        self.bridge = found.bridge;
        let unknown = local.iter().any(|address| !found.ports.interfaces.contains_key(address));
        let pauses = [
            self.spare(&mut found.ports, Instant::now()),
            unknown.then(|| self.pause()),
            found.bridge.map(|_| BRIDGE_INTERVAL),
            (!found.ports.links.is_empty()).then_some(GUARDS_INTERVAL),
        ];
        self.core.tell(Message::Found(found))?;
        Ok(pauses.into_iter().flatten().min().unwrap_or(RESYNC_INTERVAL))
    }

    /// Leaves ports that are nobody's open for a moment; says how long the oldest of these has left. Those that are
    /// there at the first look get none: an agent before this one may have closed them.
    fn spare(&mut self, ports: &mut Ports, now: Instant) -> Option<Duration> {
        let earlier = self.strange.take();
        let first_seen = |index: &u32| match &earlier {
            None => now.checked_sub(UNKNOWN_PORT_GRACE).unwrap_or(now),
            Some(strange) => strange.get(index).copied().unwrap_or(now),
        };
        let strangers = ports.links.iter().filter(|(_, port)| !port.pod);
        let strange: HashMap<u32, Instant> = strangers.map(|(index, _)| (*index, first_seen(index))).collect();
        let left = |since: &Instant| UNKNOWN_PORT_GRACE.saturating_sub(now.duration_since(*since));
        ports.links.retain(|index, _| strange.get(index).is_none_or(|since| left(since).is_zero()));
        let soonest = strange.values().map(left).filter(|left| !left.is_zero()).min();
        self.strange = Some(strange);
        soonest
    }

    /// Time until the next look for what was not found: longer each time.
    fn pause(&mut self) -> Duration {
        let next = (self.again * 2).min(BACKOFF.1);
        std::mem::replace(&mut self.again, next)
    }

    fn find(&mut self, local: &BTreeSet<IpAddr>) -> ringfence_netns::Result<Found> {
        let mut netlink = Netlink::open()?;
        let links = netlink.links()?;
        self.forget(&links);
        // Whom a plugin told of just now is a pod that is about to be known.
        let known: BTreeSet<IpAddr> =
            local.iter().chain(self.told.iter().flat_map(|told| &told.addresses)).copied().collect();
        let routes = routes(&mut netlink, &known)?;
        let told: Vec<Told> = self.results.look().chain(&self.told).cloned().collect();
        let mut seen = Seen { links: &links, routes: &routes, told: &told, inside: &HashMap::new(), local: &known };
        let mut ports = find(&seen);
        let inside = self.look_inside(&mut netlink, &links, &ports, local);
        if !inside.is_empty() {
            seen.inside = &inside;
            ports = find(&seen);
        }
        // A pod that is behind nothing we know may be on any bridge there is.
        let unknown = local.iter().any(|address| !ports.interfaces.contains_key(address));
        let bridged = ports.bridged() || (unknown && links.iter().any(|link| link.controller.is_some()));
        Ok(Found {
            bridge: bridged.then(bridge::read),
            tunnels: links
                .iter()
                .flat_map(|link| &link.tunnels)
                .copied()
                .chain(USUAL)
                .chain(Tunnel::receivers()?)
                .collect(),
            ports,
            news: self.news,
        })
    }

    /// The other ends of links about which something is in doubt; of all that are nobody's while a pod is not found.
    fn look_inside(
        &mut self,
        netlink: &mut Netlink,
        links: &[Link],
        ports: &Ports,
        local: &BTreeSet<IpAddr>,
    ) -> HashMap<u32, Peer> {
        let doubtful: HashSet<u32> = ports.in_doubt().collect();
        let missing = local.iter().any(|address| !ports.interfaces.contains_key(address));
        let asked = |link: &&Link| {
            doubtful.contains(&link.index) || (missing && is_end(link) && !ports.links.contains_key(&link.index))
        };
        let mut inside = HashMap::new();
        for link in links.iter().filter(asked) {
            match netlink.peer(link) {
                Ok(Some(mut peer)) => {
                    if let Some(now) = peer.hardware_address {
                        peer.hardware_address = Some(*self.hardware.entry(link.index).or_insert(now));
                    }
                    inside.insert(link.index, peer);
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "the pod's end of a link is not known"),
            }
        }
        inside
    }

    /// Forgets what is about links that are gone.
    fn forget(&mut self, links: &[Link]) {
        let ends = || links.iter().filter(|link| is_end(link));
        let names: HashSet<&str> = ends().map(|link| link.name.as_str()).collect();
        let indexes: HashSet<u32> = ends().map(|link| link.index).collect();
        let now = SystemTime::now();
        let young = |at| now.duration_since(at).is_ok_and(|age| age < REPORT_RETENTION);
        self.told.retain(|told| young(told.at) || told.links.iter().any(|name| names.contains(name.as_str())));
        self.hardware.retain(|index, _| indexes.contains(index));
    }
}

/// Tunnels that other nodes may end though this one does not: the usual ports of VXLAN (RFC 7348, and Linux') and of
/// Geneve (RFC 8926). Pods have no business there.
const USUAL: [Tunnel; 3] = [Tunnel::udp(4789), Tunnel::udp(8472), Tunnel::udp(6081)];

fn routes(netlink: &mut Netlink, addresses: &BTreeSet<IpAddr>) -> ringfence_netns::Result<HashMap<IpAddr, u32>> {
    let mut routes = HashMap::new();
    for address in addresses {
        routes.extend(netlink.route_ifindex(*address)?.map(|index| (*address, index)));
    }
    Ok(routes)
}

/// The link of the pod that a plugin reports, as far as it can be seen now.
///
/// # Errors
///
/// If links or routes cannot be read.
pub(crate) fn place(told: &Told) -> ringfence_netns::Result<Ports> {
    let mut netlink = Netlink::open()?;
    let local = told.addresses.iter().copied().collect();
    let routes = routes(&mut netlink, &local)?;
    let mut links = Vec::new();
    for name in &told.links {
        links.extend(netlink.find_link(name)?);
    }
    let mut further: BTreeSet<u32> = routes.values().copied().collect();
    further.extend(links.iter().filter_map(|link| link.controller));
    for index in further {
        if !links.iter().any(|link| link.index == index) {
            links.extend(netlink.find_index(index)?);
        }
    }
    let mut seen = Seen {
        links: &links,
        routes: &routes,
        told: std::slice::from_ref(told),
        inside: &HashMap::new(),
        local: &local,
    };
    let ports = find(&seen);
    let mut inside = HashMap::new();
    for index in ports.in_doubt() {
        if let Some(link) = links.iter().find(|link| link.index == index) {
            inside.extend(netlink.peer(link)?.map(|peer| (index, peer)));
        }
    }
    if inside.is_empty() {
        return Ok(starting(ports));
    }
    seen.inside = &inside;
    Ok(starting(find(&seen)))
}

/// Nothing of a pod runs while its plugin tells of it.
fn starting(mut ports: Ports) -> Ports {
    ports.links.values_mut().for_each(|port| port.idle = true);
    ports
}

fn announce(before: Option<BridgeNetfilter>, now: Option<BridgeNetfilter>) {
    if before == now {
        return;
    }
    match now.and_then(bridge::complaint) {
        Some(complaint) => tracing::error!("{complaint}"),
        None if before.and_then(bridge::complaint).is_some() => {
            tracing::info!("packets between pods on the bridge are filtered again");
        }
        None => {}
    }
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
pub(crate) fn start(core: &Handle) -> std::io::Result<Sender<Nudge>> {
    let (nudges, receiver) = mpsc::channel();
    let (scout, listener) = (Scout::new(core.clone(), PathBuf::from(cni_cache::RESULTS)), nudges.clone());
    core.spawn("scout", move || scout.run(&receiver))?;
    core.spawn("scout-listen", move || {
        if let Err(error) = listen(GROUPS, || listener.send(Nudge::Network).is_ok()) {
            tracing::error!(%error, "changes of links and routes cannot be followed");
        }
    })?;
    Ok(nudges)
}

#[cfg(test)]
mod tests {
    use ringfence_datapath::{Interface, PodLink};
    use ringfence_netns::{Route, VethEnd, Vxlan};

    use super::*;
    use crate::scratch::{Scratch, can_run};

    fn local(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// A scout that reads results from a directory of its own.
    fn scout(test: &str) -> (Scout, PathBuf) {
        let results = std::env::temp_dir().join(format!("ringfence-results-{test}-{}", std::process::id()));
        (Scout::new(Handle::channel().0, results.clone()), results)
    }

    /// A node and a namespace of pods, joined by a veth pair for each pair of names.
    fn joined(test: &str, pairs: &[(&str, &str)]) -> (Scratch, Scratch, Netlink) {
        let (host, pods) = (Scratch::new(&format!("{test}-host")), Scratch::new(&format!("{test}-pods")));
        let mut netlink = host.0.netlink().unwrap();
        for (here, there) in pairs {
            let here = VethEnd { name: here, namespace: &host.0 };
            netlink.add_veth(here, VethEnd { name: there, namespace: &pods.0 }, None).unwrap();
            netlink.set_up(here.name).unwrap();
        }
        (host, pods, netlink)
    }

    fn hardware(namespace: &Scratch, link: &str) -> HardwareAddress {
        let link = namespace.0.netlink().unwrap().find_link(link).unwrap().unwrap();
        link.hardware_address.try_into().unwrap()
    }

    #[test]
    fn routed_pods_are_found_by_their_route_at_once_too() {
        if !can_run() {
            return;
        }
        let (host, _pods, mut netlink) = joined("routed", &[("routed", "eth0")]);
        netlink.set_route(&Route::direct("10.244.0.7/32".parse().unwrap(), "routed")).unwrap();
        netlink.set_route(&Route::direct("fd00:10:244::7/128".parse().unwrap(), "routed")).unwrap();
        let vxlan = Vxlan {
            name: "vx0".into(),
            id: 7,
            port: 9999,
            local: "10.9.0.1".parse().unwrap(),
            hardware_address: [2, 0, 0, 0, 0, 9],
            mtu: 1400,
        };
        netlink.add_vxlan(&vxlan).unwrap();
        let local = local(&["10.244.0.7", "fd00:10:244::7"]);
        let index = netlink.link_index("routed").unwrap();
        let (mut scout, _) = scout("routed");
        let found = host.0.run(|| scout.find(&local)).unwrap().unwrap();
        let interface = Interface { index, bridge: None };
        assert_eq!(found.ports.interfaces, local.iter().map(|address| (*address, interface)).collect());
        assert_eq!(found.ports.links[&index], PodLink { bridge: None, mac: None, pod: true, idle: false });
        assert_eq!(found.bridge, None);
        let tunnels = [9999, 4789, 8472, 6081].map(Tunnel::udp);
        assert_eq!(found.tunnels, BTreeSet::from(tunnels));
        let addresses = local.into_iter().collect();
        let told = Told { at: SystemTime::now(), addresses, links: Vec::new(), hardware_address: None };
        assert_eq!(host.0.run(|| place(&told)).unwrap().unwrap(), starting(found.ports));
    }

    #[test]
    fn a_port_of_nobody_is_spared_for_a_moment_unless_it_was_there_before() {
        let ports = |strangers: &[u32]| {
            let port = |pod| PodLink { bridge: Some(3), mac: None, pod, idle: false };
            let links = strangers.iter().map(|index| (*index, port(false))).chain([(7, port(true))]).collect();
            Ports { links, ..Ports::default() }
        };
        let (mut scout, _) = scout("spared");
        let begin = Instant::now();
        let mut spared = |strangers: &[u32], at: Duration| {
            let mut ports = ports(strangers);
            let left = scout.spare(&mut ports, begin + at);
            (ports.links.into_keys().collect::<Vec<_>>(), left)
        };
        let quarter = UNKNOWN_PORT_GRACE / 4;
        assert_eq!(spared(&[8], Duration::ZERO), (vec![7, 8], None), "an earlier agent may have closed it");
        assert_eq!(spared(&[8, 9], quarter), (vec![7, 8], Some(UNKNOWN_PORT_GRACE)));
        assert_eq!(spared(&[8, 9], quarter * 2), (vec![7, 8], Some(quarter * 3)));
        assert_eq!(spared(&[8, 9], quarter * 5), (vec![7, 8, 9], None));
        assert_eq!(spared(&[], UNKNOWN_PORT_GRACE * 2), (vec![7], None));
        assert_eq!(
            spared(&[9], UNKNOWN_PORT_GRACE * 3),
            (vec![7], Some(UNKNOWN_PORT_GRACE)),
            "another, of the same number"
        );
    }

    #[test]
    fn bridged_pods_are_found_by_what_was_told_or_written_and_after_a_renaming() {
        if !can_run() {
            return;
        }
        let (host, pods, mut netlink) = joined("bridged", &[("port", "eth1"), ("other", "eth2")]);
        netlink.add_bridge("cni0").unwrap();
        for port in ["port", "other"] {
            netlink.set_controller(port, "cni0").unwrap();
        }
        netlink.set_up("cni0").unwrap();
        netlink.set_route(&Route::direct("10.244.1.0/24".parse().unwrap(), "cni0")).unwrap();
        let local = local(&["10.244.1.8"]);
        let (mut scout, results) = scout("bridged");
        let find = |scout: &mut Scout| host.0.run(|| scout.find(&local)).unwrap().unwrap();
        let found = find(&mut scout);
        assert_eq!(found.ports, Ports::default(), "which bridge is one of pods is not known");
        assert!(found.bridge.is_some(), "and the pod is perhaps on it");

        let [bridge, port, other] = ["cni0", "port", "other"].map(|name| netlink.link_index(name).unwrap());
        let mac = hardware(&pods, "eth1");
        let links = ["cni0", "port"].map(str::to_owned).into();
        let addresses: Vec<IpAddr> = local.iter().copied().collect();
        let told = Told { at: SystemTime::now(), addresses, links, hardware_address: None };
        let placed = host.0.run(|| place(&told)).unwrap().unwrap();
        let guarded = PodLink { bridge: Some(bridge), mac: Some(mac), pod: true, idle: false };
        assert_eq!(placed.interfaces[&told.addresses[0]], Interface { index: port, bridge: Some(bridge) });
        assert_eq!(placed.links[&port], PodLink { idle: true, ..guarded }, "its hardware address was looked up");
        scout.take(Nudge::Told(5, told));
        let found = find(&mut scout);
        assert_eq!((found.news, found.ports.links.get(&port)), (5, Some(&guarded)));
        assert_eq!(
            found.ports.links.get(&other),
            Some(&PodLink { bridge: Some(bridge), mac: None, pod: false, idle: false })
        );

        // An agent that comes later reads what the runtime wrote.
        let text = |byte: &u8| format!("{byte:02x}");
        let written = format!(
            r#"{{"ifName": "eth1", "result": {{"interfaces": [{{"name": "cni0"}}, {{"name": "port"}},
            {{"name": "eth1", "sandbox": "/x", "mac": "{}"}}], "ips": [{{"address": "10.244.1.8/24",
            "interface": 2}}]}}}}"#,
            mac.iter().map(text).collect::<Vec<_>>().join(":")
        );
        std::fs::create_dir_all(&results).unwrap();
        std::fs::write(results.join("bridge-x-eth0"), written).unwrap();
        let mut later = Scout::new(Handle::channel().0, results.clone());
        assert_eq!(find(&mut later).ports, found.ports);
        netlink.set_down("port").unwrap();
        netlink.rename_link("port", "renamed").unwrap();
        netlink.set_up("renamed").unwrap();
        pods.0.netlink().unwrap().add_address("eth1", "10.244.1.8/24".parse().unwrap()).unwrap();
        let renamed = find(&mut later);
        std::fs::remove_dir_all(&results).unwrap();
        assert_eq!((renamed.ports.links, &*renamed.ports.names[&port]), (found.ports.links, "renamed"));
    }
}
