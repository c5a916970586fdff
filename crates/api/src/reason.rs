//! Reasons of verdicts: word, sentence and hint of each, in one place for kernel side, status, metrics, log and
//! command.

use std::fmt::{self, Write as _};

use ringfence_model::{Direction, PolicyId, Reason};
use serde::{Deserialize, Serialize};

/// Policies that an explanation lists: any number of policies may isolate a pod.
const MAX_POLICIES: usize = 50;
/// Policies that the sentence of an explanation lists.
const MAX_POLICIES_IN_SENTENCE: usize = 3;

/// The word for the reason of a verdict or of a drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReasonCode {
    /// A rule matched.
    Rule,
    /// Policies isolate the pod, and none of their rules matched.
    DefaultDeny,
    /// No policy governs the pod in this direction.
    NoPolicy,
    /// The pod's policies have no decision to look up.
    Undecided,
    /// The pod's policies do not fit on its node.
    OverCapacity,
    /// The end is no pod of the cluster.
    NotAPod,
    /// A pod talks to its own address.
    OwnAddress,
    /// The pod's own node talks to it.
    LocalNode,
    /// IPv6 neighbour discovery.
    NeighbourDiscovery,
    /// A policy that an earlier agent left in force.
    EarlierPolicy,
    /// A policy that is not in force any more.
    Superseded,
    /// A policy; the word of a counter that has no more detail.
    Policy,
    /// A change of policy, in the middle of a connection; the word of a counter.
    PolicyCut,
    /// The source address is not that of the pod that sent the packet.
    SpoofedSource,
    /// The address is a local pod's that has no policy in the kernel yet.
    EndpointNotReady,
    /// Ports or true destination of the packet cannot be read.
    Unparseable,
    /// The frame was on its way to a pod that it is not for.
    Misdirected,
    /// The kernel maps have no answer.
    Incomplete,
    /// A word of a later version.
    #[serde(other)]
    Unknown,
}

impl ReasonCode {
    /// The word, as JSON, labels of metrics and log lines have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::DefaultDeny => "default-deny",
            Self::NoPolicy => "no-policy",
            Self::Undecided => "undecided",
            Self::OverCapacity => "over-capacity",
            Self::NotAPod => "not-a-pod",
            Self::OwnAddress => "own-address",
            Self::LocalNode => "local-node",
            Self::NeighbourDiscovery => "neighbour-discovery",
            Self::EarlierPolicy => "earlier-policy",
            Self::Superseded => "superseded",
            Self::Policy => "policy",
            Self::PolicyCut => "policy-cut",
            Self::SpoofedSource => "spoofed-source",
            Self::EndpointNotReady => "endpoint-not-ready",
            Self::Unparseable => "unparseable",
            Self::Misdirected => "misdirected",
            Self::Incomplete => "incomplete",
            Self::Unknown => "unknown",
        }
    }

    /// The sentence of a reason that needs no names.
    fn sentence(self) -> &'static str {
        match self {
            Self::Rule => "a rule matched",
            Self::DefaultDeny => "default deny: no rule matched",
            Self::NoPolicy => "no policy",
            Self::Undecided => "policy not ready",
            Self::OverCapacity => "the policies of the pod do not fit on its node",
            Self::NotAPod => "not a pod",
            Self::OwnAddress => "the pod's own address",
            Self::LocalNode => "the pod's own node",
            Self::NeighbourDiscovery => "neighbour discovery",
            Self::EarlierPolicy => "decided by the policy that an earlier agent left in force",
            Self::Superseded => "decided by a policy that is not in force any more",
            Self::Policy | Self::PolicyCut => "a policy denies it",
            Self::SpoofedSource => "the source address is not that of the pod that sent the packet",
            Self::EndpointNotReady => "the address is a local pod's, but no policy is known for it yet",
            Self::Unparseable => "the packet's ports or its true destination cannot be told",
            Self::Misdirected => "the packet was on its way to a pod it is not for",
            Self::Incomplete => "the kernel's copy of the policy has no answer; this is a fault of ringfence",
            Self::Unknown => "a reason that this version does not know",
        }
    }

    /// Advice where no policy decided.
    fn hint(self) -> Option<&'static str> {
        match self {
            Self::EndpointNotReady => {
                Some("the address is in this node's pod range but no known pod has it: wait, or delete what uses it")
            }
            Self::SpoofedSource => Some("the pod sends from an address that is not its own; check what runs in it"),
            Self::OverCapacity => Some(
                "`ringfence status` names the kernel map that is full; give it more entries, or the pod fewer rules",
            ),
            _ => None,
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A reason in full: who or what decided, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The reason, as a word.
    pub reason: ReasonCode,
    /// The reason, as a sentence.
    pub message: String,
    /// The policies that decided: the one of the rule, or those that isolate the pod, at most 50.
    pub policies: Vec<String>,
    /// The number of policies that isolate the pod beyond those.
    #[serde(default)]
    pub more_policies: usize,
    /// Position of the rule in the policy's list, from 0.
    pub rule: Option<usize>,
    /// Advice for whoever wants the connection.
    pub hint: Option<String>,
}

