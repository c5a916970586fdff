//! What pods send out of the cluster goes under the node's address: a table of nftables of our own.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use ipnet::IpNet;

/// The table.
const TABLE: &str = "inet ringfence_primary";

/// Whose packets get the node's address, and to where they do not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Masquerade {
    /// Ranges of this node's pods.
    pub pods: BTreeSet<IpNet>,
    /// What is inside: ranges of all pods, and nodes that answer to pods' own addresses.
    pub inside: BTreeSet<IpNet>,
}

impl Masquerade {
    /// The table whole, in place of one before, in one transaction.
    pub(crate) fn script(&self) -> String {
        let mut script = format!("add table {TABLE}\ndelete table {TABLE}\nadd table {TABLE}\n");
        let _ = writeln!(
            script,
            "add chain {TABLE} postrouting {{ type nat hook postrouting priority 100; policy accept; }}"
        );
        for (family, kind, number, multicast) in [("ip", "ipv4", 4, "224.0.0.0/4"), ("ip6", "ipv6", 6, "ff00::/8")] {
            for (name, nets) in [("pods", &self.pods), ("inside", &self.inside)] {
                let _ = writeln!(
                    script,
                    "add set {TABLE} {name}{number} {{ type {kind}_addr; flags interval; auto-merge; }}"
                );
                let of_family = nets.iter().filter(|net| net.addr().is_ipv4() == (number == 4));
                let elements: Vec<String> = of_family.map(ToString::to_string).collect();
                if !elements.is_empty() {
                    let _ = writeln!(script, "add element {TABLE} {name}{number} {{ {} }}", elements.join(", "));
                }
            }
            let _ = writeln!(
                script,
                "add rule {TABLE} postrouting {family} saddr @pods{number} {family} daddr != @inside{number} \
                 {family} daddr != {multicast} masquerade fully-random"
            );
        }
        script
    }
}

/// Whether the table is there, with its rules for both families.
pub(crate) fn is_there() -> bool {
    let listed = nft(&format!("list chain {TABLE} postrouting\n"));
    listed.is_ok_and(|listed| listed.lines().filter(|line| line.contains("masquerade")).count() == 2)
}

/// Puts the table into the network namespace of the calling thread.
pub(crate) fn put(masquerade: &Masquerade) -> io::Result<()> {
    nft(&masquerade.script()).map(drop)
}

/// Takes the table away.
pub(crate) fn remove() -> io::Result<()> {
    match nft(&format!("add table {TABLE}\ndelete table {TABLE}\n")) {
        // Then it cannot have been made either.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map(drop),
    }
}

/// Carries out a script; returns what it prints.
fn nft(script: &str) -> io::Result<String> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
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
