//! Which addresses names stand for, and until when. Knows no clock and no kernel: time is told, in milliseconds since
//! the machine was started.

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

/// What is known of names.
#[derive(Debug, Default)]
pub(crate) struct Learner {
    patterns: BTreeSet<DomainPattern>,
    names: BTreeMap<DomainName, Known>,
    addresses: usize,
}

/// What is known of a name.
#[derive(Debug, Default)]
struct Known {
    /// Each address, and until when it stands.
    until: BTreeMap<IpAddr, u64>,
    /// The newest change that brought an address.
    change: u64,
}

/// What came of an answer.
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
    /// Whether any rule asks for names.
    pub(crate) fn is_needed(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// Takes the patterns of all rules; gives back the names that none of them means, which are forgotten.
    pub(crate) fn ask_for(&mut self, patterns: BTreeSet<DomainPattern>) -> Vec<DomainName> {
        self.patterns = patterns;
        let patterns = &self.patterns;
        let gone: Vec<_> = self.names.keys().filter(|name| !matches(patterns, name)).cloned().collect();
        for name in &gone {
            self.addresses -= self.names.remove(name).map_or(0, |known| known.until.len());
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
            if let Some(stands) = known.until.get_mut(address) {
                *stands = until.max(*stands);
            } else if known.until.len() < MOST_PER_NAME && self.addresses < MOST_ADDRESSES {
                known.until.insert(*address, until);
                known.change = change;
                self.addresses += 1;
                learnt.new += 1;
            } else {
                learnt.refused += 1;
            }
        }
        learnt.awaits = known.change;
        if known.until.is_empty() {
            self.names.remove(&answer.name);
        }
        learnt
    }

    /// Takes in what an earlier process learnt, without asking whether any rule wants it.
    pub(crate) fn restore(&mut self, name: DomainName, address: IpAddr, until: u64) {
        if self.addresses < MOST_ADDRESSES && self.names.entry(name).or_default().until.insert(address, until).is_none()
        {
            self.addresses += 1;
        }
    }

    /// When the next address has stood its time.
    pub(crate) fn next_expiry(&self) -> Option<u64> {
        self.names.values().flat_map(|known| known.until.values()).min().copied()
    }

    /// Addresses that have stood their time.
    pub(crate) fn expired(&self, now: u64) -> BTreeSet<IpAddr> {
        let all = self.names.values().flat_map(|known| &known.until);
        all.filter(|(_, until)| **until <= now).map(|(address, _)| *address).collect()
    }

    /// Forgets addresses that have stood their time; those in use stand until then instead. Gives back the names that
    /// lost any, each with the addresses it lost.
    pub(crate) fn expire(
        &mut self,
        now: u64,
        in_use: &BTreeSet<IpAddr>,
        then: u64,
    ) -> BTreeMap<DomainName, Vec<IpAddr>> {
        let mut lost: BTreeMap<DomainName, Vec<IpAddr>> = BTreeMap::new();
        for (name, known) in &mut self.names {
            known.until.retain(|address, until| {
                if *until > now {
                    return true;
                }
                if in_use.contains(address) {
                    *until = then;
                    return true;
                }
                self.addresses -= 1;
                lost.entry(name.clone()).or_default().push(*address);
                false
            });
        }
        self.names.retain(|_, known| !known.until.is_empty());
        lost
    }

    /// A name as the planner wants it; without addresses if it is not known.
    pub(crate) fn domain(&self, name: &DomainName) -> Domain {
        let addresses = self.names.get(name).into_iter().flat_map(|known| known.until.keys().copied()).collect();
        Domain { name: name.clone(), addresses, lingering: Vec::new() }
    }

    /// All names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &DomainName> {
        self.names.keys()
    }

    /// Everything: name, address, until when it stands.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&DomainName, IpAddr, u64)> + Clone {
        self.names
            .iter()
            .flat_map(|(name, known)| known.until.iter().map(move |(address, until)| (name, *address, *until)))
    }

    /// Until when an address of a name stands.
    pub(crate) fn until(&self, name: &DomainName, address: IpAddr) -> Option<u64> {
        self.names.get(name)?.until.get(&address).copied()
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

    fn known(learner: &Learner, name: &str) -> usize {
        learner.domain(&DomainName::new(name)).addresses.len()
    }

    #[test]
    fn only_names_that_a_rule_means_are_kept() {
        let mut learner = learner(&["*.example.com", "Example.org."]);
        for (name, kept) in [("www.example.com", 1), ("example.com", 0), ("EXAMPLE.org", 1), ("www.example.org", 0)] {
            let learnt = learner.learn(&answer(name, [1], 60), 0, 1);
            assert_eq!((learnt.new, known(&learner, name)), (kept, kept), "{name}");
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
        assert!(learner.expire(5999, &BTreeSet::new(), 0).is_empty());
        assert_eq!(learner.expire(6000, &BTreeSet::new(), 0).into_values().next().unwrap().len(), 1);
        assert_eq!(learner.next_expiry(), Some(61_000), "a shorter answer does not shorten what was promised");
        learner.learn(&answer("a.net", [3], u32::MAX), 0, 1);
        assert!(learner.entries().all(|(_, _, until)| until <= 86_400_000));
    }

    #[test]
    fn an_address_in_use_outlives_its_time() {
        let mut learner = learner(&["a.net"]);
        learner.learn(&answer("a.net", [1, 2], 5), 0, 1);
        let used: BTreeSet<_> = learner.expired(5000).into_iter().take(1).collect();
        assert_eq!(learner.expire(5000, &used, 9000).into_values().next().unwrap().len(), 1);
        assert_eq!((known(&learner, "a.net"), learner.next_expiry()), (1, Some(9000)));
        assert_eq!(learner.expire(9000, &BTreeSet::new(), 0).len(), 1);
        assert_eq!(learner.entries().count(), 0);
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
        many.expire(u64::MAX, &BTreeSet::new(), 0);
        for number in 0..=MOST_NAMES {
            let learnt = many.learn(&answer(&format!("n{number}.net"), [1], 60), 0, 1);
            assert_eq!(learnt.refused, usize::from(number == MOST_NAMES));
        }
    }
}
