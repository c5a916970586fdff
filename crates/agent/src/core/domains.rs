//! Addresses of domain names, as DNS servers answer, and those of them that rules may mean: who answers for a name
//! outside must not open addresses inside.
//!
//! An address of a machine or a link (loopback, link-local, metadata services, …) belongs to no name. One of a pod, a
//! node or a Service belongs to names below the cluster's own domain, and to rules that have the very name: behind a
//! wildcard there are names that tenants make. Whether an address is inside changes as pods and nodes come and go; what
//! that concerns is looked at anew with the same commit.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ringfence_model::{Domain, DomainName, Object, ObjectKey, PodKey};

use super::state::Core;
use crate::index::Index;
use crate::inside::{Inside, meant, special};
use crate::services::News;

/// The known names and their addresses.
#[derive(Debug)]
pub(super) struct Domains {
    /// The domain of the cluster's own names.
    cluster: DomainName,
    pub(super) inside: Inside,
    /// As it was told.
    told: BTreeMap<DomainName, Domain>,
    /// As it is planned.
    planned: BTreeMap<DomainName, Domain>,
    /// The names that were told to stand for an address, by what it means ([`meant`]).
    names: HashMap<IpAddr, BTreeSet<DomainName>>,
    /// Addresses that no rule means, or none with a wildcard, and their owners.
    withheld: BTreeMap<DomainName, Vec<(IpAddr, &'static str)>>,
    /// Names to look at anew, or all.
    doubtful: BTreeSet<DomainName>,
    all: bool,
}

/// Result of a look at a name.
enum Found {
    /// As it is planned already.
    Same,
    Put(Domain),
    Gone,
}

impl Domains {
    /// Knows no names.
    pub(super) fn new(cluster: DomainName) -> Self {
        Self {
            cluster,
            inside: Inside::default(),
            told: BTreeMap::new(),
            planned: BTreeMap::new(),
            names: HashMap::new(),
            withheld: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            all: false,
        }
    }

    /// A name stands for other addresses; for none if it is not known any more.
    fn tell(&mut self, domain: Domain) {
        let addresses = |domain: &Domain| {
            let all = domain.addresses.iter().chain(&domain.lingering);
            all.map(|address| meant(*address)).collect::<BTreeSet<_>>()
        };
        let name = domain.name.clone();
        let after = addresses(&domain);
        let before = self.told.remove(&name).map(|domain| addresses(&domain)).unwrap_or_default();
        for gone in before.difference(&after) {
            if let Some(names) = self.names.get_mut(gone) {
                names.remove(&name);
                if names.is_empty() {
                    self.names.remove(gone);
                }
            }
        }
        for new in after.difference(&before) {
            self.names.entry(*new).or_default().insert(name.clone());
        }
        if !after.is_empty() {
            self.told.insert(name.clone(), domain);
        }
        self.doubtful.insert(name);
    }

    /// Marks names for a new look whose addresses may have become internal, or external. Whether any name stands for
    /// one of them.
    fn doubt<'a>(&mut self, addresses: impl IntoIterator<Item = &'a IpAddr>) -> bool {
        let before = self.doubtful.len();
        for names in addresses.into_iter().filter_map(|address| self.names.get(address)) {
            self.doubtful.extend(names.iter().cloned());
        }
        self.doubtful.len() > before
    }

    /// The same of every address.
    fn doubt_all(&mut self) -> bool {
        self.all = !self.told.is_empty();
        self.all
    }

    /// The names to look at.
    fn take_doubtful(&mut self) -> BTreeSet<DomainName> {
        let doubtful = std::mem::take(&mut self.doubtful);
        if !std::mem::take(&mut self.all) {
            return doubtful;
        }
        self.told.keys().cloned().chain(doubtful).collect()
    }

    /// Looks at a name. Also gives back what is withheld of it that was not before.
    fn look(&mut self, name: &DomainName, index: &Index) -> (Found, usize) {
        let mut withheld = Vec::new();
        let domain = self.told.get(name).map(|told| self.guarded(told, index, &mut withheld));
        let before = if withheld.is_empty() {
            self.withheld.remove(name)
        } else {
            self.withheld.insert(name.clone(), withheld.clone())
        };
        let before = before.unwrap_or_default();
        let news = withheld.iter().filter(|pair| !before.contains(pair)).count();
        let domain = domain.filter(|domain| !(domain.addresses.is_empty() && domain.lingering.is_empty()));
        let found = match domain {
            Some(domain) if self.planned.get(name) == Some(&domain) => Found::Same,
            Some(domain) => {
                self.planned.insert(name.clone(), domain.clone());
                Found::Put(domain)
            }
            None => self.planned.remove(name).map_or(Found::Same, |_| Found::Gone),
        };
        (found, news)
    }

