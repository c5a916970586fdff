//! The API that an agent serves on its Unix socket: JSON over HTTP, versioned by `apiVersion` and `kind`.
//!
//! ```text
//! path ─► where each request goes
//! endpoint, status, flow ─► the types of requests and answers
//! reason ─► word, sentence and hint of each reason, for kernel side, status, metrics, log and command alike
//! client (asynchronous), blocking ─► the two clients
//! ```
//!
//! Within one version fields are only added; readers ignore fields that they do not know.
#![forbid(unsafe_code)]

pub mod blocking;
#[cfg(feature = "client")]
pub mod client;
mod endpoint;
mod error;
mod flow;
mod hint;
pub mod path;
mod reason;
mod status;
pub mod wanted;

pub use endpoint::{CollectRequest, Failure, ReleaseRequest, WaitReply, WaitRequest};
pub use error::ClientError;
pub use flow::{Flow, FlowEnd, FlowLine, FlowsLost, Loss, Verdict};
pub use reason::{Explanation, ReasonCode};
pub use status::{
    BridgeNetfilter, CniConfig, Connections, Endpoint, Enforcement, Feature, FqdnCache, HostInterfaces, MapUse,
    NodeRoutes, ObjectDiagnostic, OverCapacity, PodOverCapacity, Policy, Repair, Status, Watch,
};

/// `apiVersion` of everything an agent answers.
pub const VERSION: &str = "ringfence/v1";

/// The socket an agent listens on, unless told otherwise.
pub const SOCKET: &str = "/run/ringfence/agent.sock";
