//! Programs and images of a cluster, made once for all clusters and work trees of a user.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use xshell::{Shell, cmd};

use super::images;
use crate::setup;

/// Where the Go modules are, from the root of the project.
const MODULES: &str = "xtask/cluster";
/// The module that names the version of Kubernetes.
const KUBERNETES: &str = include_str!("../../cluster/kubernetes/go.mod");
/// The module that names the version of CoreDNS.
const COREDNS: &str = include_str!("../../cluster/coredns/go.mod");

/// What was built.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// A program of Kubernetes, or `registry`.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join("bin").join(name)
    }

    /// The archive of all images.
    pub(super) fn images(&self) -> PathBuf {
        self.directory.join("images.tar")
    }

    /// The same images as a directory, which the registry serves.
    pub(super) fn layout(&self) -> PathBuf {
        self.directory.join("images")
    }

    /// Says that all of it is there.
    fn mark(&self) -> PathBuf {
        self.directory.join("complete")
    }
}

/// What is built, or will be.
///
/// Outside of `target/`: it takes a quarter of an hour to make, and is the same for all checkouts.
pub(super) fn find() -> anyhow::Result<Programs> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = cache.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")?;
    let version = format!(
        "{}-{}",
        version_of(KUBERNETES, "k8s.io/kubernetes")?,
        version_of(COREDNS, "github.com/coredns/coredns")?
    );
    Ok(Programs { directory: cache.join("ringfence/cluster").join(version) })
}

/// Whether a cluster can be started without building its programs first.
pub(crate) fn are_built() -> bool {
    find().is_ok_and(|programs| programs.mark().exists())
}

/// Builds what is not built yet, and installs the packages that a cluster needs.
pub(super) fn build(sh: &Shell) -> anyhow::Result<Programs> {
    setup::cluster(sh)?;
    let programs = find()?;
    if programs.mark().exists() {
        return Ok(programs);
    }
    if !setup::has_program(sh, "go") {
        bail!("go is not installed\nhint: Kubernetes is built from Go modules and needs Go 1.25 or newer");
    }
    let bin = programs.directory.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    println!("Building Kubernetes and CoreDNS into {} (15 minutes on two cores).", programs.directory.display());
    let version = version_of(KUBERNETES, "k8s.io/kubernetes")?;
    let [major, minor] = numbers(version)?;
    // What kubelets and API servers say they are.
    let package = "k8s.io/component-base/version";
    let told = format!("-X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}");
    let _static = sh.push_env("CGO_ENABLED", "0");
    for (module, what, flags) in [("kubernetes", "tool", told.as_str()), ("coredns", "tool", ""), ("registry", ".", "")]
    {
        let folder = format!("{MODULES}/{module}");
        let flags = format!("-s -w {flags}");
        cmd!(sh, "go -C {folder} build -buildvcs=false -trimpath -ldflags {flags} -o {bin}/ {what}")
            .run()
            .with_context(|| format!("{module} cannot be built"))?;
    }
    images::make(sh, &programs)?;
    fs::write(programs.mark(), "").with_context(|| format!("cannot write {}", programs.mark().display()))?;
    Ok(programs)
}

/// The version of a module that a `go.mod` requires.
fn version_of<'a>(text: &'a str, module: &str) -> anyhow::Result<&'a str> {
    let lines = text.lines().map(|line| line.trim().trim_start_matches("require "));
    let mut words = lines.map(|line| line.split(' '));
    let version = words.find_map(|mut words| if words.next() == Some(module) { words.next() } else { None });
    version.filter(|version| version.starts_with('v')).with_context(|| format!("no version of {module} is required"))
}

/// Major and minor version.
fn numbers(version: &str) -> anyhow::Result<[&str; 2]> {
    let mut parts = version.trim_start_matches('v').split('.');
    parts.next().zip(parts.next()).map(Into::into).with_context(|| format!("{version} is no version"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_modules() {
        let text = "module x\n\nrequire (\n\tk8s.io/kubernetes v1.2.3 // indirect\n)\nrequire a.b/c v0.4.0\n";
        assert_eq!(version_of(text, "k8s.io/kubernetes").unwrap(), "v1.2.3");
        assert_eq!(version_of(text, "a.b/c").unwrap(), "v0.4.0");
        assert!(version_of(text, "k8s.io/kube").is_err());
        assert_eq!(numbers("v1.34.4").unwrap(), ["1", "34"]);
        assert!(find().is_ok(), "both modules name a version");
    }
}