    /// A name without the addresses that it must not open.
    fn guarded(&self, told: &Domain, index: &Index, withheld: &mut Vec<(IpAddr, &'static str)>) -> Domain {
        let own = is_below(&told.name, &self.cluster);
        let mut inside = BTreeSet::new();
        let mut keep = |address: &IpAddr| {
            let means = meant(*address);
            if let Some(what) = special(means) {
                withheld.push((*address, what));
                return false;
            }
            let Some(whose) = self.inside.whose(means, index) else { return true };
            if own {
                inside.insert(*address);
            } else {
                withheld.push((*address, whose));
            }
            own
        };
        let addresses = told.addresses.iter().copied().filter(&mut keep).collect();
        let lingering = told.lingering.iter().copied().filter(&mut keep).collect();
        Domain { name: told.name.clone(), addresses, lingering, inside }
    }

    /// Number of withheld addresses.
    pub(super) fn withheld(&self) -> usize {
        self.withheld.values().map(Vec::len).sum()
    }

    /// The first of them, for people.
    pub(super) fn examples(&self, most: usize) -> Vec<String> {
        let all = self.withheld.iter().flat_map(|(name, addresses)| addresses.iter().map(move |pair| (name, pair)));
        all.take(most).map(|(name, (address, whose))| format!("{name} {address} ({whose})")).collect()
    }
}

/// True if a name is a domain or below it.
fn is_below(name: &DomainName, domain: &DomainName) -> bool {
    let prefix = name.as_str().strip_suffix(domain.as_str());
    prefix.is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('.'))
}

impl Core {
    /// Takes in what names stand for.
    pub(super) fn domains(&mut self, domains: Vec<Domain>, change: u64) {
        for domain in domains {
            self.domains.tell(domain);
        }
        self.dirty = true;
        self.names.taken(change);
    }

    /// The addresses of a pod are about to be others.
    pub(super) fn doubt_pod(&mut self, key: &PodKey, after: &[IpAddr]) {
        let before = self.index.addresses(key);
        self.dirty |= self.domains.doubt(before.iter().chain(after));
    }

    /// Marks all names for a new look, as nodes or ranges of pods changed.
    pub(super) fn doubt_names(&mut self) {
        self.dirty |= self.domains.doubt_all();
    }

    /// Takes in what happened to Services.
    pub(super) fn services(&mut self, news: News) {
        self.dirty |= match &news {
            News::One(key, addresses) => {
                let before = self.index.service_addresses(key);
                self.domains.doubt(before.iter().chain(&addresses.cluster))
            }
            News::All(_) | News::Ranges(_) => self.domains.doubt_all(),
        };
        self.index.services(news);
    }

    /// Plans what names stand for, without what they must not open.
    pub(super) fn settle_domains(&mut self) {
        for name in self.domains.take_doubtful() {
            let (found, news) = self.domains.look(&name, &self.index);
            match found {
                Found::Same => {}
                Found::Put(domain) => self.put(Object::Domain(domain)),
                Found::Gone => self.delete(&ObjectKey::Domain(name.clone())),
            }
            if news > 0 && self.setup.meters.names_withheld.inc_by(news as u64) == 0 {
                tracing::warn!(
                    %name, addresses = self.domains.examples(3).join(", "),
                    "a name stands for addresses inside of the cluster: no rule about it opens these; further ones are \
                     only counted"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_a_domain_is_the_domain_and_what_ends_with_it_label_by_label() {
        let cluster = DomainName::new("cluster.local");
        for (name, is) in [
            ("cluster.local", true),
            ("db.x.svc.Cluster.local.", true),
            ("notcluster.local", false),
            ("cluster.local.evil.com", false),
            ("local", false),
        ] {
            assert_eq!(is_below(&DomainName::new(name), &cluster), is, "{name}");
        }
    }
}
