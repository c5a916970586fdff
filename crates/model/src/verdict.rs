//! Verdicts and their reasons.

use std::fmt;
use std::sync::Arc;

use crate::{Direction, Name, PolicyId};

/// The verdict of one end about a connection, and its reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// True if the connection is allowed.
    pub allow: bool,
    /// The reason.
    pub reason: Reason,
}

/// The reason of a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The end is not a pod that policies select.
    NotAPod,
    /// A pod talks to its own address.
    OwnAddress,
    /// The node of the pod itself talks to it.
    LocalNode,
    /// Neighbour discovery, without which IPv6 does not work.
    NeighbourDiscovery,
    /// A rule matched.
    Rule(RuleRef),
    /// These NetworkPolicies isolate the pod in this direction and none of their rules matched. Sorted.
    Isolated {
        /// The direction.
        direction: Direction,
        /// The isolating policies.
        policies: Arc<[PolicyId]>,
    },
    /// No policy has an opinion.
    Default,
    /// There are policies, but what they decide is not there to look up: denied, for nothing fails open.
    Undecided,
    /// The policies of the pod do not fit on its node: denied, for nothing fails open.
    NoRoom,
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleRef {
    /// The policy.
    pub policy: PolicyId,
    /// The list the rule is in.
    pub direction: Direction,
    /// Its position in the list, from 0.
    pub index: usize,
    /// The name its author gave it.
    pub name: Option<Name>,
}

/// The verdicts of both ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// The verdict at the source.
    pub egress: Verdict,
    /// The verdict at the destination.
    pub ingress: Verdict,
}

impl Verdict {
    /// Let through, because of `reason`.
    pub fn allow(reason: Reason) -> Self {
        Self { allow: true, reason }
    }

    /// Dropped, because of `reason`.
    pub fn deny(reason: Reason) -> Self {
        Self { allow: false, reason }
    }
}

impl Decision {
    /// True if the connection is allowed, which takes both ends.
    pub fn allow(&self) -> bool {
        self.egress.allow && self.ingress.allow
    }

    /// The verdict that decides: the denying one (egress first), or the one at the destination.
    pub fn deciding(&self) -> &Verdict {
        if self.egress.allow { &self.ingress } else { &self.egress }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAPod => f.write_str("not a pod"),
            Self::OwnAddress => f.write_str("the pod's own address"),
            Self::LocalNode => f.write_str("the pod's own node"),
            Self::NeighbourDiscovery => f.write_str("neighbour discovery"),
            Self::Rule(rule) => rule.fmt(f),
            Self::Isolated { direction, policies } => {
                write!(f, "default deny {direction}: no rule matched in ")?;
                for (i, policy) in policies.iter().enumerate() {
                    write!(f, "{}{policy}", if i > 0 { ", " } else { "" })?;
                }
                Ok(())
            }
            Self::Default => f.write_str("no policy"),
            Self::Undecided => f.write_str("policy not ready"),
            Self::NoRoom => f.write_str("no room: the policies of the pod do not fit on its node"),
        }
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}[{}]", self.policy, self.direction, self.index)?;
        if let Some(name) = &self.name {
            write!(f, " \"{name}\"")?;
        }
        Ok(())
    }
}
