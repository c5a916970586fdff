//! The network configuration of one node's kernel, as a function of the nodes of the cluster and the links of this
//! node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use ringfence_model::{Name, Node};
use ringfence_netns::{Forward, HardwareAddress, Neighbour, Route, Rule, Vxlan};

use crate::{Encapsulation, Firewall, Interface, PRIORITY, PROTOCOL, TABLE, TUNNELS, VXLAN_ID, VXLAN_PORT};

/// Smallest MTU that IPv6 permits, in bytes (RFC 8200, section 5).
const SMALLEST_IPV6: u32 = 1280;

/// The network configuration of a node's kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Ranges of this node's pods.
    pub ranges: Vec<IpNet>,
    /// MTU of a pod's interface, in bytes: the smallest of all ways to other nodes.
    pub mtu: u32,
    /// VXLAN links, at most one over each family.
    pub tunnels: Vec<Tunnel>,
    /// Routes to pods of other nodes and, for packets of pods, to nodes through VXLAN.
    pub routes: BTreeSet<Route>,
    /// Rules that send packets of pods to these routes.
    pub rules: BTreeSet<Rule>,
    /// The neighbours behind the gateways of routes through VXLAN.
    pub neighbours: BTreeSet<Neighbour>,
    /// The nodes of these neighbours.
    pub forwards: BTreeSet<Forward>,
    /// Masquerading, and the permitted senders of VXLAN packets.
    pub firewall: Firewall,
    /// Nodes reached over a common link.
    pub direct: BTreeSet<Name>,
    /// Nodes reached through VXLAN.
    pub tunnelled: BTreeSet<Name>,
    /// Parts that cannot be configured, as sentences.
    pub problems: Vec<String>,
}

/// A VXLAN link and the addresses it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The link.
    pub link: Vxlan,
    /// The node's own addresses, assigned to the link too. They are the source of packets that the node sends through
    /// it, and of packets that Services forward.
    pub addresses: BTreeSet<IpNet>,
}

/// Returns the plan. None if this node has no pod CIDR, or no address on a link that is up.
pub fn plan(
    own: &Name,
    nodes: &BTreeMap<Name, Node>,
    interfaces: &[Interface],
    encapsulation: Encapsulation,
) -> Option<Plan> {
    let node = nodes.get(own)?;
    let here = Here::find(node, interfaces, encapsulation)?;
    let mut planning = Planning { here, plan: Plan::default(), addresses: BTreeMap::new() };
    planning.begin();
    for peer in nodes.values().filter(|peer| peer.name != *own) {
        planning.add(peer);
    }
    Some(planning.finish())
}

/// This node.
struct Here<'a> {
    name: &'a Name,
    ranges: Vec<IpNet>,
    interfaces: &'a [Interface],
    /// Its addresses that other nodes know, one per family, and their links.
    underlay: Vec<(IpAddr, &'a Interface)>,
    encapsulation: Encapsulation,
}

impl<'a> Here<'a> {
    fn find(node: &'a Node, interfaces: &'a [Interface], encapsulation: Encapsulation) -> Option<Self> {
        let ranges: Vec<IpNet> = node.pod_cidrs.iter().map(IpNet::trunc).collect();
        let mut underlay: Vec<(IpAddr, &Interface)> = Vec::new();
        for address in &node.addresses {
            let known = underlay.iter().any(|(known, _)| known.is_ipv4() == address.is_ipv4());
            if let Some(interface) = interfaces.iter().find(|interface| interface.has(*address)).filter(|_| !known) {
                underlay.push((*address, interface));
            }
        }
        let usable = !ranges.is_empty() && !underlay.is_empty();
        usable.then_some(Self { name: &node.name, ranges, interfaces, underlay, encapsulation })
    }

    fn address(&self, like: IpAddr) -> Option<IpAddr> {
        self.underlay.iter().map(|(address, _)| *address).find(|address| address.is_ipv4() == like.is_ipv4())
    }

    /// Returns the link of a node's address, if the node is reached without VXLAN.
    fn link_to(&self, address: IpAddr) -> Option<&'a Interface> {
        if self.encapsulation == Encapsulation::Always {
            return None;
        }
        self.interfaces.iter().find(|interface| interface.reaches(address))
    }
}

