//! True if this machine can carry a lab; if not, one message that says what to do.

use std::ffi::{OsStr, OsString};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::bail;

use super::Options;
use crate::agents::AGENT_PROGRAM;

/// Oldest kernel whose netfilter takes BPF programs.
const KERNEL: (u32, u32) = (6, 4);
/// Type information of the kernel.
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// Directories of programs for administrators, which not everybody's search path names.
const ADMINISTRATORS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// A lab is made, and taken down, by root alone.
pub(super) fn check_root() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "a lab needs root: it makes network namespaces and loads programs into the kernel\nhint: sudo ringfence \
             lab up"
        );
    }
    Ok(())
}

/// Checks what can be checked before anything is made.
pub(super) fn check(options: &Options) -> anyhow::Result<()> {
    let problems = Found::look(options)?.problems(options);
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("\n")) }
}

/// Inventory of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    /// The kernel's release.
    kernel: String,
    /// True if it describes its types.
    btf: bool,
    /// The program of nftables.
    nft: Option<PathBuf>,
    /// True if the port asked for, if any, can be had.
    port_is_free: bool,
    /// True if the agent's program is beside this one.
    agent: bool,
}

impl Found {
    fn look(options: &Options) -> anyhow::Result<Self> {
        Ok(Self {
            kernel: nix::sys::utsname::uname()?.release().to_string_lossy().into_owned(),
            btf: Path::new(BTF).exists(),
            nft: find_program("nft", &search_path()),
            port_is_free: options.api_port.is_none_or(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()),
            agent: std::env::current_exe()?.with_file_name(AGENT_PROGRAM).is_file(),
        })
    }

    /// Problems, each with advice.
    fn problems(&self, options: &Options) -> Vec<String> {
        let mut problems = Vec::new();
        if options.agents && version(&self.kernel).is_some_and(|found| found < KERNEL) {
            problems.push(format!(
                "the kernel is too old: {}; network policy needs {}.{} or newer (BPF in netfilter)\n\
                 hint: install a newer kernel (Debian: from backports; Ubuntu: linux-generic-hwe), or run a virtual \
                 machine",
                self.kernel, KERNEL.0, KERNEL.1
            ));
        }
        if options.agents && !self.btf {
            problems.push(format!(
                "the kernel does not describe its types: {BTF} is missing\n\
                 hint: use a distribution's kernel, or build one with CONFIG_DEBUG_INFO_BTF=y"
            ));
        }
        if options.agents && !self.agent {
            problems.push(format!(
                "the program {AGENT_PROGRAM} is missing\n\
                 hint: it belongs in the directory that ringfence-lab is in; --without-agents does without"
            ));
        }
        if self.nft.is_none() {
            problems.push(
                "the program nft is missing: Services are nftables rules\nhint: apt-get install nftables".to_owned(),
            );
        }
        if let Some(port) = options.api_port.filter(|_| !self.port_is_free) {
            problems.push(format!(
                "port {port} of 127.0.0.1 is in use\nhint: leave --api-port out and a free one is taken"
            ));
        }
        problems
    }
}

/// Major and minor version of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The search path for programs, with the places an administrator's shell has: whoever becomes root may not.
pub(super) fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let missing = ADMINISTRATORS.iter().map(PathBuf::from).filter(|place| !own.contains(place));
    let all: Vec<_> = own.iter().cloned().chain(missing).collect();
    // What cannot be joined came from no path, and then the variable is better left as it is.
    std::env::join_paths(all).unwrap_or(path)
}

/// Path of a program, where a search path leads to it.
fn find_program(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path).map(|directory| directory.join(name)).find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Found {
        Found {
            kernel: "6.18.44".into(),
            btf: true,
            nft: Some("/usr/sbin/nft".into()),
            port_is_free: true,
            agent: true,
        }
    }

    /// The one problem of a machine, which must say what to do.
    fn problem(found: &Found, options: &Options) -> String {
        let problems = found.problems(options);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("\nhint: "), "{problems:?}");
        problems.into_iter().next().unwrap()
    }

    #[test]
    fn a_good_machine_has_no_problems() {
        assert_eq!(good().problems(&Options::default()), Vec::<String>::new());
        assert_eq!(good().problems(&Options { api_port: Some(6443), ..Options::default() }), Vec::<String>::new());
    }

    #[test]
    fn each_problem_says_what_to_do() {
        let options = Options::default();
        let old = Found { kernel: "5.15.0-91-generic".into(), ..good() };
        assert!(problem(&old, &options).contains("too old: 5.15.0-91-generic"));
        assert!(problem(&Found { btf: false, ..good() }, &options).contains(BTF));
        assert!(problem(&Found { nft: None, ..good() }, &options).contains("apt-get install nftables"));
        assert!(
            problem(&Found { agent: false, ..good() }, &options).contains("the program ringfence-agent is missing")
        );
        let taken = Options { api_port: Some(7000), ..options };
        assert!(problem(&Found { port_is_free: false, ..good() }, &taken).contains("port 7000"));
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let bad = Found { kernel: "4.19.0".into(), btf: false, nft: None, port_is_free: false, agent: false };
        assert_eq!(bad.problems(&Options { api_port: Some(7000), ..Options::default() }).len(), 5);
        // Without agents no program goes into the kernel.
        assert_eq!(bad.problems(&Options { agents: false, ..Options::default() }).len(), 1);
    }

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert!(version("5.15.0-91-generic").unwrap() < KERNEL);
        assert!(version("6.10.0").unwrap() > KERNEL);
        assert_eq!(version("strange"), None);
    }

    #[test]
    fn programs_are_found_by_the_search_path() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("nft"), "").unwrap();
        let path = std::env::join_paths([Path::new("/nonexistent"), directory.path()]).unwrap();
        assert_eq!(find_program("nft", &path), Some(directory.path().join("nft")));
        assert_eq!(find_program("nft", OsStr::new("/nonexistent")), None);
    }
}
