//! `lint`: formatting and clippy, as CI wants them.

use std::path::PathBuf;
use std::process::ExitCode;

use xshell::{Shell, cmd};

use crate::setup;

/// Fails on a file that is not formatted and on any warning.
pub(crate) fn run(sh: &Shell) -> anyhow::Result<ExitCode> {
    setup::run(sh)?;
    cmd!(sh, "cargo fmt --all --check").run()?;
    cmd!(sh, "cargo clippy --workspace --all-targets --locked --quiet -- -D warnings").run()?;
    format_c(sh)?;
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
