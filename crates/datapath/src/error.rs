//! What can go wrong between user space and the kernel.

use std::io;
use std::path::PathBuf;

use crate::features::Missing;

/// Opening, adopting or removing the datapath failed. Each says its causes itself, and so has no source: who prints a
/// chain of causes would tell them twice.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This kernel cannot run the program.
    #[error("this kernel cannot enforce policy: {}", list(.0))]
    Unsupported(Vec<Missing>),
    /// Another process has the pin directory open.
    #[error("{0} is in use by another process. hint: only one agent may run per node")]
    Busy(PathBuf),
    /// What is pinned enforces in another network namespace.
    #[error(
        "{path} holds the pins of another network namespace (inode {pinned}, this one is {own}). \
         hint: use another pin directory, or remove that one if its node is gone"
    )]
    OtherNamespace {
        /// The pin directory.
        path: PathBuf,
        /// Inode of the namespace the pins belong to.
        pinned: u64,
        /// Inode of the namespace of the calling thread.
        own: u64,
    },
    /// A system call about a path failed.
    #[error("cannot {what} {path}: {error}")]
    Path {
        /// What was tried, as a verb.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// There is no place for pins, and none can be made from here.
    #[error(
        "cannot mount a bpffs at {path}: {error}. hint: the node has to have it: `ringfence install --mount-bpf`, or \
         on the node `mount -t bpf bpf {path}`"
    )]
    Mount {
        /// The place.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// What is pinned is in a file system that only this process's container has mounted.
    #[error(
        "the file system of {0} was unmounted on the node: what is pinned enforces, but only until this container \
         ends. hint: mount it on the node (`mount -t bpf bpf /sys/fs/bpf`) and start the agent anew"
    )]
    Unmounted(PathBuf),
    /// The kernel refused something of BPF.
    #[error("cannot {what}: {error:#}")]
    Bpf {
        /// What was tried, and on what.
        what: String,
        /// Why not.
        error: libbpf_rs::Error,
    },
    /// Connection tracking could not be made sure of.
    #[error("cannot keep connection tracking active: {0}. hint: the `nft` command is needed (apt install nftables)")]
    Conntrack(String),
    /// Answers of DNS servers cannot be held.
    #[error("cannot hold answers of DNS servers: cannot {0}. hint: the kernel needs nfnetlink_queue")]
    Answers(String),
    /// A program of ours stays at a link.
    #[error("cannot free link {index} of the programs there: {why}")]
    Door {
        /// Index of the link.
        index: u32,
        /// Why not.
        why: String,
    },
    /// Asking the kernel for its links failed.
    #[error("cannot {what} over netlink: {error}")]
    Netlink {
        /// What was tried.
        what: &'static str,
        /// Why not.
        error: io::Error,
    },
}

impl Error {
    pub(crate) fn path(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Path { what, path, error }
    }

    pub(crate) fn bpf(what: impl Into<String>) -> impl FnOnce(libbpf_rs::Error) -> Self {
        let what = what.into();
        move |error| Self::Bpf { what, error }
    }
}

/// A change of policy was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It does not fit. Nothing was changed: the policy of before is enforced.
    #[error(
        "the policy does not fit into the kernel map `{map}`: {needed} more needed, {available} free. \
         The policy of before stays in force. hint: raise the size of this map"
    )]
    NoCapacity {
        /// The map.
        map: &'static str,
        /// How many more elements the change needs while it is carried out.
        needed: usize,
        /// How many are free.
        available: usize,
    },
    /// An earlier change was not carried out, so this one has nothing to build on.
    #[error("an earlier change was not carried out. hint: the whole plan has to be synced")]
    OutOfStep,
    /// The kernel refused an update it had room for.
    #[error("cannot {what} of kernel map `{map}`: {error:#}")]
    Kernel {
        /// The map.
        map: &'static str,
        /// What was tried.
        what: &'static str,
        /// Why not.
        error: libbpf_rs::Error,
    },
    /// The program could not be replaced by the one the new maps belong to.
    #[error(transparent)]
    Attach(#[from] Error),
}

fn list(missing: &[Missing]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use libbpf_rs::ErrorExt as _;

    use super::*;

    #[test]
    fn every_cause_is_told_once() {
        let denied = || io::Error::from_raw_os_error(nix::libc::EACCES);
        let bpf = || libbpf_rs::Error::from(denied()).context("upper");
        let attach = || Error::bpf("attach")(bpf());
        let errors = [
            Error::path("open", "/x")(denied()),
            Error::Mount { path: "/x".into(), error: denied() },
            Error::Netlink { what: "list links", error: denied() },
            attach(),
        ];
        let changes = [ApplyError::Kernel { map: "peers", what: "write", error: bpf() }, ApplyError::Attach(attach())];
        let errors = errors.iter().map(|error| (error.to_string(), error.source().is_none()));
        for (told, last) in errors.chain(changes.iter().map(|error| (error.to_string(), error.source().is_none()))) {
            assert_eq!(told.matches("Permission denied").count(), 1, "{told}");
            assert!(last, "it names a cause that it has told: {told}");
        }
    }
}