/// A plan under construction.
struct Planning<'a> {
    here: Here<'a>,
    plan: Plan,
    /// The nodes by hardware address.
    addresses: BTreeMap<HardwareAddress, Name>,
}

impl Planning<'_> {
    fn begin(&mut self) {
        self.plan.ranges.clone_from(&self.here.ranges);
        self.plan.mtu = self.here.underlay.iter().map(|(_, interface)| interface.mtu).min().unwrap_or_default();
        self.addresses.insert(hardware_address(self.here.name), Name::clone(self.here.name));
        for range in self.here.ranges.clone() {
            // Without this route, packets to unused addresses would leave by the default route.
            self.plan.routes.insert(Route::unreachable(range).by(PROTOCOL));
            self.plan.firewall.pods.insert(range);
            self.plan.firewall.inside.insert(range);
        }
    }

    /// Adds the routes to another node's pods.
    fn add(&mut self, peer: &Node) {
        self.plan.firewall.senders.extend(&peer.addresses);
        for range in peer.pod_cidrs.iter().map(IpNet::trunc) {
            let taken = self.plan.firewall.inside.iter().find(|other| other.contains(&range) || range.contains(*other));
            if let Some(other) = taken {
                let problem = format!("range {range} of node {} overlaps with {other}, and is not reached", peer.name);
                self.plan.problems.push(problem);
                continue;
            }
            let of_family = || peer.addresses.iter().filter(|address| address.is_ipv4() == range.addr().is_ipv4());
            let direct = of_family().find_map(|address| Some((*address, self.here.link_to(*address)?)));
            let reached = match direct {
                Some((address, link)) => {
                    self.plan.routes.insert(Route::via(range, address).on_link(&link.name).by(PROTOCOL));
                    self.plan.direct.insert(Name::clone(&peer.name));
                    Ok(())
                }
                None => self.tunnel(peer, range),
            };
            match reached {
                Ok(()) => drop(self.plan.firewall.inside.insert(range)),
                Err(why) => {
                    self.plan.problems.push(format!("range {range} of node {} is not reached: {why}", peer.name));
                }
            }
        }
        // Nodes on a common link reply to pods' own addresses.
        let near = peer.addresses.iter().filter(|address| self.here.link_to(**address).is_some());
        self.plan.firewall.inside.extend(near.map(|address| IpNet::from(*address)));
    }

    /// Adds the route to a range through VXLAN.
    fn tunnel(&mut self, peer: &Node, range: IpNet) -> Result<(), String> {
        let mut common = self.here.underlay.iter().filter_map(|(own, _)| {
            let of_family = peer.addresses.iter().filter(|address| address.is_ipv4() == own.is_ipv4());
            Some((*own, *of_family.min_by_key(|address| is_public(**address))?))
        });
        let (own, remote) = common.next().ok_or("the nodes have addresses of no common family")?;
        let hardware_address = hardware_address(&peer.name);
        let owner = self.addresses.entry(hardware_address).or_insert_with(|| Name::clone(&peer.name));
        if *owner != peer.name {
            return Err(format!("its hardware address is that of node {owner}; hint: give one of them another name"));
        }
        let link = TUNNELS[usize::from(own.is_ipv6())].to_owned();
        self.use_tunnel(own, range);
        self.plan.tunnelled.insert(Name::clone(&peer.name));
        self.plan.forwards.insert(Forward { link: link.clone(), hardware_address, remote });
        let gateway = gateway(range, hardware_address);
        self.plan.neighbours.insert(Neighbour { link: link.clone(), address: gateway, hardware_address });
        let mut route = Route::via(range, gateway).on_link(&link).by(PROTOCOL);
        route.source = self.here.address(gateway);
        self.plan.routes.insert(route);
        self.tunnel_to_node(peer, gateway, &link);
        Ok(())
    }

    /// Packets of pods to the node itself take the same way, so that it sees them, and they it, under their own
    /// addresses. VXLAN's own packets come from the node, and take the way they always took.
    fn tunnel_to_node(&mut self, peer: &Node, gateway: IpAddr, link: &str) {
        let Some(from) = self.here.ranges.iter().find(|range| range.addr().is_ipv4() == gateway.is_ipv4()).copied()
        else {
            return;
        };
        let far = peer.addresses.iter().filter(|address| address.is_ipv4() == gateway.is_ipv4());
        for address in far.filter(|address| self.here.link_to(**address).is_none()) {
            let node = IpNet::from(*address);
            self.plan.routes.insert(Route::via(node, gateway).on_link(link).by(PROTOCOL).in_table(TABLE));
            self.plan.rules.insert(Rule { priority: PRIORITY, from, table: TABLE });
            self.plan.firewall.inside.insert(node);
        }
    }

    /// Makes sure that there is a link, with an address of the family of the packets inside.
    fn use_tunnel(&mut self, local: IpAddr, range: IpNet) {
        let address = self.here.address(range.addr()).map(IpNet::from);
        if let Some(tunnel) = self.plan.tunnels.iter_mut().find(|tunnel| tunnel.link.local == local) {
            tunnel.addresses.extend(address);
            return;
        }
        let under = self.here.underlay.iter().find(|(own, _)| *own == local).map_or(0, |(_, interface)| interface.mtu);
        // The inner Ethernet header, those of VXLAN and UDP, and the outer one of IP (RFC 7348, section 5).
        let overhead = 14 + 8 + 8 + if local.is_ipv4() { 20 } else { 40 };
        let mtu = under.saturating_sub(overhead);
        let link = Vxlan {
            name: TUNNELS[usize::from(local.is_ipv6())].to_owned(),
            id: VXLAN_ID,
            port: VXLAN_PORT,
            local,
            hardware_address: hardware_address(self.here.name),
            mtu,
        };
        self.plan.mtu = self.plan.mtu.min(mtu);
        self.plan.tunnels.push(Tunnel { link, addresses: address.into_iter().collect() });
    }

    fn finish(mut self) -> Plan {
        let Plan { tunnels, firewall, .. } = &mut self.plan;
        firewall.senders.retain(|sender| tunnels.iter().any(|tunnel| tunnel.link.local.is_ipv4() == sender.is_ipv4()));
        let ipv6 = self.here.ranges.iter().any(|range| range.addr().is_ipv6());
        if ipv6 && self.plan.mtu < SMALLEST_IPV6 {
            let problem = format!("pods can send packets of {} bytes, and IPv6 needs {SMALLEST_IPV6}", self.plan.mtu);
            self.plan.problems.push(problem);
        }
        self.plan
    }
}

