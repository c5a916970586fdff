//! Services: which addresses are theirs. Policy never sees these addresses, for they are translated before it is asked;
//! so a rule that names one is worth a warning, and a report that names one gets the Service's name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::ListParams;
use kube::{Api, Client};
use ringfence_k8s::convert::Resource;
use ringfence_k8s::watch::{self, Backoff};
use ringfence_model::PolicyId;

use crate::core::{Gone, Handle, Message};
use crate::follow::{Change, Key, Known, keep, read};
use crate::progress::Journal;

const SERVICES: Resource =
    Resource { group: "", version: "v1", kind: "Service", plural: "services", namespaced: true, optional: false };

/// The addresses of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Those that the cluster gave it; headless Services have none.
    pub(crate) cluster: Vec<IpAddr>,
    /// Those under which it is reached from outside, if there are any: of load balancers, and what its owner wrote.
    pub(crate) outside: Vec<IpAddr>,
}

impl Addresses {
    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = IpAddr> {
        self.cluster.iter().chain(&self.outside).copied()
    }
}

/// A change of Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// All there are, with their addresses.
    All(BTreeMap<Key, Addresses>),
    /// The addresses of one; none if it is gone.
    One(Key, Addresses),
    /// The ranges addresses are taken from, where the cluster tells them.
    Ranges(Vec<IpNet>),
}

/// Follows the Services, for ever.
pub(crate) async fn follow(client: Client, progress: Journal, core: Handle) -> Result<(), Gone> {
    let services = watch::follow(&client, &SERVICES.into(), progress, read(addresses));
    let tell = |change: Change<'_, Addresses>| {
        core.tell(Message::Services(match change.key {
            Some(key) => News::One(key.clone(), change.objects.get(key).cloned().unwrap_or_default()),
            None => News::All(change.objects.clone()),
        }))
    };
    let mut known = Known::new("Service");
    tokio::try_join!(keep(services, &mut known, &core, tell), tell_ranges(client, &core)).map(drop)
}

/// Tells the ranges, where the cluster does (since Kubernetes 1.33, to those with the right to ask). They rarely
/// change.
async fn tell_ranges(client: Client, core: &Handle) -> Result<(), Gone> {
    let mut backoff = Backoff::default();
    let listed = loop {
        match Api::<ServiceCIDR>::all(client.clone()).list(&ListParams::default().match_any()).await {
            Ok(listed) => break listed.items,
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
                tracing::debug!(%status, "the ranges of Services are not known");
                return Ok(());
            }
            Err(_busy_or_unreachable) => tokio::time::sleep(backoff.step(None)).await,
        }
    };
    let blocks = listed.into_iter().filter_map(|range| range.spec).flat_map(|spec| spec.cidrs.unwrap_or_default());
    core.tell(Message::Services(News::Ranges(blocks.filter_map(|block| block.parse().ok()).collect())))
}

fn addresses(service: &Service) -> Addresses {
    let Some(spec) = &service.spec else { return Addresses::default() };
    let parse = |text: &String| Some(text.parse::<IpAddr>().ok()?.to_canonical());
    let cluster: BTreeSet<IpAddr> =
        spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(parse).collect();
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let entries = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    let entries = entries.filter_map(|entry| entry.ip.as_ref());
    let outside: BTreeSet<IpAddr> = spec.external_ips.iter().flatten().chain(entries).filter_map(parse).collect();
    Addresses { cluster: cluster.into_iter().collect(), outside: outside.into_iter().collect() }
}

/// The known Services, and the policies that name their addresses.
#[derive(Debug, Default)]
pub(crate) struct Services {
    addresses: HashMap<IpAddr, Key>,
    known: BTreeMap<Key, Vec<IpAddr>>,
    ranges: Vec<IpNet>,
    /// The policies that name one address as a block.
    named: HashMap<IpAddr, BTreeSet<PolicyId>>,
    blocks: HashMap<PolicyId, BTreeSet<IpNet>>,
}

impl Services {
    /// Takes in news. Gives back the policies about which there may be something else to say now.
    pub(crate) fn take(&mut self, news: News) -> BTreeSet<PolicyId> {
        match news {
            News::All(all) => {
                let mut changes = all;
                for gone in self.known.keys() {
                    changes.entry(gone.clone()).or_default();
                }
                changes.into_iter().flat_map(|(key, addresses)| self.set(key, addresses.cluster)).collect()
            }
            News::One(key, addresses) => self.set(key, addresses.cluster),
            News::Ranges(ranges) => {
                self.ranges = ranges;
                self.blocks.keys().cloned().collect()
            }
        }
    }

    fn set(&mut self, key: Key, addresses: Vec<IpAddr>) -> BTreeSet<PolicyId> {
        let before = self.known.remove(&key).unwrap_or_default();
        if before == addresses {
            self.known.insert(key, before);
            return BTreeSet::new();
        }
        for address in &before {
            if self.addresses.get(address) == Some(&key) {
                self.addresses.remove(address);
            }
        }
        self.addresses.extend(addresses.iter().map(|address| (*address, key.clone())));
        let changed = before.iter().chain(&addresses).filter_map(|address| self.named.get(address));
        let changed = changed.flatten().cloned().collect();
        if !addresses.is_empty() {
            self.known.insert(key, addresses);
        }
        changed
    }

    /// Takes note of the blocks a policy names, in place of those before.
    pub(crate) fn note(&mut self, policy: &PolicyId, blocks: BTreeSet<IpNet>) {
        self.forget(policy);
        if blocks.is_empty() {
            return;
        }
        for address in blocks.iter().filter_map(single) {
            self.named.entry(address).or_default().insert(policy.clone());
        }
        self.blocks.insert(policy.clone(), blocks);
    }

