//! Versions of the CNI specification.

/// The newest version that is spoken.
pub const CURRENT: &str = "1.1.0";

/// Every version that is spoken: all that know lists of plugins. Between them the parts this plugin reads and writes
/// are the same: it hands the result of the plugin before it on as it came. flannel, kindnet and Calico write 0.3.1.
pub const SUPPORTED: &[&str] = &["0.3.0", OLDEST, "0.4.0", "1.0.0", "1.1.0"];

/// The version that every plugin speaks that may be one of a list.
pub(crate) const OLDEST: &str = "0.3.1";
