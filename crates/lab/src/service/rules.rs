//! The nftables rules of a node, as text for one transaction.
//!
//! As kube-proxy's nftables mode has them: a map from address, protocol and port to a chain per Service port, which
//! picks a chain per endpoint, which translates the destination. What still goes to an address of a Service afterwards
//! is refused: it has no ready endpoint or no such port.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::table::Port;
use crate::addressing::{Families, Family};

/// Mark of packets whose source must be hidden behind the node: the one kube-proxy uses.
const MASQUERADE: &str = "0x4000";

/// Rules for all families of the lab.
pub(super) fn render(ports: &[Port], families: Families) -> String {
    families.each().iter().map(|family| table(ports, *family)).collect()
}

/// Words that differ between the families.
struct Words {
    family: &'static str,
    address_type: &'static str,
    loopback: &'static str,
}

fn words(family: Family) -> Words {
    match family {
        Family::V4 => Words { family: "ip", address_type: "ipv4_addr", loopback: "127.0.0.0/8" },
        Family::V6 => Words { family: "ip6", address_type: "ipv6_addr", loopback: "::1" },
    }
}

fn table(ports: &[Port], family: Family) -> String {
    let Words { family: ip, address_type, loopback } = words(family);
    let mine = |address: &IpAddr| Family::of(*address) == family;
    let mut text = format!("add table {ip} ringfence-services\ndelete table {ip} ringfence-services\n");
    let _ = writeln!(text, "table {ip} ringfence-services {{");
    let mut chains = String::new();
    let (mut by_address, mut by_node_port, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
    for port in ports {
        let own: Vec<&IpAddr> = port.addresses.iter().filter(|address| mine(address)).collect();
        let endpoints: Vec<SocketAddr> =
            port.endpoints.iter().filter(|endpoint| mine(&endpoint.ip())).copied().collect();
        addresses.extend(own.iter().map(ToString::to_string));
        if own.is_empty() || endpoints.is_empty() {
            continue;
        }
        let protocol = port.protocol.name();
        for address in own {
            by_address.push(format!("{address} . {protocol} . {} : goto service/{}", port.number, port.name));
        }
        if let Some(on_nodes) = port.on_nodes {
            by_node_port.push(format!("{protocol} . {on_nodes} : goto node-port/{}", port.name));
        }
        service_chains(&mut chains, ip, port, &endpoints);
    }
    addresses.sort();
    addresses.dedup();
    collection(
        &mut text,
        "map service-ports",
        &format!("{address_type} . inet_proto . inet_service : verdict"),
        &by_address,
    );
    collection(&mut text, "map node-ports", "inet_proto . inet_service : verdict", &by_node_port);
    collection(&mut text, "set service-addresses", address_type, &addresses);
    text.push_str(&chains);
    let _ = write!(
        text,
        "\tchain services {{\n\
         \t\t{ip} daddr . meta l4proto . th dport vmap @service-ports\n\
         \t\tfib daddr type local {ip} daddr != {loopback} meta l4proto . th dport vmap @node-ports\n\
         \t}}\n\
         \tchain prerouting {{ type nat hook prerouting priority -100; policy accept; jump services; }}\n\
         \tchain output {{ type nat hook output priority -100; policy accept; jump services; }}\n\
         \tchain postrouting {{ type nat hook postrouting priority 100; policy accept;\n\
         \t\tmeta mark & {MASQUERADE} == {MASQUERADE} meta mark set meta mark & 0xffffbfff masquerade fully-random\n\
         \t}}\n"
    );
    for hook in ["forward", "output"] {
        let _ = writeln!(
            text,
            "\tchain refuse-{hook} {{ type filter hook {hook} priority 0; policy accept; \
             ct state new {ip} daddr @service-addresses reject; }}"
        );
    }
    text.push_str("}\n");
    text
}

/// The chains of one port: entry by node port, choice among endpoints, translation to each.
fn service_chains(text: &mut String, ip: &str, port: &Port, endpoints: &[SocketAddr]) {
    let (name, protocol) = (&port.name, port.protocol.name());
    for (number, endpoint) in endpoints.iter().enumerate() {
        let _ = write!(
            text,
            "\tchain endpoint/{name}/{number} {{\n\
             \t\t{ip} saddr {} meta mark set meta mark | {MASQUERADE}\n\
             \t\tmeta l4proto {protocol} dnat to {endpoint}\n\t}}\n",
            endpoint.ip()
        );
    }
    let count = endpoints.len();
    let source = if port.sticky { format!("jhash {ip} saddr") } else { "numgen random".to_owned() };
    let choices: Vec<String> = (0..count).map(|number| format!("{number} : goto endpoint/{name}/{number}")).collect();
    let choices = choices.join(", ");
    let _ = writeln!(text, "\tchain service/{name} {{ {source} mod {count} vmap {{ {choices} }}; }}");
    if port.on_nodes.is_some() {
        let _ = writeln!(
            text,
            "\tchain node-port/{name} {{ meta mark set meta mark | {MASQUERADE}; goto service/{name}; }}"
        );
    }
}

/// A map or set; without elements the line that would list them must be left out.
fn collection(text: &mut String, name: &str, kind: &str, elements: &[String]) {
    let _ = writeln!(text, "\t{name} {{");
    let _ = writeln!(text, "\t\ttype {kind};");
    if !elements.is_empty() {
        let _ = writeln!(text, "\t\telements = {{ {} }}", elements.join(", "));
    }
    text.push_str("\t}\n");
}

#[cfg(test)]
mod tests {
    use super::super::table::Protocol;
    use super::*;

    fn port(endpoints: &[&str]) -> Port {
        Port {
            name: "shop/web/tcp/80".into(),
            protocol: Protocol::Tcp,
            addresses: vec!["10.97.0.20".parse().unwrap(), "fd00:10:97::14".parse().unwrap()],
            number: 80,
            on_nodes: Some(30080),
            sticky: false,
            endpoints: endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect(),
            serving: Vec::new(),
        }
    }

    #[test]
    fn each_family_translates_to_its_own_endpoints() {
        let text = render(&[port(&["10.245.1.2:8080", "[fd00:10:245:1::2]:8080"])], Families::DualStack);
        assert!(text.contains("10.97.0.20 . tcp . 80 : goto service/shop/web/tcp/80"), "{text}");
        assert!(text.contains("dnat to 10.245.1.2:8080"), "{text}");
        assert!(text.contains("dnat to [fd00:10:245:1::2]:8080"), "{text}");
        assert_eq!(text.matches("mod 1 vmap").count(), 2);
    }

    #[test]
    fn without_endpoints_only_the_refusal_is_left() {
        let text = render(&[port(&[])], Families::Ipv4);
        assert!(text.contains("set service-addresses {\n\t\ttype ipv4_addr;\n\t\telements = { 10.97.0.20 }"), "{text}");
        assert!(!text.contains("dnat to"), "{text}");
    }

    #[test]
    fn the_kernel_takes_the_rules() {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
            println!("skipped: needs root");
            return;
        }
        let name = format!("rf-lab-rules-{}", std::process::id());
        let namespace = ringfence_netns::Namespace::create(&name).unwrap();
        let mut sticky = port(&["10.245.1.2:8080", "10.245.2.2:8080", "[fd00:10:245:1::2]:8080"]);
        (sticky.sticky, sticky.name) = (true, "shop/sticky/tcp/81".into());
        (sticky.number, sticky.on_nodes) = (81, None);
        let texts = [
            render(&[], Families::DualStack),
            render(&[port(&["10.245.1.2:8080"]), sticky], Families::DualStack),
            render(&[port(&[])], Families::Ipv6),
        ];
        let results = texts.map(|text| (super::super::load(&name, &text), text));
        drop(namespace);
        ringfence_netns::Namespace::delete(&name).unwrap();
        for (result, text) in results {
            assert!(result.is_ok(), "{result:?}\n{text}");
        }
    }
}
