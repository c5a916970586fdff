//! The lines of `GET /v1/flows`: connections that the kernel reports, and gaps.

use std::fmt;
use std::net::IpAddr;

use ringfence_model::Direction;
use serde::{Deserialize, Serialize};

use crate::{Explanation, ReasonCode, VERSION, hint};

/// A connection, or a packet of one, and the verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// [`VERSION`].
    pub api_version: String,
    /// `Flow`.
    pub kind: String,
    /// When the agent read it, RFC 3339.
    pub time: String,
    /// The verdict.
    pub verdict: Verdict,
    /// The end that decided: `ingress` at the destination, `egress` at the source; none if neither was asked.
    pub direction: Option<Direction>,
    /// `TCP`, `UDP`, …
    pub protocol: String,
    /// The end that opened the connection.
    pub source: FlowEnd,
    /// The end that was called.
    pub destination: FlowEnd,
    /// The reason of the verdict.
    #[serde(flatten)]
    pub explanation: Explanation,
    /// Packets like this one since the last report of it, which were only counted.
    pub repeated: u64,
}

impl Flow {
    /// A flow. One that default deny stopped gets a hint which names the rule that would allow it.
    pub fn new(
        time: &str,
        verdict: Verdict,
        (direction, protocol): (Option<Direction>, String),
        (source, destination): (FlowEnd, FlowEnd),
        mut explanation: Explanation,
        repeated: u64,
    ) -> Self {
        if explanation.reason == ReasonCode::DefaultDeny
            && verdict != Verdict::Allowed
            && let Some(direction) = direction
        {
            explanation.hint = Some(hint::allow(direction, &protocol, &source, &destination));
        }
        let (api_version, kind, time) = (VERSION.into(), "Flow".into(), time.into());
        Self { api_version, kind, time, verdict, direction, protocol, source, destination, explanation, repeated }
    }
}

/// One line for people, and the hint on a second one.
impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, verdict, source, destination, protocol, explanation, repeated, .. } = self;
        write!(f, "{time} {verdict} {source} -> {destination} {protocol}: {}", explanation.message)?;
        if *repeated > 0 {
            write!(f, " (and {repeated} more)")?;
        }
        explanation.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\n  hint: {hint}"))
    }
}

/// The verdict about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Let through.
    Allowed,
    /// Dropped.
    Denied,
    /// Open until now; dropped from now on.
    Cut,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Cut => "cut",
        })
    }
}

/// A gap: flows that are missing here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowsLost {
    /// [`VERSION`].
    pub api_version: String,
    /// `FlowsLost`.
    pub kind: String,
    /// The number of packets or flows that are missing.
    pub lost: u64,
    /// The reason why they are missing.
    #[serde(default)]
    pub reason: Loss,
    /// Their source, if they are of one alone.
    #[serde(default)]
    pub source: Option<FlowEnd>,
}

impl FlowsLost {
    /// A gap of so many.
    pub fn new(lost: u64, reason: Loss, source: Option<FlowEnd>) -> Self {
        Self { api_version: VERSION.into(), kind: "FlowsLost".into(), lost, reason, source }
    }
}

/// A sentence for people.
impl fmt::Display for FlowsLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lost, reason, source, .. } = self;
        match (reason, source) {
            (Loss::RateLimited, Some(source)) => {
                write!(f, "{lost} more packets of {source} are not shown: it causes more than an agent reports")
            }
            (Loss::RateLimited, None) => {
                write!(f, "{lost} packets are not shown: there are more than an agent reports")
            }
            (Loss::RingBufferFull, _) => {
                write!(f, "{lost} events were lost in the kernel, whose ring buffer was full; counters have them all")
            }
            (Loss::SlowReader | Loss::Unknown, _) => {
                write!(f, "{lost} flows are missing here: more came than could be printed")
            }
        }
    }
}

/// The reason why flows are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// The reader was slower than the flows came.
    #[default]
    SlowReader,
    /// A source, or the node, caused more than an agent reports.
    RateLimited,
    /// The kernel's ring buffer had no room for events.
    RingBufferFull,
    /// A word of a later version.
    #[serde(other)]
    Unknown,
}

/// A line of `GET /v1/flows`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FlowLine {
    /// A connection.
    Flow(Box<Flow>),
    /// A gap.
    Lost(FlowsLost),
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowEnd {
    /// Its address.
    pub address: IpAddr,
    /// Its port, for protocols that have them.
    pub port: Option<u16>,
    /// Namespace of the pod that has the address.
    pub namespace: Option<String>,
    /// Name of the pod that has the address.
    pub pod: Option<String>,
    /// The node that has the address.
    pub node: Option<String>,
    /// Namespace and name of the Service that has the address.
    #[serde(default)]
    pub service: Option<String>,
}

/// As people write it: the pod, node or Service if known, the address, the port.
impl fmt::Display for FlowEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, port, namespace, pod, node, service } = self;
        match (namespace, pod, node) {
            (Some(namespace), Some(pod), _) => write!(f, "{namespace}/{pod} ")?,
            (_, _, Some(node)) => write!(f, "node/{node} ")?,
            _ => {
                if let Some(service) = service {
                    write!(f, "service/{service} ")?;
                }
            }
        }
        match (address, port) {
            (IpAddr::V6(address), Some(port)) => write!(f, "[{address}]:{port}"),
            (address, Some(port)) => write!(f, "{address}:{port}"),
            (address, None) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(address: &str, port: u16, pod: Option<&str>) -> FlowEnd {
        let (namespace, pod) = (pod.map(|_| "shop".to_owned()), pod.map(Into::into));
        FlowEnd { address: address.parse().unwrap(), port: Some(port), namespace, pod, node: None, service: None }
    }

    #[test]
    fn a_flow_is_one_flat_object_that_is_read_back_and_a_line_for_people() {
        let ends = (end("10.244.1.7", 40000, None), end("10.244.0.2", 80, Some("web")));
        let explanation = Explanation::from(ReasonCode::DefaultDeny);
        let how = (Some(Direction::Ingress), "TCP".to_owned());
        let flow = Flow::new("2026-01-01T00:00:00Z", Verdict::Denied, how, ends, explanation, 3);
        let json = serde_json::to_value(&flow).unwrap();
        assert_eq!(
            (&json["verdict"], &json["reason"], &json["direction"]),
            (&"denied".into(), &"default-deny".into(), &"ingress".into())
        );
        assert_eq!(serde_json::from_value::<FlowLine>(json).unwrap(), FlowLine::Flow(Box::new(flow.clone())));
        assert_eq!(
            flow.to_string(),
            "2026-01-01T00:00:00Z denied 10.244.1.7:40000 -> shop/web 10.244.0.2:80 TCP: default deny: no rule matched \
             (and 3 more)\n  hint: allow ingress from ipBlock 10.244.1.7/32, port 80/TCP in a NetworkPolicy that \
             selects shop/web"
        );
    }

    #[test]
    fn a_gap_says_why() {
        let gap = FlowsLost::new(7, Loss::RingBufferFull, None);
        let json = serde_json::to_string(&gap).unwrap();
        assert!(json.contains(r#""lost":7,"reason":"ring-buffer-full""#), "{json}");
        assert_eq!(serde_json::from_str::<FlowLine>(&json).unwrap(), FlowLine::Lost(gap.clone()));
        assert_eq!(
            gap.to_string(),
            "7 events were lost in the kernel, whose ring buffer was full; counters have them all"
        );
    }
}
