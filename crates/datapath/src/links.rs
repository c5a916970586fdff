//! The four netfilter links: two hooks, two families.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use libbpf_rs::query::LinkTypeInfo;
use libbpf_rs::{Link, NF_INET_LOCAL_IN, NF_INET_POST_ROUTING, NFPROTO_IPV4, NFPROTO_IPV6, NetfilterOpts, Object};

use crate::Error;
use crate::object::PROGRAM;
use crate::pins::{Pins, stage};

/// A netfilter hook of one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hook {
    family: i32,
    hook: i32,
}

/// Name of the pin, family, hook.
const HOOKS: [(&str, i32, i32); 4] = [
    ("ipv4-postrouting", NFPROTO_IPV4, NF_INET_POST_ROUTING),
    ("ipv6-postrouting", NFPROTO_IPV6, NF_INET_POST_ROUTING),
    ("ipv4-local-in", NFPROTO_IPV4, NF_INET_LOCAL_IN),
    ("ipv6-local-in", NFPROTO_IPV6, NF_INET_LOCAL_IN),
];

/// Just before source NAT (100). The program of a link cannot be replaced, and no two links may share a priority. So an
/// old and a new link use these priorities in turn.
const PRIORITIES: [i32; 2] = [95, 94];

/// `BPF_F_NETFILTER_IP_DEFRAG`: only whole packets reach the program.
const DEFRAGMENT: u32 = 1;

/// The time that a closed link may take to free its priority.
const DETACH_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// True if all links of our version are pinned.
pub(crate) fn are_attached(pins: &Pins) -> bool {
    HOOKS.iter().all(|(name, ..)| pins.links().join(name).exists())
}

/// Attaches the program to all hooks beside what is there, and only then removes what was there before.
pub(crate) fn replace(pins: &Pins, object: &Object) -> Result<(), Error> {
    stage(&pins.links(), |staging| {
        let hook = |(family, hook)| Hook { family, hook };
        HOOKS.iter().try_for_each(|(name, family, at)| attach(object, &staging.join(name), hook((*family, *at))))
    })?;
    remove_others(pins)
}

/// Removes links of other versions, then the maps that only those used.
pub(crate) fn remove_others(pins: &Pins) -> Result<(), Error> {
    for path in pins.other_links()?.0 {
        remove(&path)?;
    }
    pins.remove_other_maps()
}

/// Detaches and unpins the links of a directory.
pub(crate) fn remove(directory: &Path) -> Result<(), Error> {
    for path in entries(directory)? {
        let link = open(&path)?;
        // Detaching takes effect at once. Closing the last reference would take effect some time later.
        if let Err(error) = link.detach() {
            tracing::debug!(%error, path = %path.display(), "the link is detached when it is closed");
        }
        fs::remove_file(&path).map_err(Error::path("remove", &path))?;
    }
    fs::remove_dir(directory).map_err(Error::path("remove", directory))
}

pub(crate) fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(directory).map_err(Error::path("list", directory))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

/// Opens the link pinned at a path.
pub(crate) fn open(path: &Path) -> Result<Link, Error> {
    Link::open(path).map_err(Error::bpf(format!("open the link pinned at {}", path.display())))
}

impl Hook {
    /// Returns the hook of a link by the name of its pin.
    pub(crate) fn of(pin: &Path) -> Option<Self> {
        let name = pin.file_name()?;
        HOOKS.iter().find(|hook| name == hook.0).map(|(_, family, hook)| Self { family: *family, hook: *hook })
    }

    /// Attaches the program once.
    fn attach(self, object: &Object, priority: i32) -> libbpf_rs::Result<Link> {
        let program = object
            .progs_mut()
            .find(|program| program.name() == PROGRAM)
            .ok_or_else(|| libbpf_rs::Error::from_raw_os_error(nix::libc::ENOENT))?;
        program.attach_netfilter_with_opts(NetfilterOpts {
            protocol_family: self.family,
            hooknum: self.hook,
            priority,
            flags: DEFRAGMENT,
            ..NetfilterOpts::default()
        })
    }

    /// Attaches the program again if a link was detached. A detached link still reports its old priority. But no two
    /// links may share a priority, and a live one keeps its own, so attaching fails with `EBUSY` then.
    pub(crate) fn reattach(self, object: &Object, link: &Link) -> Result<Option<Link>, Error> {
        let Some(priority) = priority(link) else { return Ok(None) };
        match self.attach(object, priority) {
            Ok(link) => Ok(Some(link)),
            Err(error) if is_busy(&error) => Ok(None),
            Err(error) => Err(self.refused(error)),
        }
    }

    fn refused(self, error: libbpf_rs::Error) -> Error {
        Error::bpf(format!("attach to netfilter (family {}, hook {})", self.family, self.hook))(error)
    }
}

/// The library gives the kernel's error only in its text.
fn is_busy(error: &libbpf_rs::Error) -> bool {
    let busy = std::io::Error::from_raw_os_error(nix::libc::EBUSY).to_string();
    format!("{error:#}").contains(&busy)
}

fn attach(object: &Object, pin: &Path, hook: Hook) -> Result<(), Error> {
    let end = Instant::now() + DETACH_TIMEOUT;
    loop {
        let mut refused = None;
        for priority in PRIORITIES {
            match hook.attach(object, priority) {
                Ok(mut link) => {
                    return link.pin(pin).map_err(Error::bpf(format!("pin a link at {}", pin.display())));
                }
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) if Instant::now() >= end => {
                return Err(hook.refused(error));
            }
            _ => thread::sleep(RETRY_INTERVAL),
        }
    }
}

/// Returns the priorities of the links of this version, by hook, for tests and the status.
pub(crate) fn priorities(pins: &Pins) -> Vec<(&'static str, i32)> {
    if !are_attached(pins) {
        return Vec::new();
    }
    HOOKS.iter().filter_map(|(name, ..)| Some((*name, priority(&open(&pins.links().join(name)).ok()?)?))).collect()
}

/// Returns the priority a link is, or was, attached at.
fn priority(link: &Link) -> Option<i32> {
    match link.info().ok()?.info {
        LinkTypeInfo::Netfilter(info) => Some(info.priority),
        _ => None,
    }
}
