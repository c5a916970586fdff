//! `ringfence verify`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use ringfence_console::exit::Code;
use ringfence_console::output;
use ringfence_install::verify;

use crate::cluster::{Target, block_on, duration};

/// `ringfence verify`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Image of the pods that talk to each other
    #[arg(long, value_name = "NAME:TAG", default_value = verify::IMAGE)]
    image: String,
    /// Only cases whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Write the result in JUnit's form too
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// The time that pods may take to start
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "3m")]
    timeout: Duration,
    /// Remove what earlier runs left, and do nothing else
    #[arg(long)]
    clean_up: bool,
}

/// Tries; negative if a case failed.
pub(crate) fn run(args: &Args) -> anyhow::Result<Code> {
    block_on(async {
        let client = args.target.client().await?;
        if args.clean_up {
            verify::clean_up(&client).await?;
            return Ok(Code::Ok);
        }
        let options = verify::Options { image: args.image.clone(), filter: args.only.clone(), patience: args.timeout };
        let report = verify::run(&client, &options, &output::remark).await?;
        if let Some(path) = &args.junit {
            std::fs::write(path, report.junit()).with_context(|| format!("cannot write {}", path.display()))?;
        }
        output::line(&report.summary())?;
        Ok(if report.passed() { Code::Ok } else { Code::Negative })
    })
}