impl From<ReasonCode> for Explanation {
    fn from(reason: ReasonCode) -> Self {
        let (policies, more_policies, rule) = (Vec::new(), 0, None);
        let (message, hint) = (reason.sentence().to_owned(), reason.hint().map(Into::into));
        Self { reason, message, policies, more_policies, rule, hint }
    }
}

impl From<&Reason> for Explanation {
    fn from(reason: &Reason) -> Self {
        match reason {
            Reason::Rule(rule) => Self {
                message: reason.to_string(),
                policies: vec![rule.policy.to_string()],
                rule: Some(rule.index),
                ..ReasonCode::Rule.into()
            },
            Reason::Isolated { direction, policies } => Self::default_deny(*direction, policies),
            Reason::Default => ReasonCode::NoPolicy.into(),
            Reason::Undecided => ReasonCode::Undecided.into(),
            Reason::NoRoom => ReasonCode::OverCapacity.into(),
            Reason::NotAPod => ReasonCode::NotAPod.into(),
            Reason::OwnAddress => ReasonCode::OwnAddress.into(),
            Reason::LocalNode => ReasonCode::LocalNode.into(),
            Reason::NeighbourDiscovery => ReasonCode::NeighbourDiscovery.into(),
        }
    }
}

impl Explanation {
    /// No rule of these policies, which isolate the pod, allows the connection.
    fn default_deny(direction: Direction, policies: &[PolicyId]) -> Self {
        let names = |count| policies.iter().take(count).map(ToString::to_string);
        let listed = names(MAX_POLICIES_IN_SENTENCE).collect::<Vec<_>>().join(", ");
        let mut message = format!("default deny {direction}: no rule matched in {listed}");
        if let Some(more @ 1..) = policies.len().checked_sub(MAX_POLICIES_IN_SENTENCE) {
            let _infallible = write!(message, " and {more} more");
        }
        Self {
            message,
            policies: names(MAX_POLICIES).collect(),
            more_policies: policies.len().saturating_sub(MAX_POLICIES),
            ..ReasonCode::DefaultDeny.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [ReasonCode; 19] = [
        ReasonCode::Rule,
        ReasonCode::DefaultDeny,
        ReasonCode::NoPolicy,
        ReasonCode::Undecided,
        ReasonCode::OverCapacity,
        ReasonCode::NotAPod,
        ReasonCode::OwnAddress,
        ReasonCode::LocalNode,
        ReasonCode::NeighbourDiscovery,
        ReasonCode::EarlierPolicy,
        ReasonCode::Superseded,
        ReasonCode::Policy,
        ReasonCode::PolicyCut,
        ReasonCode::SpoofedSource,
        ReasonCode::EndpointNotReady,
        ReasonCode::Unparseable,
        ReasonCode::Misdirected,
        ReasonCode::Incomplete,
        ReasonCode::Unknown,
    ];

    #[test]
    fn json_has_the_word_of_each_reason_and_reads_words_of_later_versions() {
        for reason in ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.word());
            assert_eq!(serde_json::from_value::<ReasonCode>(reason.word().into()).unwrap(), reason);
        }
        assert_eq!(serde_json::from_str::<ReasonCode>("\"of-tomorrow\"").unwrap(), ReasonCode::Unknown);
    }

    #[test]
    fn a_long_list_of_policies_is_cut_short() {
        let policy = |number| PolicyId {
            kind: ringfence_model::PolicyKind::NetworkPolicy,
            namespace: Some("shop".into()),
            name: format!("p{number}").as_str().into(),
        };
        let policies: Vec<PolicyId> = (0..60).map(policy).collect();
        let explanation = Explanation::default_deny(Direction::Ingress, &policies);
        assert_eq!((explanation.policies.len(), explanation.more_policies), (50, 10));
        let names = "NetworkPolicy shop/p0, NetworkPolicy shop/p1, NetworkPolicy shop/p2";
        assert_eq!(explanation.message, format!("default deny ingress: no rule matched in {names} and 57 more"));
        let few = Explanation::default_deny(Direction::Egress, &policies[..3]);
        assert_eq!(few.message, format!("default deny egress: no rule matched in {names}"));
    }
}
