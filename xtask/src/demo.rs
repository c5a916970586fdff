//! `demo`: builds Ringfence and takes the tour.

use std::process::{Command, ExitCode, Stdio};

use anyhow::Context as _;
use xshell::{Shell, cmd};

use crate::{marks, setup};

const DOCUMENT: &str = "docs/tour.md";
const MARKS: (&str, &str) = ("<!-- transcript: cargo xtask demo --update -->", "<!-- end of transcript -->");

/// The packages of the programs that a lab needs.
pub(crate) const PROGRAMS: &[&str] = &[
    "--package",
    "ringfence",
    "--package",
    "ringfence-lab",
    "--package",
    "ringfence-agent",
    "--package",
    "ringfence-cni",
];

/// The names of these programs.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    PROGRAMS.iter().copied().filter(|word| *word != "--package")
}

/// How to take the tour.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Put the transcript of this run into docs/tour.md.
    #[arg(long)]
    update: bool,
    /// What else `ringfence lab demo` shall be told.
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Builds the release binary and runs the tour; its exit code is ours.
pub(crate) fn run(sh: &Shell, options: &Options) -> anyhow::Result<ExitCode> {
    setup::run(sh)?;
    cmd!(sh, "cargo build --release --locked {PROGRAMS...}").run()?;
    let mut demo = Command::new(binary(sh, "release", "ringfence")?);
    demo.args(["lab", "demo"]).args(&options.rest).current_dir(sh.current_dir());
    if !options.update {
        let status = demo.status().context("ringfence lab demo could not be started")?;
        return Ok(exit_code(status.code()));
    }
    let output = demo.env("NO_COLOR", "1").stderr(Stdio::inherit()).output().context("ringfence lab demo")?;
    let transcript = String::from_utf8_lossy(&output.stdout);
    print!("{transcript}");
    if output.status.success() {
        let document = sh.read_file(DOCUMENT)?;
        let block = format!("```console\n{}\n```", transcript.trim());
        sh.write_file(DOCUMENT, marks::replace(&document, MARKS, &block)?)?;
    }
    Ok(exit_code(output.status.code()))
}

/// Path of a built program.
pub(crate) fn binary(sh: &Shell, profile: &str, name: &str) -> anyhow::Result<std::path::PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new().current_dir(sh.current_dir()).no_deps().exec()?;
    Ok(metadata.target_directory.join(profile).join(name).into_std_path_buf())
}

/// The exit code of a child as ours; death by a signal is a failure.
fn exit_code(code: Option<i32>) -> ExitCode {
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}
