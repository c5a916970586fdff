//! A pod's namespace and its link to the node.

use std::net::IpAddr;

use ringfence_netns::{Namespace, Result, Route, VethEnd};

use super::{Node, kept, namespace};
use crate::addressing::Family;
use crate::place::{Place, short};

/// As container runtimes set it: ports below 1024 and ping for everybody inside.
const POD_SETTINGS: [(&str, &str); 2] =
    [("net/ipv4/ip_unprivileged_port_start", "0"), ("net/ipv4/ping_group_range", "0 2147483647")];
const POD_SETTINGS6: [(&str, &str); 2] =
    [("net/ipv6/conf/default/accept_dad", "0"), ("net/ipv6/conf/default/accept_ra", "0")];

/// Makes a pod's namespace, joins it to its node and routes its addresses.
pub fn attach(place: &Place, node: &Node, uid: &str, addresses: &[IpAddr]) -> Result<()> {
    let outside = Namespace::open(&place.node_namespace(&node.name))?;
    let inside = namespace(&place.pod_namespace(uid))?;
    inside.set_sysctls(&POD_SETTINGS)?;
    if addresses.iter().any(IpAddr::is_ipv6) {
        inside.set_sysctls(&POD_SETTINGS6)?;
    }
    let host_link = host_link(uid);
    let mut outer = outside.netlink()?;
    let mut inner = inside.netlink()?;
    if inner.find_link("eth0")?.is_none() {
        outer.add_veth(
            VethEnd { name: &host_link, namespace: &outside },
            VethEnd { name: "eth0", namespace: &inside },
            None,
        )?;
    }
    inner.set_up("lo")?;
    inner.set_up("eth0")?;
    outer.set_up(&host_link)?;
    for address in addresses {
        let family = Family::of(*address);
        let gateway = family.gateway();
        if family == Family::V6 {
            let gateway = ipnet::IpNet::new_assert(gateway, 64);
            kept(outer.add_address(&host_link, gateway))?;
        }
        kept(inner.add_address("eth0", (*address).into()))?;
        inner.set_route(&Route::via(family.everywhere(), gateway).on_link("eth0"))?;
        let mut route = Route::direct((*address).into(), &host_link);
        // What the node itself sends must come from its own address, not from the gateway's.
        route.source = node.address(family);
        outer.set_route(&route)?;
    }
    Ok(())
}

/// Takes away a pod's link and namespace. What is gone already is no error.
pub fn detach(place: &Place, node: &str, uid: &str) -> Result<()> {
    match Namespace::open(&place.node_namespace(node)) {
        Ok(outside) => outside.netlink()?.delete_link(&host_link(uid))?,
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    Namespace::delete(&place.pod_namespace(uid))
}

/// Name of the node's end of a pod's link.
fn host_link(uid: &str) -> String {
    format!("veth{}", short(uid))
}