    /// A policy is gone.
    pub(crate) fn forget(&mut self, policy: &PolicyId) {
        for address in self.blocks.remove(policy).iter().flatten().filter_map(single) {
            if let Some(policies) = self.named.get_mut(&address) {
                policies.remove(policy);
                if policies.is_empty() {
                    self.named.remove(&address);
                }
            }
        }
    }

    /// The policies about which there may be anything to say.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &PolicyId> {
        self.blocks.keys()
    }

    /// The Service that has an address.
    pub(crate) fn at(&self, address: IpAddr) -> Option<&Key> {
        self.addresses.get(&address)
    }

    /// The addresses of a Service.
    pub(crate) fn of(&self, key: &Key) -> Vec<IpAddr> {
        self.known.get(key).cloned().unwrap_or_default()
    }

    /// True if an address is a Service's, or in a range that Services' addresses are taken from.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address) || self.ranges.iter().any(|range| range.contains(&address))
    }

    /// Remarks about a policy: the blocks it names that are of Services only.
    pub(crate) fn about(&self, policy: &PolicyId) -> Vec<String> {
        const WHY: &str = "connections to a Service are judged by the pod behind it, so the block matches none of them \
                           (hint: select the pods)";
        let blocks = self.blocks.get(policy).into_iter().flatten();
        let word = |block: &IpNet| {
            if let Some((namespace, name)) = single(block).and_then(|address| self.at(address)) {
                return Some(format!("{} is the address of Service {namespace}/{name}: {WHY}", block.addr()));
            }
            let range = self.ranges.iter().find(|range| range.contains(block))?;
            Some(format!("{block} lies in {range}, the addresses of Services: {WHY}"))
        };
        blocks.filter_map(word).collect()
    }
}

/// The address of a block that has but one.
fn single(block: &IpNet) -> Option<IpAddr> {
    (block.prefix_len() == block.max_prefix_len()).then(|| block.addr())
}

#[cfg(test)]
mod tests {
    use ringfence_model::PolicyKind;
    use serde_json::json;

    use super::*;

    fn policy(name: &str) -> PolicyId {
        PolicyId { kind: PolicyKind::NetworkPolicy, namespace: Some("shop".into()), name: name.into() }
    }

    fn key(name: &str) -> Key {
        ("shop".into(), name.into())
    }

    fn blocks(texts: &[&str]) -> BTreeSet<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn given(addresses: &[&str]) -> Addresses {
        Addresses { cluster: addresses.iter().map(|text| text.parse().unwrap()).collect(), outside: Vec::new() }
    }

    fn one(name: &str, addresses: &[&str]) -> News {
        News::One(key(name), given(addresses))
    }

    #[test]
    fn a_block_that_is_the_address_of_a_service_is_told_while_it_is() {
        let mut services = Services::default();
        services.note(&policy("p"), blocks(&["10.96.0.7/32", "10.96.0.8/32", "0.0.0.0/0"]));
        assert_eq!(services.take(one("web", &["10.96.0.7"])), BTreeSet::from([policy("p")]));
        let told = services.about(&policy("p"));
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("10.96.0.7 is the address of Service shop/web: "), "{told:?}");
        assert!(services.take(one("web", &["10.96.0.7"])).is_empty(), "nothing new");
        assert_eq!(services.take(one("web", &[])), BTreeSet::from([policy("p")]));
        assert!(services.about(&policy("p")).is_empty());
    }

    #[test]
    fn an_address_may_pass_from_one_service_to_another_in_any_order() {
        let mut services = Services::default();
        services.take(one("old", &["10.96.0.7"]));
        services.take(one("new", &["10.96.0.7"]));
        services.take(one("old", &[]));
        assert_eq!(services.at("10.96.0.7".parse().unwrap()), Some(&key("new")));
        services.take(News::All(BTreeMap::from([(key("other"), given(&["fd00::1"]))])));
        assert_eq!(services.at("10.96.0.7".parse().unwrap()), None);
        assert_eq!(services.at("fd00::1".parse().unwrap()), Some(&key("other")));
    }

    #[test]
    fn a_block_inside_a_range_of_services_is_told_and_one_around_it_is_not() {
        let mut services = Services::default();
        services.note(&policy("p"), blocks(&["10.96.0.0/16", "10.0.0.0/8"]));
        services.take(News::Ranges(vec!["10.96.0.0/12".parse().unwrap()]));
        let told = services.about(&policy("p"));
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("10.96.0.0/16 lies in 10.96.0.0/12"), "{told:?}");
        services.forget(&policy("p"));
        assert!(services.about(&policy("p")).is_empty());
        assert!(services.named.is_empty());
    }

    #[test]
    fn headless_services_have_no_addresses_and_others_may_have_several() {
        let read = |object| addresses(&serde_json::from_value(object).unwrap());
        let none = read(json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}));
        assert_eq!(none, Addresses::default());
        assert_eq!(read(json!({"spec": null})), Addresses::default());
        let all = read(json!({
            "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "externalIPs": ["192.0.2.7",
            "x"]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.8"}, {"hostname": "lb.example"}]}}}));
        let all: Vec<String> = all.all().map(|address| address.to_string()).collect();
        assert_eq!(all, ["10.96.0.1", "fd00::1", "192.0.2.7", "192.0.2.8"]);
    }
}
