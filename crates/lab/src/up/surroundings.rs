//! Whether this machine can carry a lab; if not, one message that says what to do.

use std::net::TcpListener;
use std::path::Path;

use anyhow::bail;

use super::Options;

/// Oldest kernel whose netfilter takes BPF programs.
const KERNEL: (u32, u32) = (6, 4);

/// Checks what can be checked before anything is made.
pub(super) fn check(options: &Options) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "a lab needs root: it makes network namespaces and loads programs into the kernel\nhint: sudo ringfence lab up"
        );
    }
    let release = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
    if options.agents {
        if version(&release).is_some_and(|found| found < KERNEL) {
            bail!(
                "the kernel is too old: {release}; network policy needs {}.{} or newer (BPF in netfilter)\n\
                 hint: install a newer kernel (Debian: from backports; Ubuntu: linux-generic-hwe), or run a virtual machine",
                KERNEL.0,
                KERNEL.1
            );
        }
        if !Path::new("/sys/kernel/btf/vmlinux").exists() {
            bail!(
                "the kernel does not describe its types: /sys/kernel/btf/vmlinux is missing\n\
                 hint: use a distribution's kernel, or build one with CONFIG_DEBUG_INFO_BTF=y"
            );
        }
    }
    if find_program("nft").is_none() {
        bail!("the program nft is missing: Services are nftables rules\nhint: apt-get install nftables");
    }
    if let Some(port) = options.api_port
        && TcpListener::bind(("127.0.0.1", port)).is_err()
    {
        bail!("port {port} of 127.0.0.1 is in use\nhint: leave --api-port out and a free one is taken");
    }
    Ok(())
}

/// Major and minor version of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Path of a program, where a shell would find it or an administrator's shell would.
fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert!(version("5.15.0-91-generic").unwrap() < KERNEL);
        assert!(version("6.10.0").unwrap() > KERNEL);
        assert_eq!(version("strange"), None);
    }
}
