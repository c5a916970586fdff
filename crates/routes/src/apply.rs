//! Brings the kernel to a plan. Only the difference is written.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::{fs, io};

use ipnet::IpNet;
use ringfence_netns::Netlink;

use crate::{Firewall, Interface, PRIORITY, PROTOCOL, Plan, TUNNELS, Tunnel, firewall, forward};

/// The content that the table of nftables was set to, and the change after which it was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedFirewall {
    firewall: Firewall,
    generation: Option<u32>,
}

impl VerifiedFirewall {
    /// True if no table has changed since the last verification.
    fn holds(&self, generation: Option<u32>) -> bool {
        generation.is_some() && self.generation == generation
    }
}

/// The reason why the kernel does not match the plan.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A link, route or rule.
    #[error(transparent)]
    Netlink(#[from] ringfence_netns::Error),
    /// A setting of the kernel.
    #[error("cannot set {setting}: {cause}; hint: this needs root")]
    Setting {
        /// Its name, as sysctl has it.
        setting: String,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// The table of nftables.
    #[error("what pods send out of the cluster does not get the node's address, nor is VXLAN closed to others: {0}")]
    Firewall(io::Error),
    /// The chains of others that packets of pods pass.
    #[error("packets of pods are not passed on: {0}")]
    Forward(io::Error),
}

/// Brings the network namespace of the calling thread to a plan. Returns what was changed, as phrases.
///
/// `netlink` belongs to that namespace. `verified` is the known state of the table of nftables; it is updated, and has
/// to be dropped after an error.
pub fn apply(
    plan: &Plan,
    verified: &mut Option<VerifiedFirewall>,
    interfaces: &[Interface],
    netlink: &mut Netlink,
) -> Result<Vec<String>, Error> {
    let mut changes = Vec::new();
    forward(plan, interfaces, &mut changes)?;
    // The table is created before any link through which strangers could send.
    ensure_firewall(plan, verified, &mut changes)?;
    tunnels(plan, netlink, &mut changes)?;
    peers(plan, netlink, &mut changes)?;
    routes(plan, netlink, &mut changes)?;
    for name in TUNNELS.iter().filter(|name| !plan.tunnels.iter().any(|tunnel| tunnel.link.name == **name)) {
        if netlink.find_link(name)?.is_some() {
            netlink.delete_link(name)?;
            changes.push(format!("removed link {name}"));
        }
    }
    Ok(changes)
}

/// Restores our table and the forwarding rules if they have changed. While the kernel counts no change of any table
/// they are not checked, because a check starts processes.
fn ensure_firewall(
    plan: &Plan,
    verified: &mut Option<VerifiedFirewall>,
    changes: &mut Vec<String>,
) -> Result<(), Error> {
    // The generation is read before the check, so a change during the check is found the next time.
    let generation = ringfence_netns::ruleset_generation().ok();
    let known = verified.as_ref().filter(|known| known.firewall == plan.firewall);
    if known.is_some_and(|known| known.holds(generation)) {
        return Ok(());
    }
    let before = changes.len();
    if known.is_none() || !firewall::is_there(&plan.firewall) {
        firewall::put(&plan.firewall).map_err(Error::Firewall)?;
        changes.push("set which packets of pods get the node's address, and who may send through VXLAN".into());
    }
    changes.extend(forward::open(&plan.firewall.pods).map_err(Error::Forward)?);
    let generation = generation.filter(|_| changes.len() == before);
    *verified = Some(VerifiedFirewall { firewall: plan.firewall.clone(), generation });
    Ok(())
}

/// Removes everything that [`apply`] created in the network namespace of the calling thread, except kernel settings
/// that others may rely on by now (`ip_forward`).
pub fn clean_up(netlink: &mut Netlink) -> Result<(), Error> {
    for rule in netlink.rules_at(PRIORITY)? {
        netlink.delete_rule(&rule)?;
    }
    for route in netlink.routes_by(PROTOCOL)? {
        netlink.delete_route(&route)?;
    }
    for name in TUNNELS {
        netlink.delete_link(name)?;
    }
    forward::remove_rules().map_err(Error::Forward)?;
    firewall::remove().map_err(Error::Firewall)
}

/// Enables forwarding. In a container `/proc/sys` is mostly read-only. Then `ptp`, which runs on the node itself,
/// enables it with the node's first pod, and before that there is no pod to forward packets to.
fn forward(plan: &Plan, interfaces: &[Interface], changes: &mut Vec<String>) -> Result<(), Error> {
    let has = |ipv4: bool| plan.ranges.iter().any(|range| range.addr().is_ipv4() == ipv4);
    if has(true) {
        set("net/ipv4/ip_forward", "1", changes)?;
    }
    if has(false) && get("net/ipv6/conf/all/forwarding").is_none_or(|value| value != "1") {
        // A node that forwards ignores routes from router advertisements unless the interface is set to accept them.
        for interface in interfaces {
            let setting = format!("net/ipv6/conf/{}/accept_ra", interface.name);
            if get(&setting).is_some_and(|value| value == "1") {
                set(&setting, "2", changes)?;
            }
        }
        set("net/ipv6/conf/all/forwarding", "1", changes)?;
    }
    Ok(())
}

fn path(setting: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(setting)
}

fn get(setting: &str) -> Option<String> {
    fs::read_to_string(path(setting)).ok().map(|text| text.trim().to_owned())
}

fn set(setting: &str, value: &str, changes: &mut Vec<String>) -> Result<(), Error> {
    if get(setting).as_deref() == Some(value) {
        return Ok(());
    }
    let failed = |cause| Error::Setting { setting: setting.replace('/', "."), cause };
    match fs::write(path(setting), value) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => return Ok(()),
        written => written.map_err(failed)?,
    }
    changes.push(format!("set {}={value}", setting.replace('/', ".")));
    Ok(())
}

