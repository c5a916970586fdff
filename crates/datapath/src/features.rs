//! What this kernel can do, and what is missing in words.

mod permission;

use std::fmt;
use std::path::Path;

use libbpf_rs::{MapType, ProgramType};

use crate::{LinkHook, doors};

/// The oldest kernel with the netfilter hook for BPF.
const OLDEST: (u32, u32) = (6, 4);

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// `uname -r`.
    pub kernel: String,
    /// What the program needs and this kernel lacks; empty if it can run.
    pub missing: Vec<Missing>,
    /// Where programs can stand at pods' links; none: this kernel cannot guard them, and who sends is told by netfilter
    /// alone.
    pub link_hook: Option<LinkHook>,
}

/// A feature that is needed and not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What.
    pub feature: &'static str,
    /// Why it is needed, and how to get it.
    pub reason: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.feature, self.reason)
    }
}

impl Features {
    /// Whether the program can run.
    pub fn is_supported(&self) -> bool {
        self.missing.is_empty()
    }
}

/// Looks at the running kernel. Needs root to tell BPF features.
pub fn probe() -> Features {
    let kernel = nix::sys::utsname::uname()
        .map_or_else(|error| format!("unknown ({error})"), |name| name.release().to_string_lossy().into_owned());
    let mut missing = Vec::new();
    let mut need = |there: bool, feature, reason: String| {
        if !there {
            missing.push(Missing { feature, reason });
        }
    };
    let root = nix::unistd::geteuid().is_root();
    need(root, "privileges", "loading BPF programs and attaching to netfilter takes root".into());
    let new_enough = version(&kernel).is_none_or(|version| version >= OLDEST);
    need(new_enough, "kernel version", format!("{kernel} is older than {}.{}", OLDEST.0, OLDEST.1));
    need(
        Path::new("/sys/kernel/btf/vmlinux").exists(),
        "BTF",
        "the program adapts to the kernel by its type information (CONFIG_DEBUG_INFO_BTF)".into(),
    );
    let forbidden = root.then(permission::denied).flatten();
    if let Some(why) = &forbidden {
        need(false, "permission", why.clone());
    }
    if root && forbidden.is_none() {
        let refused = |what: &str| format!("the kernel refuses {what} (CONFIG_BPF_SYSCALL, CONFIG_NETFILTER_BPF_LINK)");
        let netfilter = ProgramType::Netfilter.is_supported().unwrap_or(false);
        need(netfilter, "netfilter programs", refused("programs of type netfilter"));
        for (kind, feature) in [
            (MapType::RingBuf, "ring buffer"),
            (MapType::LpmTrie, "longest prefix match"),
            (MapType::LruHash, "LRU hash"),
        ] {
            need(kind.is_supported().unwrap_or(false), feature, refused("maps of this type"));
        }
    }
    need(
        Path::new("/proc/sys/net/netfilter/nf_conntrack_max").exists() || Path::new("/proc/net/nf_conntrack").exists(),
        "connection tracking",
        "replies cannot be told from requests (CONFIG_NF_CONNTRACK; try `modprobe nf_conntrack`)".into(),
    );
    Features { kernel, missing, link_hook: doors::probe() }
}

/// Major and minor of a release string.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_strings_of_distributions_are_understood() {
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version("5.15.0-generic"), Some((5, 15)));
        assert_eq!(version("6.4+"), Some((6, 4)));
        assert_eq!(version("weird"), None);
        assert!((6, 1) < OLDEST && (6, 10) > OLDEST);
    }
}
