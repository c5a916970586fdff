//! Programs and libraries that a build and a lab need, and their installation where there is apt.

use anyhow::{Context as _, bail};
use xshell::{Shell, cmd};

/// Something the machine must have.
struct Need {
    /// Its name in messages.
    name: &'static str,
    /// True if it is there.
    there: fn(&Shell) -> bool,
    /// Debian packages that bring it, best first.
    packages: &'static [&'static str],
}

/// Everything a build and a lab need. Debian's nginx is not among it: it would start a service, and the lab does
/// without.
const NEEDS: &[Need] = &[
    Need {
        name: "clang (14 or newer)",
        there: has_clang,
        packages: &["clang-19", "clang-18", "clang-17", "clang-16", "clang-15", "clang-14", "clang"],
    },
    Need { name: "gcc", there: |sh| has_program(sh, "cc"), packages: &["gcc"] },
    Need { name: "make", there: |sh| has_program(sh, "make"), packages: &["make"] },
    Need { name: "pkg-config", there: |sh| has_program(sh, "pkg-config"), packages: &["pkg-config"] },
    Need {
        name: "libelf and its headers",
        there: |sh| has_library(sh, "libelf", "libelf.h"),
        packages: &["libelf-dev"],
    },
    Need { name: "zlib and its headers", there: |sh| has_library(sh, "zlib", "zlib.h"), packages: &["zlib1g-dev"] },
    Need { name: "nft", there: |sh| has_program(sh, "nft"), packages: &["nftables"] },
    Need { name: "ip", there: |sh| has_program(sh, "ip"), packages: &["iproute2"] },
    Need { name: "curl", there: |sh| has_program(sh, "curl"), packages: &["curl"] },
    Need {
        name: "certificates of the public authorities",
        there: |sh| sh.path_exists("/etc/ssl/certs/ca-certificates.crt") || !has_program(sh, "apt-get"),
        packages: &["ca-certificates"],
    },
];

/// Further needs of tests of the network plugin and of container images.
const PLUGINS: &[Need] = &[Need {
    name: "the standard network plugins",
    there: |sh| sh.path_exists("/usr/lib/cni/ptp"),
    packages: &["containernetworking-plugins"],
}];

/// What a cluster of processes of this machine needs besides.
const CLUSTER: &[Need] = &[
    Need { name: "etcd", there: |sh| has_program(sh, "etcd"), packages: &["etcd-server"] },
    Need { name: "containerd", there: |sh| has_program(sh, "containerd"), packages: &["containerd"] },
    Need { name: "runc", there: |sh| has_program(sh, "runc"), packages: &["runc"] },
    Need { name: "iptables", there: |sh| has_program(sh, "iptables"), packages: &["iptables"] },
    Need { name: "sysctl", there: |sh| has_program(sh, "sysctl"), packages: &["procps"] },
    Need { name: "openssl", there: |sh| has_program(sh, "openssl"), packages: &["openssl"] },
    Need { name: "mmdebstrap", there: |sh| has_program(sh, "mmdebstrap"), packages: &["mmdebstrap"] },
];

/// Installs what is missing, saying so; names it and stops where that is not possible.
pub(crate) fn run(sh: &Shell) -> anyhow::Result<()> {
    provide(sh, NEEDS.iter())
}

/// The same with what tests need besides.
pub(crate) fn run_for_tests(sh: &Shell) -> anyhow::Result<()> {
    provide(sh, NEEDS.iter().chain(PLUGINS))?;
    promtool(sh)
}

/// Directory of programs that are unpacked and not installed, from the root of the repository.
pub(crate) const TOOLS: &str = "target/tools/usr/bin";

/// Prometheus' linter. Debian's package would start a service, so its files are only unpacked.
fn promtool(sh: &Shell) -> anyhow::Result<()> {
    if has_program(sh, "promtool") || sh.path_exists(format!("{TOOLS}/promtool")) || !has_program(sh, "apt-get") {
        return Ok(());
    }
    println!("This machine lacks promtool: unpacking Debian's package prometheus into target/tools.");
    sh.create_dir("target/tools")?;
    let _tools = sh.push_dir("target/tools");
    let download = || cmd!(sh, "apt-get download -q prometheus").ignore_stderr().run();
    if download().is_err() && is_root(sh) {
        cmd!(sh, "apt-get update -q").run().context("apt-get update failed")?;
        download().context("apt-get could not download prometheus")?;
    }
    let archives = sh.read_dir(".")?;
    let archive = archives.iter().find(|path| path.extension().is_some_and(|end| end == "deb"));
    let archive = archive.context("apt-get downloaded no package prometheus")?;
    cmd!(sh, "dpkg-deb --extract {archive} .").run()?;
    Ok(sh.remove_path(archive)?)
}

