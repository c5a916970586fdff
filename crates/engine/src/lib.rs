//! Reference evaluator, planner and analysis of network policy.
//!
//! Pure: no I/O, total on well-typed input, deterministic.
#![forbid(unsafe_code)]

mod block;
mod decide;
#[cfg(feature = "testing")]
pub mod generate;
mod limits;
mod plan;
mod planner;
pub mod reference;

pub use block::{Block, Breakpoint, port_key};
pub use limits::{Limits, Refusal, Room};
pub use plan::{Cause, CauseId, ClassId, Delta, Endpoint, EntryKey, PeerClass, Plan, RulesetId};
pub use planner::{Claimant, Dispute, Planner, Scope, fair_share, left_out};
