//! The addresses of a cluster. They are the same for every cluster, as each has network namespaces of its own.

use super::Family;

/// Port of the API server.
pub(super) const API_PORT: u16 = 6443;
/// Port of the registry.
pub(super) const REGISTRY_PORT: u16 = 5000;

/// Ranges and addresses of one family.
struct Ranges {
    /// Begins the addresses of nodes; the control plane has number 1.
    nodes: &'static str,
    /// Bits of the nodes' common prefix.
    bits: u8,
    pods: &'static str,
    services: &'static str,
    /// The Service of the API server: the first address of the range.
    api: &'static str,
    /// The Service of cluster DNS.
    dns: &'static str,
}

const V4: Ranges = Ranges {
    nodes: "10.91.0.",
    bits: 24,
    pods: "10.92.0.0/16",
    services: "10.93.0.0/16",
    api: "10.93.0.1",
    dns: "10.93.0.10",
};
const V6: Ranges = Ranges {
    nodes: "fd91::",
    bits: 64,
    pods: "fd92:0:0:100::/56",
    services: "fd93::/112",
    api: "fd93::1",
    dns: "fd93::a",
};

/// The addresses of a cluster, of one family or of both.
pub(super) struct Addresses {
    families: &'static [Ranges],
}

impl Addresses {
    pub(super) fn of(family: Family) -> Self {
        let families: &'static [Ranges] = match family {
            Family::Ipv4 => &[V4],
            Family::Ipv6 => &[V6],
            Family::Dual => &[V4, V6],
        };
        Self { families }
    }

    /// Addresses of the control plane.
    pub(super) fn control_plane(&self) -> Vec<String> {
        self.families.iter().map(|family| format!("{}1", family.nodes)).collect()
    }

    /// Addresses of a node.
    pub(super) fn node(&self, number: u8) -> Vec<String> {
        self.families.iter().map(|family| format!("{}{}", family.nodes, 10 + number)).collect()
    }

    /// The same with the length of the prefix, as links have them.
    pub(super) fn on_link(&self, addresses: &[String]) -> Vec<String> {
        addresses.iter().zip(self.families).map(|(address, family)| format!("{address}/{}", family.bits)).collect()
    }

    /// Ranges of pods.
    pub(super) fn pods(&self) -> String {
        join(self.families.iter().map(|family| family.pods))
    }

    /// Ranges of Services.
    pub(super) fn services(&self) -> String {
        join(self.families.iter().map(|family| family.services))
    }

    /// Addresses of the Service of the API server.
    pub(super) fn api_services(&self) -> impl Iterator<Item = &'static str> {
        self.families.iter().map(|family| family.api)
    }

    /// Address of cluster DNS.
    pub(super) fn dns(&self) -> String {
        self.families.iter().map(|family| family.dns).take(1).collect()
    }

    /// `https://…` of the API server.
    pub(super) fn api(&self) -> String {
        format!("https://{}:{API_PORT}", bracketed(&self.control_plane()[0]))
    }

    /// `http://…` of the registry.
    pub(super) fn registry(&self) -> String {
        format!("http://{}:{REGISTRY_PORT}", bracketed(&self.control_plane()[0]))
    }

    /// The address that means every address of this machine.
    pub(super) fn any(&self) -> &'static str {
        if self.families.iter().any(|family| family.bits == V6.bits) { "::" } else { "0.0.0.0" }
    }
}

fn join<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

/// An address as URLs have it.
fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_has_its_own() {
        let dual = Addresses::of(Family::Dual);
        assert_eq!(dual.node(1), ["10.91.0.11", "fd91::11"]);
        assert_eq!(dual.on_link(&dual.node(2)), ["10.91.0.12/24", "fd91::12/64"]);
        assert_eq!(dual.services(), "10.93.0.0/16,fd93::/112");
        assert_eq!((dual.any(), Addresses::of(Family::Ipv4).any()), ("::", "0.0.0.0"));
        assert_eq!(Addresses::of(Family::Ipv6).api(), "https://[fd91::1]:6443");
    }
}
