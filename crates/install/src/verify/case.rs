//! The parts of a case: policies, and who may then talk to whom.

use std::fmt;
use std::net::IpAddr;

use serde_json::Value;

use super::stage::Names;

/// A pod of the stage: `a` and `b` in each of the namespaces `x` and `y`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Pod {
    /// `x` or `y`.
    pub(super) space: &'static str,
    /// `a` or `b`.
    pub(super) name: &'static str,
}

/// All of them.
pub(super) const PODS: [Pod; 4] = [pod("x", "a"), pod("x", "b"), pod("y", "a"), pod("y", "b")];

const fn pod(space: &'static str, name: &'static str) -> Pod {
    Pod { space, name }
}

/// A port that pods listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Port {
    /// TCP 8080, which is called `web`.
    Web,
    /// TCP 8081, which is called `alt`.
    Alt,
    /// UDP 8080, which is called `dgram`.
    Datagram,
}

impl Port {
    pub(super) const ALL: [Self; 3] = [Self::Web, Self::Alt, Self::Datagram];

    /// Its number.
    pub(super) fn number(self) -> u16 {
        match self {
            Self::Web | Self::Datagram => 8080,
            Self::Alt => 8081,
        }
    }

    /// Its protocol as programs name it.
    pub(super) fn protocol(self) -> &'static str {
        match self {
            Self::Web | Self::Alt => "tcp",
            Self::Datagram => "udp",
        }
    }
}

/// One connection that is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    /// The pod that opens it.
    pub(super) from: Pod,
    /// The pod that is called.
    pub(super) to: Pod,
    /// Its port.
    pub(super) port: Port,
    /// True if by IPv6.
    pub(super) six: bool,
}

impl Attempt {
    /// True if it goes to this pod.
    pub(super) fn is_to(&self, space: &str, name: &str) -> bool {
        (self.to.space, self.to.name) == (space, name)
    }

    /// True if it comes from this pod.
    pub(super) fn is_from(&self, space: &str, name: &str) -> bool {
        (self.from.space, self.from.name) == (space, name)
    }
}

/// A check once policies are enforced.
pub(super) enum Check {
    /// Every pair of pods, on every port: who may.
    Matrix(fn(&Attempt) -> bool),
    /// That an open connection from y/a to x/a carries nothing more, and new ones are not let in.
    Cut,
}

/// A case.
pub(super) struct Case {
    /// Its name.
    pub(super) name: &'static str,
    /// True if it needs cluster-wide policy.
    pub(super) cluster_wide: bool,
    /// Its policies, in terms of the names and addresses of the stage.
    pub(super) policies: fn(&Names<'_>) -> Vec<Value>,
    /// The expected result.
    pub(super) check: Check,
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.space, self.name)
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, port, .. } = self;
        write!(f, "{from} to {to}, {} {}", port.protocol().to_uppercase(), port.number())
    }
}

/// Every attempt that there is between these families.
pub(super) fn attempts(addresses: impl Fn(Pod) -> Vec<IpAddr>) -> Vec<(Attempt, IpAddr)> {
    let mut all = Vec::new();
    for to in PODS {
        for address in addresses(to) {
            for from in PODS.into_iter().filter(|from| *from != to) {
                let attempt = |port| (Attempt { from, to, port, six: address.is_ipv6() }, address);
                all.extend(Port::ALL.map(attempt));
            }
        }
    }
    all
}
