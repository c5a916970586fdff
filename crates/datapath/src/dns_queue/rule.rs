//! The rule that sends answers to the queue.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::conntrack::{TABLE, nft};
use crate::nfnetlink::{ACK, APPEND, Attributes, Connection, Header, message};
use crate::{Error, nftables};

/// After the BPF program (94 or 95), before source NAT (100) replaces the server's address.
const PRIORITY: i32 = 97;
/// The chain at the hook. It is replaced together with the chain that queues and the sets, in one transaction.
const CHAIN: &str = "dns_answers";
const TO_QUEUE: &str = "to_queue";
/// Two rules for each family.
const HOOK_RULES: usize = 4;
const SETS: [&str; 4] = ["dns_servers4", "dns_servers6", "pods4", "pods6"];

/// Creates the rule and replaces an earlier one.
pub(super) fn put(queue: u16, servers: &BTreeSet<SocketAddr>, pods: &BTreeSet<IpNet>) -> Result<(), String> {
    remove()?;
    let hook = hook(servers, pods);
    let prepare = format!("add table inet {TABLE}\nadd chain inet {TABLE} {TO_QUEUE}\n");
    let native = format!("add rule inet {TABLE} {TO_QUEUE} queue flags bypass to {queue}\n");
    match nft(&format!("{prepare}{native}{hook}")) {
        Ok(_) => Ok(()),
        // Kernels without the queue expression have the target NFQUEUE of xtables, which `nft` cannot write.
        Err(refusal) => {
            nft(&prepare)?;
            append_target(queue).map_err(|error| format!("{refusal}; and as a target of xtables: {error}"))?;
            nft(&hook).map(drop)
        }
    }
}

/// True if all of the rules exist, with either expression that sends to the queue.
pub(super) fn is_there() -> Result<bool, Error> {
    Ok(nftables::rule_count(TABLE, CHAIN)? == HOOK_RULES && nftables::rule_count(TABLE, TO_QUEUE)? == 1)
}

/// Removes the rules at the hook and nothing else: the kernel drops queued packets when a hook is removed.
pub(super) fn flush_hook() -> Result<(), String> {
    nft(&format!("add table inet {TABLE}\nflush chain inet {TABLE} {CHAIN}\n")).map(drop)
}

/// Removes the rule with its chains and sets.
pub(super) fn remove() -> Result<(), String> {
    // A chain that has just been added can be deleted, whether or not it existed before.
    let mut script = format!("add table inet {TABLE}\n");
    for chain in [CHAIN, TO_QUEUE] {
        let _ = writeln!(script, "add chain inet {TABLE} {chain}\nflush chain inet {TABLE} {chain}");
    }
    for chain in [CHAIN, TO_QUEUE] {
        let _ = writeln!(script, "delete chain inet {TABLE} {chain}");
    }
    for set in SETS {
        let _ = writeln!(script, "add set inet {TABLE} {set} {}\ndelete set inet {TABLE} {set}", kind(set));
    }
    nft(&script).map(drop)
}

fn kind(set: &str) -> &'static str {
    match set {
        "dns_servers4" => "{ type ipv4_addr . inet_service; }",
        "dns_servers6" => "{ type ipv6_addr . inet_service; }",
        "pods4" => "{ type ipv4_addr; flags interval; auto-merge; }",
        _ => "{ type ipv6_addr; flags interval; auto-merge; }",
    }
}

/// Changes servers and pods of the existing rule in one transaction.
pub(super) fn change(servers: &BTreeSet<SocketAddr>, pods: &BTreeSet<IpNet>) -> Result<(), String> {
    let mut script = String::new();
    for set in SETS {
        let _ = writeln!(script, "flush set inet {TABLE} {set}");
    }
    elements(&mut script, servers, pods);
    nft(&script).map(drop)
}

