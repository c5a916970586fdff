//! Tools that chores need and no distribution has at hand: built once, below `target/tools`.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use xshell::{Shell, cmd};

use crate::setup;

/// Checks licences, bans, sources and advisories of crates.
const CARGO_DENY: &str = "0.20.2";
/// Lists the crates that are built in, as a software bill of materials.
const CARGO_CYCLONEDX: &str = "0.5.9";
/// Packs the chart.
const HELM: &str = "helm.sh/helm/v3/cmd/helm@v3.22.0";
/// Checks workflows.
const ACTIONLINT: &str = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12";

/// `cargo deny`.
pub(crate) fn cargo_deny(sh: &Shell) -> anyhow::Result<PathBuf> {
    cargo(sh, "cargo-deny", CARGO_DENY)
}

/// `actionlint`.
pub(crate) fn actionlint(sh: &Shell) -> anyhow::Result<PathBuf> {
    go(sh, "actionlint", ACTIONLINT)
}

/// `helm`.
pub(crate) fn helm(sh: &Shell) -> anyhow::Result<PathBuf> {
    go(sh, "helm", HELM)
}

/// `cargo cyclonedx`.
pub(crate) fn cargo_cyclonedx(sh: &Shell) -> anyhow::Result<PathBuf> {
    cargo(sh, "cargo-cyclonedx", CARGO_CYCLONEDX)
}

fn cargo(sh: &Shell, name: &str, version: &str) -> anyhow::Result<PathBuf> {
    let folder = folder(sh)?.join(format!("{name}-{version}"));
    let program = folder.join("bin").join(name);
    if !sh.path_exists(&program) {
        println!("Building {name} {version} into {}.", folder.display());
        // A debug build: it runs for a second and is built for minutes.
        cmd!(sh, "cargo install --quiet --debug --locked --root {folder} --version {version} {name}")
            .run()
            .with_context(|| format!("{name} cannot be built"))?;
    }
    Ok(program)
}

fn go(sh: &Shell, name: &str, module: &str) -> anyhow::Result<PathBuf> {
    let folder = folder(sh)?;
    let program = folder.join(name);
    if !sh.path_exists(&program) {
        if !setup::has_program(sh, "go") {
            bail!("go is not installed\nhint: {name} is a Go module and needs Go 1.25 or newer");
        }
        let _place = sh.push_env("GOBIN", &folder);
        cmd!(sh, "go install {module}").run().with_context(|| format!("{name} cannot be built"))?;
    }
    Ok(program)
}

/// Where they are.
fn folder(sh: &Shell) -> anyhow::Result<PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new().current_dir(sh.current_dir()).no_deps().exec()?;
    Ok(metadata.target_directory.join("tools").into_std_path_buf())
}