/// True if an address is globally routable. Of a node's addresses, others are the better choice.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => !(ip.is_private() || ip.is_link_local()),
        IpAddr::V6(ip) => !(ip.is_unique_local() || ip.is_unicast_link_local()),
    }
}

/// The gateway to a range through VXLAN. On IPv4 the first address of the range, which no pod has; on IPv6 the
/// link-local address of the other end, which the kernel takes for reachable whatever other routes say.
fn gateway(range: IpNet, hardware_address: HardwareAddress) -> IpAddr {
    match range.addr() {
        IpAddr::V4(first) => first.into(),
        IpAddr::V6(_) => {
            // Modified EUI-64 (RFC 4291, appendix A), as the kernel of the other end computes it.
            let mut octets = [0; 16];
            octets[..2].copy_from_slice(&[0xfe, 0x80]);
            octets[8..11].copy_from_slice(&hardware_address[..3]);
            octets[8] ^= 0x02;
            octets[11..13].copy_from_slice(&[0xff, 0xfe]);
            octets[13..].copy_from_slice(&hardware_address[3..]);
            Ipv6Addr::from(octets).into()
        }
    }
}

/// The hardware address of a node's VXLAN links. It is a function of the node's name, so nodes need not exchange it. It
/// is locally administered and unicast.
fn hardware_address(node: &Name) -> HardwareAddress {
    // FNV-1a, 64 bits.
    let hash = node
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let [first, rest @ .., _, _] = hash.to_be_bytes();
    let [second, third, fourth, fifth, sixth] = rest;
    [(first & 0xfc) | 0x02, second, third, fourth, fifth, sixth]
}
