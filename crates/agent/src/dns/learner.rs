//! Addresses of names, and until when they stand. Knows no clock and no kernel: time is told, in milliseconds since the
//! machine was started.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringfence_model::{Domain, DomainName, DomainPattern};

use super::answer::Answer;

/// Addresses of one name, and of all, and names.
pub(crate) const MOST_PER_NAME: usize = 1024;
pub(crate) const MOST_ADDRESSES: usize = 32_768;
pub(crate) const MOST_NAMES: usize = 8192;

/// For how long an address is kept: at least so long that a client which asked can connect, at most a day, in seconds.
const LIFE: (u32, u32) = (5, 86_400);

/// The known names and their addresses.
#[derive(Debug, Default)]
pub(crate) struct Learner {
    patterns: BTreeSet<DomainPattern>,
    names: BTreeMap<DomainName, Known>,
    addresses: usize,
}

/// The known addresses of a name.
#[derive(Debug, Default)]
struct Known {
    stands: BTreeMap<IpAddr, Stands>,
    /// The newest change that brought an address.
    change: u64,
}

/// State of an address of a name.
#[derive(Clone, Copy, Debug)]
struct Stands {
    until: u64,
    /// Its time is over: since this change the name means it only in connections that were open before.
    lingers: Option<u64>,
}

/// Result of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Learnt {
    /// The change that has to be in the kernel before anybody acts on the answer; 0 if the answer concerns no rule.
    pub(crate) awaits: u64,
    /// Addresses that were new.
    pub(crate) new: usize,
    /// Addresses there was no room for.
    pub(crate) refused: usize,
}

impl Learner {
    /// True if any rule asks for names.
    pub(crate) fn is_needed(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// Takes the patterns of all rules; gives back the names that none of them means, which are forgotten.
    pub(crate) fn ask_for(&mut self, patterns: BTreeSet<DomainPattern>) -> Vec<DomainName> {
        self.patterns = patterns;
        let patterns = &self.patterns;
        let gone: Vec<_> = self.names.keys().filter(|name| !matches(patterns, name)).cloned().collect();
        for name in &gone {
            self.addresses -= self.names.remove(name).map_or(0, |known| known.stands.len());
        }
        gone
    }

    /// Takes in an answer. What it brings belongs to a change with this number.
    pub(crate) fn learn(&mut self, answer: &Answer, now: u64, change: u64) -> Learnt {
        let mut learnt = Learnt::default();
        if !matches(&self.patterns, &answer.name) {
            return learnt;
        }
        if self.names.len() >= MOST_NAMES && !self.names.contains_key(&answer.name) {
            learnt.refused = answer.addresses.len();
            return learnt;
        }
        let known = self.names.entry(answer.name.clone()).or_default();
        for (address, ttl) in &answer.addresses {
            let until = now + u64::from((*ttl).clamp(LIFE.0, LIFE.1)) * 1000;
            if let Some(stands) = known.stands.get_mut(address) {
                stands.until = until.max(stands.until);
                if stands.lingers.take().is_some() {
                    known.change = change;
                    learnt.new += 1;
                }
            } else if known.stands.len() < MOST_PER_NAME && self.addresses < MOST_ADDRESSES {
                known.stands.insert(*address, Stands { until, lingers: None });
                known.change = change;
                self.addresses += 1;
                learnt.new += 1;
            } else {
                learnt.refused += 1;
            }
        }
        learnt.awaits = known.change;
        if known.stands.is_empty() {
            self.names.remove(&answer.name);
        }
        learnt
    }

    /// Takes in what an earlier process learnt, without asking whether any rule wants it. What has stood its time
    /// lingers: with the change of this number the planning thread is told.
    pub(crate) fn restore(&mut self, name: DomainName, address: IpAddr, until: u64, now: u64, change: u64) {
        let stands = Stands { until, lingers: (until <= now).then_some(change) };
        if self.addresses < MOST_ADDRESSES
            && self.names.entry(name).or_default().stands.insert(address, stands).is_none()
        {
            self.addresses += 1;
        }
    }

    /// When the next address has stood its time.
    pub(crate) fn next_expiry(&self) -> Option<u64> {
        self.stands().filter(|(_, _, stands)| stands.lingers.is_none()).map(|(_, _, stands)| stands.until).min()
    }

    /// Lets addresses that have stood their time linger from the change with this number on. Gives back their names.
    pub(crate) fn expire(&mut self, now: u64, change: u64) -> BTreeSet<DomainName> {
        let mut changed = BTreeSet::new();
        for (name, known) in &mut self.names {
            for stands in known.stands.values_mut().filter(|stands| stands.lingers.is_none() && stands.until <= now) {
                stands.lingers = Some(change);
                changed.insert(name.clone());
            }
        }
        changed
    }

    /// Addresses that linger since this change or longer.
    pub(crate) fn lingering(&self, change: u64) -> BTreeSet<IpAddr> {
        let since = |stands: &Stands| stands.lingers.is_some_and(|since| since <= change);
        self.stands().filter(|(_, _, stands)| since(stands)).map(|(_, address, _)| address).collect()
    }

    /// Forgets addresses that linger since this change or longer and are not in use. Gives back the names that lost
    /// any, each with the addresses it lost.
    pub(crate) fn forget(&mut self, change: u64, in_use: &BTreeSet<IpAddr>) -> BTreeMap<DomainName, Vec<IpAddr>> {
        let mut lost: BTreeMap<DomainName, Vec<IpAddr>> = BTreeMap::new();
        for (name, known) in &mut self.names {
            known.stands.retain(|address, stands| {
                if stands.lingers.is_none_or(|since| since > change) || in_use.contains(address) {
                    return true;
                }
                self.addresses -= 1;
                lost.entry(name.clone()).or_default().push(*address);
                false
            });
        }
        self.names.retain(|_, known| !known.stands.is_empty());
        lost
    }

    /// A name as the planner wants it; without addresses if it is not known.
    pub(crate) fn domain(&self, name: &DomainName) -> Domain {
        let stands = self.names.get(name).into_iter().flat_map(|known| &known.stands);
        let (lingering, addresses): (Vec<_>, Vec<_>) = stands.partition(|(_, stands)| stands.lingers.is_some());
        let only = |pairs: Vec<(&IpAddr, &Stands)>| pairs.into_iter().map(|(address, _)| *address).collect();
        Domain { name: name.clone(), addresses: only(addresses), lingering: only(lingering), inside: BTreeSet::new() }
    }

    fn stands(&self) -> impl Iterator<Item = (&DomainName, IpAddr, Stands)> + Clone {
        self.names
            .iter()
            .flat_map(|(name, known)| known.stands.iter().map(move |(address, stands)| (name, *address, *stands)))
    }

    /// All names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &DomainName> {
        self.names.keys()
    }

