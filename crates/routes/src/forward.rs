//! Forward chains of other programs that drop unknown packets: `iptables -P FORWARD DROP`, as Docker sets it.
//!
//! In the chain `FORWARD` of iptables we append rules that accept packets of this node's pods: after all rules of its
//! owner, and before the policy of the chain. The purpose of any other such chain is unknown, so its owner has to add
//! the pod CIDRs. Policy decides about packets of pods later in any case.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;

use ipnet::IpNet;

use crate::firewall::nft;

/// Tables that iptables and ip6tables create in nftables.
const TABLES: [&str; 2] = ["ip filter", "ip6 filter"];
/// The chain in these tables.
const CHAIN: &str = "FORWARD";
/// The comment by which our rules are recognised.
const MARK: &str = "comment \"ringfence\"";

/// Makes sure that packets of pods in these ranges are forwarded. Returns the changes, as phrases.
pub(crate) fn open(pods: &BTreeSet<IpNet>) -> io::Result<Vec<String>> {
    let mut changes = Vec::new();
    for (table, chain) in closed(&nft(&[], "list chains\n")?) {
        let rules = nft(&["-a"], &format!("list chain {table} {chain}\n"))?;
        if TABLES.contains(&&*table) && chain == CHAIN {
            if let Some(script) = difference(&table, &rules, pods) {
                nft(&[], &script)?;
                changes.push(format!("had packets of pods accepted in chain {chain} of table {table}"));
            }
        } else if let Some(range) = pods.iter().find(|range| !rules.contains(&range.to_string())) {
            return Err(io::Error::other(format!(
                "the chain {chain} of table {table} drops what is forwarded, and says nothing of {range}; hint: accept \
                 packets from and to the ranges of pods there"
            )));
        }
    }
    Ok(changes)
}

/// Removes our rules.
pub(crate) fn remove_rules() -> io::Result<()> {
    for table in TABLES {
        // A table that does not exist has no rules.
        let rules = nft(&["-a"], &format!("list chain {table} {CHAIN}\n")).unwrap_or_default();
        if let Some(script) = difference(table, &rules, &BTreeSet::new()) {
            nft(&[], &script)?;
        }
    }
    Ok(())
}

/// Returns table and name of each forward chain that drops packets by default.
fn closed(listing: &str) -> Vec<(String, String)> {
    let (mut table, mut chain, mut found) = ("", "", Vec::new());
    for line in listing.lines().map(str::trim) {
        let named = |kind: &str| line.strip_prefix(kind)?.strip_suffix('{').map(str::trim);
        if let Some(name) = named("table ") {
            table = name;
        } else if let Some(name) = named("chain ") {
            chain = name;
        } else if line.contains(" hook forward ") && line.ends_with("policy drop;") {
            found.push((table.to_owned(), chain.to_owned()));
        }
    }
    found
}

/// The commands that turn our rules into the wanted ones; none if they are equal.
fn difference(table: &str, listing: &str, pods: &BTreeSet<IpNet>) -> Option<String> {
    let ipv4 = table == TABLES[0];
    let family = if ipv4 { "ip" } else { "ip6" };
    let of_family = pods.iter().filter(|range| range.addr().is_ipv4() == ipv4);
    let rule = |range: &IpNet| ["saddr", "daddr"].map(|end| format!("{family} {end} {} accept {MARK}", range.trunc()));
    let mut missing: BTreeSet<String> = of_family.flat_map(rule).collect();
    let mut script = String::new();
    for line in listing.lines().filter(|line| line.contains(MARK)) {
        let Some((rule, handle)) = line.trim().split_once(" # handle ") else { continue };
        if !missing.remove(rule) {
            let _ = writeln!(script, "delete rule {table} {CHAIN} handle {handle}");
        }
    }
    for rule in missing {
        let _ = writeln!(script, "add rule {table} {CHAIN} {rule}");
    }
    (!script.is_empty()).then_some(script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_drops_by_its_policy_is_closed() {
        let listing = "table ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy \
            drop;\n\t}\n\
                       \tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n\
                       table inet mine {\n\tchain open {\n\t\ttype filter hook forward priority filter; policy \
                       accept;\n\t}\n\
                       \tchain shut {\n\t\ttype filter hook forward priority filter + 10; policy drop;\n\t}\n\tchain \
                       plain {\n\t}\n}\n";
        let pair = |table: &str, chain: &str| (table.to_owned(), chain.to_owned());
        assert_eq!(closed(listing), [pair("ip filter", "FORWARD"), pair("inet mine", "shut")]);
        assert_eq!(closed(""), []);
    }

    #[test]
    fn rules_follow_the_ranges_and_others_are_left() {
        let pods = |text: &str| BTreeSet::from([text.parse::<IpNet>().unwrap(), "fd00::/64".parse().unwrap()]);
        let script = difference(TABLES[0], "", &pods("10.244.1.0/24")).unwrap();
        assert_eq!(script.lines().count(), 2, "{script}");
        assert!(script.contains("add rule ip filter FORWARD ip daddr 10.244.1.0/24 accept"), "{script}");
        let listing = "\t\tiifname \"docker0\" drop # handle 4\n\
                       \t\tip daddr 10.244.1.0/24 accept comment \"ringfence\" # handle 7\n\
                       \t\tip saddr 10.244.1.0/24 accept comment \"ringfence\" # handle 8\n";
        assert_eq!(difference(TABLES[0], listing, &pods("10.244.1.0/24")), None);
        let script = difference(TABLES[0], listing, &pods("10.244.2.0/24")).unwrap();
        assert!(
            script.starts_with("delete rule ip filter FORWARD handle 7\ndelete rule ip filter FORWARD handle 8\nadd")
        );
        assert_eq!(difference(TABLES[0], listing, &BTreeSet::new()).unwrap().lines().count(), 2);
        assert!(difference(TABLES[1], "", &pods("10.244.1.0/24")).unwrap().contains("ip6 saddr fd00::/64"));
    }
}
