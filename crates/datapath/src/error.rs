//! Errors between user space and the kernel.

use std::io;
use std::path::PathBuf;

use crate::features::MissingFeature;

/// Opening, adopting or removing the datapath failed. Each message contains its cause, so `source` is empty: a printed
/// chain of causes would repeat it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This kernel cannot run the program.
    #[error("this kernel cannot enforce policy: {}", list(.0))]
    Unsupported(Vec<MissingFeature>),
    /// Another process has the pin directory open.
    #[error("{0} is in use by another process. hint: only one agent may run per node")]
    Busy(PathBuf),
    /// The pins belong to another network namespace.
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
        /// The failed operation, as a verb.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// The pin directory is on no bpffs, and none can be mounted from here.
    #[error(
        "cannot mount a bpffs at {path}: {error}. hint: the node has to mount it: `ringfence install --mount-bpf`, or \
         on the node `mount -t bpf bpf {path}`"
    )]
    Mount {
        /// The pin directory.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// The pins are on a file system that only the container of this process has mounted.
    #[error(
        "the file system of {0} was unmounted on the node: enforcement goes on, but only until this container ends. \
         hint: mount it on the node (`mount -t bpf bpf /sys/fs/bpf`) and restart the agent"
    )]
    Unmounted(PathBuf),
    /// The kernel refused a BPF operation.
    #[error("cannot {what}: {error:#}")]
    Bpf {
        /// The failed operation and its object.
        what: String,
        /// The cause.
        error: libbpf_rs::Error,
    },
    /// The rule that keeps connection tracking active could not be created or checked.
    #[error("cannot keep connection tracking active: {0}. hint: the `nft` command is needed (apt install nftables)")]
    Conntrack(String),
    /// DNS answers cannot be queued.
    #[error("cannot queue DNS answers: cannot {0}. hint: the kernel needs nfnetlink_queue")]
    DnsQueue(String),
    /// A program of Ringfence could not be removed from a link.
    #[error("cannot remove the programs from link {index}: {why}")]
    LinkGuard {
        /// Index of the link.
        index: u32,
        /// The cause.
        why: String,
    },
    /// A netlink request failed.
    #[error("cannot {what} over netlink: {error}")]
    Netlink {
        /// The failed operation.
        what: &'static str,
        /// The cause.
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
    /// The change does not fit. Pods keep the earlier policy, except those that an earlier part of the change has
    /// reached.
    #[error(
        "the policy does not fit into the kernel map `{map}`: {needed} more needed, {available} free. \
         The earlier policy stays in force. hint: raise the size of this map"
    )]
    NoCapacity {
        /// The map.
        map: &'static str,
        /// Elements that the change needs in addition while it is carried out.
        needed: usize,
        /// Free elements of the map.
        available: usize,
    },
    /// An earlier change was not carried out, so the maps do not hold what this one starts from.
    #[error("an earlier change was not carried out. hint: the whole plan has to be synced")]
    OutOfSync,
    /// The kernel refused an update although there was room.
    #[error("cannot {what} of kernel map `{map}`: {error:#}")]
    Kernel {
        /// The map.
        map: &'static str,
        /// The failed operation.
        what: &'static str,
        /// The cause.
        error: libbpf_rs::Error,
    },
    /// The older program could not be replaced by the one that uses the new maps.
    #[error(transparent)]
    Attach(#[from] Error),
}

fn list(missing: &[MissingFeature]) -> String {
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
        let changes =
            [ApplyError::Kernel { map: "ipcache", what: "write", error: bpf() }, ApplyError::Attach(attach())];
        let errors = errors.iter().map(|error| (error.to_string(), error.source().is_none()));
        for (told, last) in errors.chain(changes.iter().map(|error| (error.to_string(), error.source().is_none()))) {
            assert_eq!(told.matches("Permission denied").count(), 1, "{told}");
            assert!(last, "it names a cause that it has told: {told}");
        }
    }
}
