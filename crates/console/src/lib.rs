//! Output, logs and exit codes of the programs, which people and scripts rely on.
#![forbid(unsafe_code)]

pub mod exit;
pub mod logging;
pub mod output;
