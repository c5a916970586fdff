//! Errors: operation, object, the kernel's error and a hint.

use std::io;

/// Result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation on a namespace, link, address or route. The message contains its cause, so `source` is empty: a
/// printed chain of causes would repeat it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {object}: {cause}{}", hint(cause, operation))]
pub struct Error {
    /// The failed operation, as an infinitive: "create namespace".
    pub operation: &'static str,
    /// The object of the operation: a name, an address.
    pub object: String,
    /// The kernel's answer.
    pub cause: io::Error,
}

impl Error {
    pub(crate) fn new(operation: &'static str, object: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Self { operation, object: object.into(), cause: cause.into() }
    }

    /// True if the object does not exist.
    pub fn is_not_found(&self) -> bool {
        // ENODEV for links, ESRCH for routes, EADDRNOTAVAIL for addresses.
        const ABSENT: [i32; 4] = [nix::libc::ENOENT, nix::libc::ENODEV, nix::libc::ESRCH, nix::libc::EADDRNOTAVAIL];
        self.cause.raw_os_error().is_some_and(|code| ABSENT.contains(&code))
            || self.cause.kind() == io::ErrorKind::NotFound
    }

    /// True if the object exists already.
    pub fn is_already_there(&self) -> bool {
        self.cause.kind() == io::ErrorKind::AlreadyExists
    }
}

/// Advice that follows from the kernel's answer, if any does.
fn hint(cause: &io::Error, operation: &str) -> &'static str {
    match cause.raw_os_error() {
        Some(nix::libc::EPERM | nix::libc::EACCES) => "\nhint: this needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN)",
        Some(nix::libc::EOPNOTSUPP) => "\nhint: the kernel was built without this kind of link or route",
        Some(nix::libc::ENETUNREACH) if operation.contains("route") => {
            "\nhint: the gateway must be reachable over a link that is up and has an address"
        }
        Some(nix::libc::ENETDOWN) => "\nhint: set the link up first",
        _ => "",
    }
}