fn elements(script: &mut String, servers: &BTreeSet<SocketAddr>, pods: &BTreeSet<IpNet>) {
    let server = |server: &SocketAddr| format!("{} . {}", server.ip(), server.port());
    let elements: [Vec<String>; 4] = [
        servers.iter().filter(|server| server.is_ipv4()).map(server).collect(),
        servers.iter().filter(|server| server.is_ipv6()).map(server).collect(),
        pods.iter().filter(|net| matches!(net.addr(), IpAddr::V4(_))).map(ToString::to_string).collect(),
        pods.iter().filter(|net| matches!(net.addr(), IpAddr::V6(_))).map(ToString::to_string).collect(),
    ];
    for (set, elements) in SETS.into_iter().zip(elements) {
        if !elements.is_empty() {
            let _ = writeln!(script, "add element inet {TABLE} {set} {{ {} }}", elements.join(", "));
        }
    }
}

/// Returns the commands that create the sets and the chain at the hook.
fn hook(servers: &BTreeSet<SocketAddr>, pods: &BTreeSet<IpNet>) -> String {
    let mut script = String::new();
    for set in SETS {
        let _ = writeln!(script, "add set inet {TABLE} {set} {}", kind(set));
    }
    elements(&mut script, servers, pods);
    let _ = writeln!(
        script,
        "add chain inet {TABLE} {CHAIN} {{ type filter hook postrouting priority {PRIORITY}; policy accept; }}"
    );
    for (family, number) in [("ip", 4), ("ip6", 6)] {
        let matches = format!(
            "meta l4proto {{ tcp, udp }} {family} saddr . th sport @dns_servers{number} {family} daddr @pods{number}"
        );
        let _ = writeln!(script, "add rule inet {TABLE} {CHAIN} {matches} ct direction reply goto {TO_QUEUE}");
        // Packets of a cache on the node itself are mostly exempt from connection tracking.
        let _ = writeln!(
            script,
            "add rule inet {TABLE} {CHAIN} {matches} ct state untracked fib saddr type local goto {TO_QUEUE}"
        );
    }
    script
}

/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`, `NFNL_SUBSYS_NFTABLES`, `NFT_MSG_NEWRULE`, `NFPROTO_INET`.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NFTABLES: u16 = 10;
const NEW_RULE: u16 = (NFTABLES << 8) | 6;
const INET: u8 = 1;
/// `NFTA_RULE_TABLE`, `_CHAIN`, `_EXPRESSIONS`; `NFTA_LIST_ELEM`; `NFTA_EXPR_NAME`, `_DATA`;
/// `NFTA_TARGET_NAME`, `_REV`, `_INFO` (`include/uapi/linux/netfilter/nf_tables.h`, `nf_tables_compat.h`).
const RULE: [u16; 3] = [1, 2, 4];
const ELEMENT: u16 = 1;
const EXPRESSION: [u16; 2] = [1, 2];
const TARGET: [u16; 3] = [1, 2, 3];
/// Revision of `struct xt_NFQ_info_v3`, and its flag to let packets pass if no process reads the queue.
const REVISION: u32 = 3;
const BYPASS: u16 = 1;

/// Appends a rule whose only expression is the target NFQUEUE of xtables.
fn append_target(queue: u16) -> io::Result<()> {
    // Queue, number of queues, flags; padded to the alignment of xtables.
    let info: Vec<u8> = [queue, 1, BYPASS, 0].into_iter().flat_map(u16::to_ne_bytes).collect();
    let target =
        Attributes::default().text(TARGET[0], "NFQUEUE").put(TARGET[1], &REVISION.to_be_bytes()).put(TARGET[2], &info);
    let expression = Attributes::default().text(EXPRESSION[0], "target").nest(EXPRESSION[1], &target);
    let rule = Attributes::default()
        .text(RULE[0], TABLE)
        .text(RULE[1], TO_QUEUE)
        .nest(RULE[2], &Attributes::default().nest(ELEMENT, &expression));
    let edge = |kind| Header { kind, flags: 0, family: 0, resource: NFTABLES };
    let new = Header { kind: NEW_RULE, flags: ACK | APPEND, family: INET, resource: 0 };
    let batch = [
        message(edge(BATCH_BEGIN), &Attributes::default()),
        message(new, &rule),
        message(edge(BATCH_END), &Attributes::default()),
    ];
    Connection::open()?.request(&batch.concat(), |_, _| {})
}
