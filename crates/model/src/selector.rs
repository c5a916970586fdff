//! Label selectors.

use std::collections::BTreeSet;
use std::fmt;

use crate::{Labels, Name};

/// A conjunction of requirements; none at all matches everything (Kubernetes `LabelSelector`).
///
/// `matchLabels: {k: v}` is `In { k, {v} }`. Requirements are kept sorted so that equal selectors compare equal
/// however they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector(BTreeSet<Requirement>);

/// One condition on one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Requirement {
    /// The key is there with one of the values.
    In {
        /// Label key.
        key: Name,
        /// Accepted values.
        values: BTreeSet<Name>,
    },
    /// The key is absent, or its value is none of these.
    NotIn {
        /// Label key.
        key: Name,
        /// Refused values.
        values: BTreeSet<Name>,
    },
    /// The key is there.
    Exists {
        /// Label key.
        key: Name,
    },
    /// The key is absent.
    DoesNotExist {
        /// Label key.
        key: Name,
    },
}

impl Selector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// True if every object matches.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// True if an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }

    /// The requirements, in a fixed order.
    pub fn requirements(&self) -> impl Iterator<Item = &Requirement> {
        self.0.iter()
    }
}

impl Requirement {
    /// True if an object with these labels meets the requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::In { key, values } => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn { key, values } => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists { key } => labels.get(key).is_some(),
            Self::DoesNotExist { key } => labels.get(key).is_none(),
        }
    }
}

impl FromIterator<Requirement> for Selector {
    fn from_iter<I: IntoIterator<Item = Requirement>>(requirements: I) -> Self {
        Self(requirements.into_iter().collect())
    }
}

/// The form `kubectl -l` takes: `app=web,tier in (a,b),!old`; `<everything>` when empty.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str("<everything>");
        }
        for (i, requirement) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &BTreeSet<Name>| values.iter().map(|v| &**v).collect::<Vec<_>>().join(",");
        match self {
            Self::In { key, values } if values.len() == 1 => write!(f, "{key}={}", list(values)),
            Self::In { key, values } => write!(f, "{key} in ({})", list(values)),
            Self::NotIn { key, values } => write!(f, "{key} notin ({})", list(values)),
            Self::Exists { key } => write!(f, "{key}"),
            Self::DoesNotExist { key } => write!(f, "!{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(list: &[&str]) -> BTreeSet<Name> {
        list.iter().map(|v| Name::from(*v)).collect()
    }

    #[test]
    fn negative_requirements_match_objects_without_the_key() {
        let none = Labels::default();
        assert!(Requirement::NotIn { key: "k".into(), values: values(&["v"]) }.matches(&none));
        assert!(Requirement::DoesNotExist { key: "k".into() }.matches(&none));
        assert!(!Requirement::In { key: "k".into(), values: values(&["v"]) }.matches(&none));
        assert!(!Requirement::Exists { key: "k".into() }.matches(&none));
    }

    #[test]
    fn requirements_are_a_conjunction() {
        let selector: Selector = [
            Requirement::In { key: "app".into(), values: values(&["web", "api"]) },
            Requirement::DoesNotExist { key: "old".into() },
        ]
        .into_iter()
        .collect();
        assert!(selector.matches(&[("app", "api")].into_iter().collect()));
        assert!(!selector.matches(&[("app", "api"), ("old", "")].into_iter().collect()));
        assert!(Selector::everything().matches(&Labels::default()));
        assert_eq!(selector.to_string(), "app in (api,web),!old");
    }
}