/// The same for what a container image is made of.
pub(crate) fn image(sh: &Shell) -> anyhow::Result<()> {
    provide(sh, PLUGINS.iter())
}

/// The same for a cluster of processes of this machine.
pub(crate) fn cluster(sh: &Shell) -> anyhow::Result<()> {
    provide(sh, PLUGINS.iter().chain(CLUSTER))
}

fn provide<'a>(sh: &Shell, needs: impl Iterator<Item = &'a Need>) -> anyhow::Result<()> {
    let missing: Vec<&Need> = needs.filter(|need| !(need.there)(sh)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|need| need.name).collect::<Vec<_>>().join(", ");
    if !has_program(sh, "apt-get") {
        bail!("this machine lacks {names}\nhint: install them with the package manager of this system, then try again");
    }
    install(sh, &missing, &names)?;
    let still: Vec<&str> = missing.iter().filter(|need| !(need.there)(sh)).map(|need| need.name).collect();
    if !still.is_empty() {
        bail!("apt-get succeeded, but this machine still lacks {}", still.join(", "));
    }
    Ok(())
}

fn install(sh: &Shell, missing: &[&Need], names: &str) -> anyhow::Result<()> {
    println!("This machine lacks {names}: installing with apt.");
    let become_root = if is_root(sh) { "env" } else { "sudo" };
    if !has_program(sh, become_root) {
        bail!("installing {names} needs root\nhint: run this as root");
    }
    let env = "DEBIAN_FRONTEND=noninteractive";
    cmd!(sh, "{become_root} {env} apt-get update -q").run().context("apt-get update failed")?;
    let packages: Vec<&str> = missing.iter().map(|need| available(sh, need.packages)).collect();
    let named = packages.join(" ");
    cmd!(sh, "{become_root} {env} apt-get install -q -y --no-install-recommends {packages...}")
        .run()
        .with_context(|| format!("apt could not install {named}"))
}

/// The first package apt knows; the last if it knows none, so that apt itself says what is wrong.
fn available<'a>(sh: &Shell, packages: &'a [&'a str]) -> &'a str {
    let known = |name: &&&str| {
        let name = **name;
        cmd!(sh, "apt-cache show --no-all-versions {name}").quiet().ignore_stderr().ignore_stdout().run().is_ok()
    };
    packages.iter().find(known).or_else(|| packages.last()).copied().unwrap_or_default()
}

/// True if this process is root.
pub(crate) fn is_root(sh: &Shell) -> bool {
    cmd!(sh, "id -u").quiet().read().is_ok_and(|uid| uid == "0")
}

/// True if a program is found.
pub(crate) fn has_program(sh: &Shell, name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path).chain(system).any(|folder| sh.path_exists(folder.join(name)))
}

/// The newest program of LLVM that is here: `clang-19` before `clang-18`, and so on, then the plain name.
pub(crate) fn newest_llvm(sh: &Shell, tool: &str) -> Option<String> {
    let numbered = (14..40).rev().map(|version| format!("{tool}-{version}"));
    numbered.chain([tool.to_owned()]).find(|name| has_program(sh, name))
}

fn has_clang(sh: &Shell) -> bool {
    let Some(clang) = newest_llvm(sh, "clang") else { return false };
    let Ok(version) = cmd!(sh, "{clang} -dumpversion").quiet().read() else { return false };
    version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= 14)
}

fn has_library(sh: &Shell, name: &str, header: &str) -> bool {
    cmd!(sh, "pkg-config --exists {name}").quiet().ignore_stderr().run().is_ok()
        || ["/usr/include", "/usr/local/include"].iter().any(|folder| sh.path_exists(format!("{folder}/{header}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_or_not() {
        let sh = Shell::new().unwrap();
        assert!(has_program(&sh, "sh"));
        assert!(!has_program(&sh, "no-such-program-anywhere"));
        assert_eq!(newest_llvm(&sh, "no-such-tool"), None);
    }

    #[test]
    fn every_need_names_a_package() {
        for need in NEEDS.iter().chain(PLUGINS).chain(CLUSTER) {
            assert!(!need.packages.is_empty(), "{} cannot be installed", need.name);
            assert!(!need.packages.contains(&"nginx"), "nginx would start a service");
        }
    }
}
