//! Names of the Domain Name System, and the patterns egress rules use for them (`domainNames`).

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::Name;

/// A domain name in the one form that can be compared: lower case, without the final dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainName(Name);

impl DomainName {
    /// Folds case and drops one final dot. Any text makes a name: one that no resolver answers matches nothing.
    pub fn new(text: &str) -> Self {
        Self(text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase().into())
    }

    /// The name, lower case and without a final dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// All patterns that match it: itself, and one for each name it is below.
    pub fn patterns(&self) -> impl Iterator<Item = DomainPattern> + '_ {
        let parents = self.0.match_indices('.').filter(|(at, _)| *at > 0).map(|(at, _)| &self.0[at + 1..]);
        let wildcards = parents.map(|parent| DomainPattern { below: true, name: Self(parent.into()) });
        std::iter::once(DomainPattern { below: false, name: self.clone() }).chain(wildcards)
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The domain names that a rule matches: a single one, or with a leading `*.` all names below one.
///
/// `*.example.com` matches names with one or more labels before `example.com`, but not `example.com` itself
/// (`policy.networking.k8s.io` NPEP-133).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainPattern {
    /// The pattern matches names below `name`, and not `name`.
    below: bool,
    name: DomainName,
}

impl DomainPattern {
    /// Reads `example.com`, `example.com.` or `*.example.com`, in any case.
    pub fn new(text: &str) -> Self {
        match text.strip_prefix("*.") {
            Some(parent) => Self { below: true, name: DomainName::new(parent) },
            None => Self { below: false, name: DomainName::new(text) },
        }
    }

    /// The name the pattern means, or below which it means all.
    pub fn name(&self) -> &DomainName {
        &self.name
    }

    /// True if the pattern matches names below [`DomainPattern::name`], and not that name.
    pub fn is_wildcard(&self) -> bool {
        self.below
    }

    /// True if the pattern matches this name.
    pub fn matches(&self, name: &DomainName) -> bool {
        if !self.below {
            return self.name == *name;
        }
        let prefix = name.as_str().strip_suffix(self.name.as_str()).and_then(|prefix| prefix.strip_suffix('.'));
        prefix.is_some_and(|labels| !labels.is_empty())
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

/// The current addresses of a domain name, as the cluster's resolver answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// The name that was asked for.
    pub name: DomainName,
    /// Its addresses, canonical (no IPv4-mapped IPv6).
    pub addresses: Vec<IpAddr>,
    /// Addresses whose TTL has expired: rules match them in connections that were open before, and in no others
    /// (`policy.networking.k8s.io` NPEP-133). Canonical; none of them is in `addresses`.
    pub lingering: Vec<IpAddr>,
    /// Those of `addresses` and `lingering` that are inside of the cluster: a rule means them only if it has this very
    /// name, not if it has a wildcard.
    pub inside: BTreeSet<IpAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_matches_in_any_case_and_with_a_final_dot() {
        let pattern = DomainPattern::new("Example.COM.");
        assert!(pattern.matches(&DomainName::new("example.com")));
        assert!(pattern.matches(&DomainName::new("EXAMPLE.com.")));
        assert!(!pattern.matches(&DomainName::new("www.example.com")));
    }

    #[test]
    fn a_wildcard_means_one_or_more_labels_below_and_not_the_apex() {
        let pattern = DomainPattern::new("*.example.com");
        assert!(pattern.matches(&DomainName::new("www.example.com")));
        assert!(pattern.matches(&DomainName::new("a.b.Example.com.")));
        for other in ["example.com", ".example.com", "badexample.com", "www.example.org", "com"] {
            assert!(!pattern.matches(&DomainName::new(other)), "{other}");
        }
    }

    #[test]
    fn the_patterns_of_a_name_are_those_that_match_it() {
        let names = ["a.b.example.com", "example.com", "com", "", ".com", "a..b", "a.", "*.example.com"];
        let texts = names.iter().flat_map(|name| [(*name).to_owned(), format!("{name}."), format!("*.{name}.")]);
        let texts: Vec<_> = texts.chain([String::from("*.b.example.com"), String::from("*..b")]).collect();
        for name in names.map(DomainName::new) {
            let patterns: Vec<_> = name.patterns().collect();
            for pattern in texts.iter().map(|text| DomainPattern::new(text)) {
                assert_eq!(patterns.contains(&pattern), pattern.matches(&name), "{name}: {pattern}");
            }
            assert!(patterns.iter().all(|pattern| pattern.matches(&name)), "{name}");
        }
    }
}