/// Creates the VXLAN links. A link that differs in a property that cannot be changed is replaced.
fn tunnels(plan: &Plan, netlink: &mut Netlink, changes: &mut Vec<String>) -> Result<(), Error> {
    for tunnel in &plan.tunnels {
        let name = &tunnel.link.name;
        if netlink.vxlan(name)?.as_ref() != Some(&tunnel.link) {
            netlink.delete_link(name)?;
            netlink.add_vxlan(&tunnel.link)?;
            changes.push(format!("made link {name}"));
        }
        addresses(tunnel, netlink, changes)?;
        // Packets under a far node's own address arrive here, although packets to it mostly leave by another link.
        let filtered = get(&format!("net/ipv4/conf/{name}/rp_filter")).is_none_or(|value| value != "2");
        if filtered && tunnel.addresses.iter().any(|address| address.addr().is_ipv4()) {
            netlink.set_loose_reverse_path(name)?;
            changes.push(format!("set loose reverse path filtering of {name}"));
        }
        if !netlink.find_link(name)?.is_some_and(|link| link.up) {
            netlink.set_up(name)?;
        }
    }
    Ok(())
}

fn addresses(tunnel: &Tunnel, netlink: &mut Netlink, changes: &mut Vec<String>) -> Result<(), Error> {
    let name = &tunnel.link.name;
    let index = netlink.link_index(name)?;
    let there: BTreeSet<IpNet> =
        netlink.addresses()?.into_iter().filter(|(of, _)| *of == index).map(|(_, net)| net).collect();
    for address in tunnel.addresses.difference(&there) {
        netlink.add_address(name, *address)?;
        changes.push(format!("gave {address} to {name}"));
    }
    let ours = |address: &&IpNet| !is_link_local(**address);
    for address in there.difference(&tunnel.addresses).filter(ours) {
        netlink.delete_address(name, *address)?;
        changes.push(format!("took {address} from {name}"));
    }
    Ok(())
}

/// The kernel assigns a link-local address to each link.
fn is_link_local(address: IpNet) -> bool {
    matches!(address, IpNet::V6(address) if address.addr().is_unicast_link_local())
}

/// Sets the static entries of the VXLAN links. New entries are written first, so that a peer that stays is never
/// missing.
fn peers(plan: &Plan, netlink: &mut Netlink, changes: &mut Vec<String>) -> Result<(), Error> {
    for tunnel in &plan.tunnels {
        let link = tunnel.link.name.as_str();
        let there: BTreeSet<_> = netlink.forwards(link)?.into_iter().collect();
        let wanted: BTreeSet<_> = plan.forwards.iter().filter(|forward| forward.link == link).cloned().collect();
        for forward in wanted.difference(&there) {
            netlink.set_forward(forward)?;
            changes.push(format!("added VXLAN peer {}", forward.remote));
        }
        // The link keeps one peer of a hardware address: a new one has replaced the old.
        let replaced = |old: &&ringfence_netns::Forward| {
            wanted.iter().any(|forward| forward.hardware_address == old.hardware_address)
        };
        for forward in there.difference(&wanted).filter(|old| !replaced(old)) {
            netlink.delete_forward(forward)?;
            changes.push(format!("removed VXLAN peer {}", forward.remote));
        }
        let there: BTreeSet<_> = netlink.neighbours(link)?.into_iter().collect();
        let wanted: BTreeSet<_> = plan.neighbours.iter().filter(|neighbour| neighbour.link == link).cloned().collect();
        for neighbour in wanted.difference(&there) {
            netlink.set_neighbour(neighbour)?;
        }
        let replaced =
            |old: &&ringfence_netns::Neighbour| wanted.iter().any(|neighbour| neighbour.address == old.address);
        for neighbour in there.difference(&wanted).filter(|old| !replaced(old)) {
            netlink.delete_neighbour(neighbour)?;
        }
    }
    Ok(())
}

/// Sets routes and rules. New ones are written before old ones are deleted, so that packets to pods have a route at
/// every instant.
fn routes(plan: &Plan, netlink: &mut Netlink, changes: &mut Vec<String>) -> Result<(), Error> {
    let there: BTreeSet<_> = netlink.routes_by(PROTOCOL)?.into_iter().collect();
    for route in plan.routes.difference(&there) {
        netlink.set_route(route)?;
        changes.push(format!("set route to {}", route.destination));
    }
    let rules: BTreeSet<_> = netlink.rules_at(PRIORITY)?.into_iter().collect();
    for rule in plan.rules.difference(&rules) {
        netlink.add_rule(rule)?;
        changes.push(format!("added rule for packets from {}", rule.from));
    }
    for rule in rules.difference(&plan.rules) {
        netlink.delete_rule(rule)?;
        changes.push(format!("removed rule for packets from {}", rule.from));
    }
    let kept = |old: &ringfence_netns::Route| {
        plan.routes.iter().any(|route| (route.destination, route.table) == (old.destination, old.table))
    };
    for route in there.difference(&plan.routes).filter(|old| !kept(old)) {
        netlink.delete_route(route)?;
        changes.push(format!("removed route to {}", route.destination));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_looked_at_after_a_change_of_some_table_and_where_the_kernel_does_not_count() {
        let verified = |generation| VerifiedFirewall { firewall: Firewall::default(), generation };
        assert!(verified(Some(3)).holds(Some(3)));
        assert!(!verified(Some(3)).holds(Some(4)), "somebody changed something");
        assert!(!verified(None).holds(Some(3)), "it was only just set");
        assert!(!verified(None).holds(None) && !verified(Some(3)).holds(None));
    }
}
