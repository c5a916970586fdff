//! Our own table of nftables. It masquerades packets of pods that leave the cluster, and accepts packets of our VXLAN
//! from nodes only. The kernel decapsulates VXLAN packets of any source (RFC 7348, section 7): otherwise a pod, or any
//! host that reaches a node, could send packets under any pod's address.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::{Command, Stdio};

use ipnet::IpNet;

use crate::{VXLAN_ID, VXLAN_PORT};

/// The name of the table, of family `inet`.
pub const FIREWALL: &str = "ringfence_primary";
/// Family and name of the table, as scripts write them.
const TABLE: &str = "inet ringfence_primary";
/// The chain that masquerades packets of pods, and its number of rules: one for each family.
pub const MASQUERADE: (&str, usize) = ("postrouting", 2);

/// The masqueraded sources, the destinations that are exempt, and the permitted senders of VXLAN packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firewall {
    /// Ranges of this node's pods.
    pub pods: BTreeSet<IpNet>,
    /// The destinations inside of the cluster: all pod CIDRs, and nodes that accept the own addresses of pods.
    pub inside: BTreeSet<IpNet>,
    /// Addresses of other nodes, of the families that there is a VXLAN link over.
    pub senders: BTreeSet<IpAddr>,
}

impl Firewall {
    /// Returns the script that replaces the whole table in one transaction.
    pub(crate) fn script(&self) -> String {
        let mut script = format!("add table {TABLE}\ndelete table {TABLE}\nadd table {TABLE}\n");
        let _ = writeln!(
            script,
            "add chain {TABLE} postrouting {{ type nat hook postrouting priority 100; policy accept; }}\n\
             add chain {TABLE} input {{ type filter hook input priority 0; policy accept; }}"
        );
        for (family, kind, number, multicast) in [("ip", "ipv4", 4, "224.0.0.0/4"), ("ip6", "ipv6", 6, "ff00::/8")] {
            for (name, nets) in [("pods", &self.pods), ("inside", &self.inside)] {
                let of_family = nets.iter().filter(|net| net.addr().is_ipv4() == (number == 4));
                let elements: Vec<String> = of_family.map(ToString::to_string).collect();
                add_set(&mut script, &format!("{name}{number}"), kind, &elements);
            }
            let _ = writeln!(
                script,
                "add rule {TABLE} postrouting {family} saddr @pods{number} {family} daddr != @inside{number} \
                 {family} daddr != {multicast} masquerade fully-random"
            );
            let senders = self.senders.iter().filter(|sender| sender.is_ipv4() == (number == 4));
            let senders: Vec<String> = senders.map(ToString::to_string).collect();
            if senders.is_empty() {
                continue;
            }
            add_set(&mut script, &format!("senders{number}"), kind, &senders);
            // The network identifier follows the UDP header and 32 bits of flags. Packets of other VXLANs are not
            // filtered.
            let _ = writeln!(
                script,
                "add rule {TABLE} input {family} saddr != @senders{number} udp dport {VXLAN_PORT} @th,96,24 {VXLAN_ID} \
                 drop"
            );
        }
        script
    }
}

fn add_set(script: &mut String, name: &str, kind: &str, elements: &[String]) {
    let _ = writeln!(script, "add set {TABLE} {name} {{ type {kind}_addr; flags interval; auto-merge; }}");
    if !elements.is_empty() {
        let _ = writeln!(script, "add element {TABLE} {name} {{ {} }}", elements.join(", "));
    }
}

/// True if the table exists with all its rules.
pub(crate) fn is_there(firewall: &Firewall) -> bool {
    let families: BTreeSet<bool> = firewall.senders.iter().map(IpAddr::is_ipv4).collect();
    let count = |text: &str, word: &str| text.lines().filter(|line| line.contains(word)).count();
    let listed = nft(&[], &format!("list table {TABLE}\n"));
    listed.is_ok_and(|text| count(&text, " masquerade") == 2 && count(&text, " drop") == families.len())
}

/// Creates or replaces the table in the network namespace of the calling thread.
pub(crate) fn put(firewall: &Firewall) -> io::Result<()> {
    nft(&[], &firewall.script()).map(drop)
}

/// Removes the table.
pub(crate) fn remove() -> io::Result<()> {
    match nft(&[], &format!("add table {TABLE}\ndelete table {TABLE}\n")) {
        // Without the `nft` command the table cannot have been created either.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map(drop),
    }
}

/// Runs a script of nftables and returns its output.
pub(crate) fn nft(options: &[&str], script: &str) -> io::Result<String> {
    let mut command = Command::new("nft");
    command.args(options).args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let hint = |error: io::Error| io::Error::new(error.kind(), format!("nft: {error}; hint: apt install nftables"));
    let mut child = command.spawn().map_err(hint)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(io::Error::other(format!("nft: {}", String::from_utf8_lossy(&output.stderr).trim())))
}
