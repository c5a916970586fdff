//! Containers: a shim per container that outlives the kubelet, an init inside, commands run beside it.
//!
//! ```text
//! lab serve ──starts──► lab-container (shim)          in the pod's network namespace; keeps state and log in a
//!                          │                          directory, serves attached clients
//!                          └─► lab-init (pid 1)       in mount, UTS, IPC and PID namespaces of its own
//!                                └─► the command
//! lab serve ──starts──► lab-exec ──enters──► lab-run ──becomes──► a command beside it
//! ```
//!
//! The file system inside is an overlay over the machine's own: its programs are there, and nothing written reaches
//! them. The layer with the changes is in memory and goes with the container.

pub(crate) mod attach;
pub mod config;
pub mod exec;
pub mod init;
pub(crate) mod log;
mod root;
pub mod shim;
mod streams;
mod tty;

pub use config::{Config, Exit, FileContent, Mount, Running, Started, Streams};
pub use exec::{start_piped, start_terminal};

/// Path of this program inside containers.
pub const PROGRAM: &str = "/.ringfence";
/// Search path of commands unless the pod sets another.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