    /// Everything: name, address, until when it stands or stood.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&DomainName, IpAddr, u64)> + Clone {
        self.stands().map(|(name, address, stands)| (name, address, stands.until))
    }

    /// Until when an address of a name stands.
    pub(crate) fn until(&self, name: &DomainName, address: IpAddr) -> Option<u64> {
        Some(self.names.get(name)?.stands.get(&address)?.until)
    }
}

fn matches(patterns: &BTreeSet<DomainPattern>, name: &DomainName) -> bool {
    patterns.iter().any(|pattern| pattern.matches(name))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn answer(name: &str, addresses: impl IntoIterator<Item = u32>, ttl: u32) -> Answer {
        let address = |number| (IpAddr::from(Ipv4Addr::from(0xc000_0200_u32 + number)), ttl);
        Answer { name: DomainName::new(name), addresses: addresses.into_iter().map(address).collect() }
    }

    fn learner(patterns: &[&str]) -> Learner {
        let mut learner = Learner::default();
        learner.ask_for(patterns.iter().map(|pattern| DomainPattern::new(pattern)).collect());
        learner
    }

    /// Number of addresses that a name means, and of those at which it lingers.
    fn known(learner: &Learner, name: &str) -> (usize, usize) {
        let domain = learner.domain(&DomainName::new(name));
        (domain.addresses.len(), domain.lingering.len())
    }

    #[test]
    fn only_names_that_a_rule_means_are_kept() {
        let mut learner = learner(&["*.example.com", "Example.org."]);
        for (name, kept) in [("www.example.com", 1), ("example.com", 0), ("EXAMPLE.org", 1), ("www.example.org", 0)] {
            let learnt = learner.learn(&answer(name, [1], 60), 0, 1);
            assert_eq!((learnt.new, known(&learner, name)), (kept, (kept, 0)), "{name}");
        }
        assert_eq!(learner.ask_for([DomainPattern::new("*.example.com")].into()), [DomainName::new("example.org")]);
        assert_eq!(learner.entries().count(), 1);
    }

    #[test]
    fn whoever_asks_again_waits_for_the_change_that_brought_the_address() {
        let mut learner = learner(&["a.net", "b.net"]);
        assert_eq!(learner.learn(&answer("a.net", [1], 60), 0, 1), Learnt { awaits: 1, new: 1, refused: 0 });
        assert_eq!(learner.learn(&answer("a.net", [1], 60), 0, 2), Learnt { awaits: 1, new: 0, refused: 0 });
        assert_eq!(learner.learn(&answer("a.net", [1, 2], 60), 0, 3), Learnt { awaits: 3, new: 1, refused: 0 });
        assert_eq!(learner.learn(&answer("b.net", [1], 60), 0, 4).awaits, 4);
        assert_eq!(learner.learn(&answer("c.net", [1], 60), 0, 5), Learnt::default());
    }

    #[test]
    fn an_address_stands_for_its_time_and_five_seconds_at_least() {
        let mut learner = learner(&["a.net"]);
        learner.learn(&answer("a.net", [1], 0), 1000, 1);
        learner.learn(&answer("a.net", [2], 60), 1000, 1);
        learner.learn(&answer("a.net", [2], 10), 1000, 1);
        assert_eq!(learner.next_expiry(), Some(6000));
        assert!(learner.expire(5999, 2).is_empty());
        assert_eq!(learner.expire(6000, 2), [DomainName::new("a.net")].into());
        assert_eq!(known(&learner, "a.net"), (1, 1));
        assert_eq!(learner.next_expiry(), Some(61_000), "a shorter answer does not shorten what was promised");
        learner.learn(&answer("a.net", [3], u32::MAX), 0, 1);
        assert!(learner.entries().all(|(_, _, until)| until <= 86_400_000));
    }

    #[test]
    fn an_address_in_use_lingers_after_its_time() {
        let mut learner = learner(&["a.net"]);
        learner.learn(&answer("a.net", [1, 2, 3], 5), 0, 1);
        assert!(learner.lingering(u64::MAX).is_empty());
        learner.expire(5000, 2);
        assert_eq!((known(&learner, "a.net"), learner.next_expiry()), ((0, 3), None));
        assert!(learner.expire(9000, 3).is_empty(), "once");
        assert!(learner.lingering(1).is_empty() && learner.forget(1, &BTreeSet::new()).is_empty(), "not there yet");
        let used: BTreeSet<_> = learner.lingering(2).into_iter().take(2).collect();
        assert_eq!(learner.forget(2, &used).into_values().next().unwrap().len(), 1);
        assert_eq!(known(&learner, "a.net"), (0, 2));

        // An answer brings one again, and whoever got it waits until it is open again.
        assert_eq!(learner.learn(&answer("a.net", [1], 60), 9000, 4), Learnt { awaits: 4, new: 1, refused: 0 });
        assert_eq!((known(&learner, "a.net"), learner.next_expiry()), ((1, 1), Some(69_000)));
        assert_eq!(learner.forget(9, &BTreeSet::new()).into_values().next().unwrap().len(), 1);
        assert_eq!((known(&learner, "a.net"), learner.entries().count()), ((1, 0), 1));
    }

    #[test]
    fn what_was_written_down_lingers_if_it_has_stood_its_time() {
        let (mut learner, name) = (Learner::default(), DomainName::new("a.net"));
        for (last, until) in [(1, 10), (2, 11)] {
            learner.restore(name.clone(), [192, 0, 2, last].into(), until, 10, 1);
        }
        assert_eq!((known(&learner, "a.net"), learner.next_expiry()), ((1, 1), Some(11)));
        assert_eq!(learner.until(&name, [192, 0, 2, 1].into()), Some(10), "it is written down as it was");
    }

    #[test]
    fn what_does_not_fit_is_refused_and_counted() {
        let mut one = learner(&["a.net"]);
        let most = u32::try_from(MOST_PER_NAME).unwrap();
        assert!(most >= 100);
        let learnt = one.learn(&answer("a.net", 0..most + 7, 60), 0, 1);
        assert_eq!((learnt.new, learnt.refused), (MOST_PER_NAME, 7));

        let mut many = learner(&["*.net"]);
        let mut sum = Learnt::default();
        for number in 0..40 {
            let learnt = many.learn(&answer(&format!("n{number}.net"), 0..most, 60), 0, 1);
            (sum.new, sum.refused) = (sum.new + learnt.new, sum.refused + learnt.refused);
        }
        assert_eq!((sum.new, sum.refused), (MOST_ADDRESSES, 40 * MOST_PER_NAME - MOST_ADDRESSES));
        many.expire(u64::MAX, 1);
        many.forget(1, &BTreeSet::new());
        for number in 0..=MOST_NAMES {
            let learnt = many.learn(&answer(&format!("n{number}.net"), [1], 60), 0, 1);
            assert_eq!(learnt.refused, usize::from(number == MOST_NAMES));
        }
    }
}
