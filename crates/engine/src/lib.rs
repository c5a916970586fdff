//! Reference evaluator and planner of network policy.
//!
//! Pure: no I/O, total on well-typed input, deterministic.
#![forbid(unsafe_code)]

#[cfg(feature = "testing")]
pub mod generate;
mod limits;
mod plan;
mod planner;
mod port_table;
pub mod reference;
mod verdict;

pub use limits::{Limits, Refusal, Resource};
pub use plan::{Delta, Endpoint, IpcacheEntry, PeerSetId, Plan, PolicyKey, RuleId, RulesetId};
pub use planner::{AddressConflict, Claimant, Planner, Scope, fair_share, left_out};
pub use port_table::{PortTable, PortVerdict, port_key};
