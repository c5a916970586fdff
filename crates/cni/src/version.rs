//! Versions of the CNI specification.

/// The newest version that is spoken.
pub const CURRENT: &str = "1.1.0";

/// Every version that is spoken. Between them the parts this plugin reads and writes are the same: it hands the result
/// of the plugin before it on as it came.
pub const SUPPORTED: &[&str] = &["0.4.0", "1.0.0", "1.1.0"];
