//! Kubernetes objects, from a live API or from files, to the words of `ringfence-model`; and what is wrong with them.
//!
//! This crate works on JSON values and not on generated types. Generated types drop unknown fields, and a policy
//! without an unknown field could allow more than its author meant.
#![forbid(unsafe_code)]

pub mod address;
pub mod convert;
pub mod crd;
mod diagnostic;
pub mod exec;
mod json;
pub mod manifest;
mod path;
pub mod strict;
pub mod validate;
pub mod watch;

pub use diagnostic::{Diagnostic, Location, Reason, Severity};
pub use path::{FieldPath, Path, Segment};
