//! The same allowances as nftables rules.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// Tracks connections, and nothing else.
pub(super) const TRACK: &str = "table inet bench {\n chain forward {\n  type filter hook forward priority filter;\n  \
    ct state invalid counter\n }\n}\n";

/// A chain of the server pod with a rule for each source, as engines on rules write it: replies and open connections
/// first, the end denies.
pub(super) fn chain(server: Ipv4Addr, sources: &[Ipv4Addr]) -> String {
    let mut text = head(server);
    text.push_str(" chain to-server {\n");
    for source in sources {
        let _ = writeln!(text, "  ip saddr {source} accept");
    }
    text.push_str("  drop\n }\n}\n");
    text
}

/// The same with one set of all sources, which is looked up at once: what a careful author writes by hand.
pub(super) fn set(server: Ipv4Addr, sources: &[Ipv4Addr]) -> String {
    let mut text = head(server);
    text.push_str(" set sources {\n  type ipv4_addr\n  elements = { ");
    let elements: Vec<String> = sources.iter().map(Ipv4Addr::to_string).collect();
    let _ = writeln!(text, "{} }}\n }}", elements.join(", "));
    text.push_str(" chain to-server {\n  ip saddr @sources accept\n  drop\n }\n}\n");
    text
}

fn head(server: Ipv4Addr) -> String {
    format!(
        "table inet bench\ndelete table inet bench\ntable inet bench {{\n chain forward {{\n  \
         type filter hook forward priority filter;\n  ct state established,related accept\n  \
         ip daddr {server} jump to-server\n }}\n"
    )
}
