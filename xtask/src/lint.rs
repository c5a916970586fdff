//! `lint`: formatting, clippy, licences and sources of dependencies, workflows, as CI wants them.

use std::path::PathBuf;
use std::process::ExitCode;

use xshell::{Shell, cmd};

use crate::{setup, tools};

/// What to check.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only whether dependencies have known vulnerabilities; their database is fetched from the internet.
    #[arg(long)]
    advisories: bool,
}

/// Fails on a file that is not formatted and on any warning.
pub(crate) fn run(sh: &Shell, options: &Options) -> anyhow::Result<ExitCode> {
    if options.advisories {
        let deny = tools::cargo_deny(sh)?;
        cmd!(sh, "{deny} check advisories").run()?;
        return Ok(ExitCode::SUCCESS);
    }
    setup::run(sh)?;
    cmd!(sh, "cargo fmt --all --check").run()?;
    cmd!(sh, "cargo clippy --workspace --all-targets --locked --quiet -- -D warnings").run()?;
    format_c(sh)?;
    deny(sh)?;
    workflows(sh)?;
    println!("lint: all well");
    Ok(ExitCode::SUCCESS)
}

/// Checks the formatting of the C sources, where clang-format is installed.
fn format_c(sh: &Shell) -> anyhow::Result<()> {
    let Some(clang_format) = setup::newest_llvm(sh, "clang-format") else {
        println!("lint: the C sources are not checked, clang-format is not installed");
        return Ok(());
    };
    let listed = cmd!(sh, "git ls-files *.c *.h").quiet().read()?;
    let files: Vec<PathBuf> = listed.lines().filter(|path| !path.ends_with("vmlinux.h")).map(PathBuf::from).collect();
    if !files.is_empty() {
        cmd!(sh, "{clang_format} --dry-run -Werror {files...}").run()?;
    }
    Ok(())
}

/// Checks licences, bans and sources of all dependencies. Advisories are for the release: their database is elsewhere.
fn deny(sh: &Shell) -> anyhow::Result<()> {
    let deny = tools::cargo_deny(sh)?;
    cmd!(sh, "{deny} --log-level error check --hide-inclusion-graph bans licenses sources").run()?;
    Ok(())
}

/// Checks the workflows, where there is Go to build what checks them.
fn workflows(sh: &Shell) -> anyhow::Result<()> {
    if !setup::has_program(sh, "go") {
        println!("lint: the workflows are not checked, go is not installed");
        return Ok(());
    }
    let actionlint = tools::actionlint(sh)?;
    cmd!(sh, "{actionlint} -shellcheck= -pyflakes=").run()?;
    Ok(())
}
