//! `demo`: builds Ringfence and takes the tour.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail};
use xshell::{Shell, cmd};

use crate::setup;

const BEGIN: &str = "<!-- transcript: cargo xtask demo --update-readme -->";
const END: &str = "<!-- end of transcript -->";

/// How to take the tour.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Put the transcript of this run into README.md.
    #[arg(long)]
    update_readme: bool,
    /// What else `ringfence lab demo` shall be told.
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Builds the release binary and runs the tour; its exit code is ours.
pub(crate) fn run(sh: &Shell, options: &Options) -> anyhow::Result<ExitCode> {
    setup::run(sh)?;
    cmd!(sh, "cargo build --release --locked --package ringfence").run()?;
    let mut demo = Command::new(binary(sh, "release")?);
    demo.args(["lab", "demo"]).args(&options.rest).current_dir(sh.current_dir());
    if !options.update_readme {
        let status = demo.status().context("ringfence lab demo could not be started")?;
        return Ok(exit_code(status.code()));
    }
    let output = demo.env("NO_COLOR", "1").stderr(Stdio::inherit()).output().context("ringfence lab demo")?;
    let transcript = String::from_utf8_lossy(&output.stdout);
    print!("{transcript}");
    if output.status.success() {
        let readme = sh.read_file("README.md")?;
        sh.write_file("README.md", with_transcript(&readme, &transcript)?)?;
    }
    Ok(exit_code(output.status.code()))
}

/// Path of the built `ringfence`.
pub(crate) fn binary(sh: &Shell, profile: &str) -> anyhow::Result<std::path::PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new().current_dir(sh.current_dir()).no_deps().exec()?;
    Ok(metadata.target_directory.join(profile).join("ringfence").into_std_path_buf())
}

/// The exit code of a child as ours; death by a signal is a failure.
fn exit_code(code: Option<i32>) -> ExitCode {
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// The document with what is between the two marks replaced.
fn with_transcript(readme: &str, transcript: &str) -> anyhow::Result<String> {
    let (Some(begin), Some(end)) = (readme.find(BEGIN), readme.find(END)) else {
        bail!("README.md lacks the marks {BEGIN} and {END}");
    };
    if end < begin {
        bail!("the marks in README.md are in the wrong order");
    }
    let lines: Vec<&str> = transcript.trim_end().lines().map(str::trim_end).collect();
    let (head, tail) = (&readme[..begin], &readme[end..]);
    Ok(format!("{head}{BEGIN}\n```console\n{}\n```\n{tail}", lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transcript_replaces_what_was_between_the_marks() {
        let readme = format!("head\n{BEGIN}\nold\n{END}\ntail\n");
        let new = with_transcript(&readme, "one  \ntwo\n\n").unwrap();
        assert_eq!(new, format!("head\n{BEGIN}\n```console\none\ntwo\n```\n{END}\ntail\n"));
        assert_eq!(with_transcript(&new, "one\ntwo").unwrap(), new);
        assert!(with_transcript("no marks", "x").is_err());
    }
}
