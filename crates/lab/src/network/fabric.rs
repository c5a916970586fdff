//! The fabric and the nodes.

use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_netns::{Namespace, Netlink, Result, Route, VethEnd};

use super::{kept, namespace};
use crate::addressing::{Families, Family};
use crate::place::Place;

const BRIDGE: &str = "br0";

/// Settings of every namespace that forwards. Pods' source addresses are judged by the agent, with a reason; the
/// kernel's reverse path filter would drop them first and say nothing.
const FORWARDING: [(&str, &str); 4] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
];
/// The same for IPv6, which also must not wait for duplicate address detection nor listen to advertisements.
const FORWARDING6: [(&str, &str); 5] = [
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/all/forwarding", "1"),
];

/// A node of the lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name of the Node object.
    pub name: String,
    /// Its position, from 1.
    pub number: usize,
    /// Its addresses, default family first.
    pub addresses: Vec<IpAddr>,
    /// Ranges its pods get their addresses from, default family first.
    pub pod_ranges: Vec<IpNet>,
}

impl Node {
    /// The node of that number in a lab of these families.
    pub fn new(number: usize, families: Families) -> Self {
        Self {
            name: format!("node-{number}"),
            number,
            addresses: families.node(number).iter().map(IpNet::addr).collect(),
            pod_ranges: families.pod_ranges(number),
        }
    }

    /// Its address of a family.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}

/// Makes the fabric and the namespaces of all nodes, joined and routed.
pub fn set_up(place: &Place, families: Families, nodes: &[Node]) -> Result<()> {
    let fabric = namespace(&place.fabric_namespace())?;
    allow_forwarding(&fabric, families)?;
    let mut netlink = fabric.netlink()?;
    netlink.set_up("lo")?;
    kept(netlink.add_bridge(BRIDGE))?;
    for address in families.fabric() {
        kept(netlink.add_address(BRIDGE, address))?;
    }
    netlink.set_up(BRIDGE)?;
    for node in nodes {
        join(place, families, &fabric, &mut netlink, node)?;
    }
    for node in nodes {
        route_to_pods(&mut netlink, node)?;
        let mut inside = Namespace::open(&place.node_namespace(&node.name))?.netlink()?;
        for other in nodes.iter().filter(|other| *other != node) {
            route_to_pods(&mut inside, other)?;
        }
    }
    Ok(())
}

/// Makes a node's namespace and joins it to the fabric.
fn join(place: &Place, families: Families, fabric: &Namespace, netlink: &mut Netlink, node: &Node) -> Result<()> {
    let inside = namespace(&place.node_namespace(&node.name))?;
    allow_forwarding(&inside, families)?;
    let port = format!("n{}", node.number);
    let mut own = inside.netlink()?;
    if own.find_link("eth0")?.is_none() {
        netlink.add_veth(
            VethEnd { name: &port, namespace: fabric },
            VethEnd { name: "eth0", namespace: &inside },
            None,
        )?;
    }
    netlink.set_controller(&port, BRIDGE)?;
    netlink.set_up(&port)?;
    own.set_up("lo")?;
    for address in families.node(node.number) {
        kept(own.add_address("eth0", address))?;
    }
    own.set_up("eth0")?;
    for family in families.each() {
        if *family == Family::V4 {
            // On IPv4 a node answers for its addresses on every link; on IPv6 each pod's link has the gateway.
            kept(own.add_address("lo", family.gateway().into()))?;
        }
    }
    for fabric_address in families.fabric() {
        let everywhere = Family::of(fabric_address.addr()).everywhere();
        own.set_route(&Route::via(everywhere, fabric_address.addr()))?;
    }
    for range in &node.pod_ranges {
        // Else packets to addresses nobody has would go back and forth between node and fabric.
        own.set_route(&Route::unreachable(*range))?;
    }
    Ok(())
}

fn route_to_pods(netlink: &mut Netlink, node: &Node) -> Result<()> {
    for range in &node.pod_ranges {
        if let Some(address) = node.address(Family::of(range.addr())) {
            netlink.set_route(&Route::via(*range, address))?;
        }
    }
    Ok(())
}

fn allow_forwarding(namespace: &Namespace, families: Families) -> Result<()> {
    namespace.set_sysctls(&FORWARDING)?;
    if families.each().contains(&Family::V6) {
        namespace.set_sysctls(&FORWARDING6)?;
    }
    Ok(())
}
