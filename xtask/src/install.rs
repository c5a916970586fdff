//! `install`: the programs on the `PATH`, built from these sources.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use xshell::{Shell, cmd};

use crate::{demo, setup};

/// Where to.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Directory to put them in [default: where cargo puts programs].
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

/// Builds the programs in release and copies them.
pub(crate) fn run(sh: &Shell, options: &Options) -> anyhow::Result<ExitCode> {
    setup::run(sh)?;
    let packages = demo::PROGRAMS;
    cmd!(sh, "cargo build --release --locked {packages...}").run()?;
    let to = options.to.clone().map_or_else(programs_of_cargo, Ok)?;
    sh.create_dir(&to)?;
    for program in demo::names() {
        let place = to.join(program);
        // Whoever runs the one that is there goes on with it.
        let fresh = place.with_extension("new");
        sh.copy_file(demo::binary(sh, "release", program)?, &fresh)?;
        std::fs::rename(&fresh, &place).with_context(|| format!("cannot write {}", place.display()))?;
        println!("{}", place.display());
    }
    if !is_on_path(&to) {
        println!("hint: {} is not on the PATH", to.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Where `cargo install` puts programs.
fn programs_of_cargo() -> anyhow::Result<PathBuf> {
    let own = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    Ok(own.or_else(home).context("neither CARGO_HOME nor HOME is set\nhint: --to DIR")?.join("bin"))
}

fn is_on_path(folder: &Path) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|entry| entry == folder)
}
