//! Policies that somebody waits for, on one node.

use std::fmt;
use std::str::FromStr;

use crate::Status;

/// A policy and its state that is waited for. Written as `KIND/NAMESPACE/NAME@UID:GENERATION`, without generation for
/// a policy that is to be gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `NetworkPolicy`, …
    pub kind: String,
    /// Its namespace; empty for cluster-wide kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Unique id of the object.
    pub uid: String,
    /// The generation, or a newer one, that is to be enforced; none: the policy is to be gone.
    pub generation: Option<i64>,
}

/// The policies that are not as wanted when the time is up, each as a sentence.
pub type Lags = Vec<String>;

impl Wanted {
    /// True if an agent enforces it as wanted.
    pub fn is_met(&self, status: &Status) -> bool {
        let found = status.policies.iter().find(|policy| policy.uid == self.uid);
        match (self.generation, found) {
            (Some(generation), Some(policy)) => policy.enforced_generation >= Some(generation),
            (Some(_), None) => false,
            // Nothing is known before everything was listed.
            (None, found) => found.is_none() && status.ready,
        }
    }

    /// The difference between what an agent enforces and what is wanted, as a sentence.
    pub fn lag(&self, status: &Status) -> String {
        let Self { kind, namespace, name, uid, generation } = self;
        let title = if namespace.is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") };
        match (generation, status.policies.iter().find(|policy| policy.uid == *uid)) {
            (None, _) => format!("{title} is still there"),
            (Some(_), None) => format!("{title} is not known yet"),
            (Some(wanted), Some(policy)) => match policy.enforced_generation {
                Some(generation) => format!("{title} is enforced in generation {generation}, not {wanted}"),
                None => format!("{title} is not enforced in any generation"),
            },
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name, uid, generation } = self;
        write!(f, "{kind}/{namespace}/{name}@{uid}")?;
        generation.map_or(Ok(()), |generation| write!(f, ":{generation}"))
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not of the form KIND/NAMESPACE/NAME@UID:GENERATION");
        let (path, rest) = text.split_once('@').ok_or_else(wrong)?;
        let [kind, namespace, name] = path.split('/').collect::<Vec<_>>()[..] else { return Err(wrong()) };
        let (uid, generation) = match rest.split_once(':') {
            Some((uid, generation)) => (uid, Some(generation.parse().map_err(|_not_a_number| wrong())?)),
            None => (rest, None),
        };
        let [kind, namespace, name, uid] = [kind, namespace, name, uid].map(str::to_owned);
        Ok(Self { kind, namespace, name, uid, generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_survives_a_command_line() {
        for (namespace, generation, text) in [
            ("shop", Some(7), "NetworkPolicy/shop/web@1-2:7"),
            ("", Some(7), "NetworkPolicy//web@1-2:7"),
            ("", None, "NetworkPolicy//web@1-2"),
        ] {
            let [kind, name, uid] = ["NetworkPolicy", "web", "1-2"].map(str::to_owned);
            let wanted = Wanted { kind, namespace: namespace.into(), name, uid, generation };
            assert_eq!(wanted.to_string(), text);
            assert_eq!(text.parse(), Ok(wanted));
        }
        for wrong in ["", "a/b@c", "a/b/c", "a/b/c@d:x"] {
            assert!(wrong.parse::<Wanted>().is_err(), "{wrong}");
        }
    }
}
