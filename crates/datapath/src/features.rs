//! Features of this kernel, and a description of those that are missing.

mod permission;

use std::fmt;
use std::path::Path;

use libbpf_rs::{MapType, ProgramType};

use crate::{LinkHook, link_guard};

/// The oldest kernel whose netfilter hooks run BPF programs.
const OLDEST: (u32, u32) = (6, 4);

/// Features of this kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// `uname -r`.
    pub kernel: String,
    /// Features that the program needs and this kernel lacks; empty if the program can run.
    pub missing: Vec<MissingFeature>,
    /// Attachment point of programs at pod links. None: this kernel cannot guard links, and netfilter alone checks
    /// sources.
    pub link_hook: Option<LinkHook>,
}

/// A feature that the program needs and this kernel lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingFeature {
    /// Name of the feature.
    pub feature: &'static str,
    /// Purpose of the feature, and how to get it.
    pub reason: String,
}

impl fmt::Display for MissingFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.feature, self.reason)
    }
}

impl Features {
    /// True if the program can run.
    pub fn is_supported(&self) -> bool {
        self.missing.is_empty()
    }
}

/// Probes the running kernel. BPF features can be probed by root only.
pub fn probe() -> Features {
    let kernel = nix::sys::utsname::uname()
        .map_or_else(|error| format!("unknown ({error})"), |name| name.release().to_string_lossy().into_owned());
    let mut missing = Vec::new();
    let mut need = |there: bool, feature, reason: String| {
        if !there {
            missing.push(MissingFeature { feature, reason });
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
    Features { kernel, missing, link_hook: link_guard::probe() }
}

/// Returns major and minor version of a release string.
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
