//! The domain that the cluster's own names are below.

use std::fs;

use ringfence_model::DomainName;

/// Configuration of the resolver. The kubelet writes `search NAMESPACE.svc.DOMAIN svc.DOMAIN DOMAIN` for pods that use
/// the cluster's DNS.
const RESOLVER: &str = "/etc/resolv.conf";
/// The domain of clusters by default.
const USUAL: &str = "cluster.local";

/// The cluster's domain: as told, else as this process' resolver has it, else the usual one.
pub(crate) fn domain(told: Option<&str>) -> DomainName {
    let read = || read(&fs::read_to_string(RESOLVER).unwrap_or_default());
    told.map(DomainName::new).or_else(read).unwrap_or_else(|| DomainName::new(USUAL))
}

/// The last line counts (`resolv.conf(5)`).
fn read(text: &str) -> Option<DomainName> {
    let search = text.lines().rev().find_map(|line| line.trim().strip_prefix("search"))?;
    let domains: Vec<_> = search.split_whitespace().map(|domain| domain.trim_end_matches('.')).collect();
    let domain = domains.iter().find_map(|domain| domain.strip_prefix("svc."))?;
    // That the list goes on with the domain itself is how the kubelet writes it, and nobody else.
    domains.contains(&domain).then(|| DomainName::new(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_list_as_the_kubelet_writes_it_tells_the_domain() {
        let domain = |text: &str| read(text).map(|name| name.to_string());
        let kubelet = "nameserver 10.96.0.10\nsearch ns.svc.Corp.example svc.corp.example corp.example example.net\n";
        assert_eq!(domain(&kubelet.to_lowercase()), Some("corp.example".into()));
        for other in ["", "search example.net\n", "search svc.example.net\n", "nameserver 10.0.0.1\n"] {
            assert_eq!(domain(other), None, "{other}");
        }
        assert_eq!(super::domain(Some("K8s.Example.")), DomainName::new("k8s.example"));
    }
}
