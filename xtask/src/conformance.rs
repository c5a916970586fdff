//! `conformance`: runs the suites of `sigs.k8s.io/network-policy-api` against a cluster, and writes their reports.

mod suites;
mod transcript;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use xshell::{Shell, cmd};

use crate::{demo, setup};
use suites::{SUITES, Suite};
use transcript::{Outcome, Transcript};

/// Longest time one suite may take.
const LIMIT: &str = "60m";

/// The cluster, and the suites.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kubeconfig of a cluster whose nodes all run the agent.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Only this suite: `cluster` or `admin`.
    #[arg(long, value_name = "NAME")]
    suite: Option<String>,
    /// Directory of reports and logs.
    #[arg(long, value_name = "DIR", default_value = "target/conformance")]
    reports: PathBuf,
    /// The speaker of SCTP in the pods of the suites.
    #[arg(long, value_enum, default_value_t = Sctp::Kernel)]
    sctp: Sctp,
    /// The API runs commands over WebSocket only, as a lab's does.
    #[arg(long)]
    websocket: bool,
    /// Address of this project, for the reports.
    #[arg(long, default_value = "")]
    url: String,
}

/// The speaker of SCTP in the pods of the suites.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sctp {
    /// Sockets of the nodes' kernel, as upstream has it
    Kernel,
    /// A small program over raw sockets, for kernels without SCTP
    StandIn,
    /// Nobody: the tests that need it are left out, by name
    Nobody,
}

/// Runs the suites; fails if a test does.
pub(crate) fn run(sh: &Shell, options: &Options) -> anyhow::Result<ExitCode> {
    if !setup::has_program(sh, "go") {
        bail!("go is not installed\nhint: the suites are Go modules and need Go 1.25 or newer");
    }
    setup::run(sh)?;
    let chosen: Vec<&Suite> =
        SUITES.iter().filter(|suite| options.suite.as_ref().is_none_or(|name| name == suite.name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = SUITES.iter().map(|suite| suite.name).collect();
        bail!("there is no such suite\nhint: there are {}", names.join(" and "));
    }
    sh.create_dir(&options.reports)?;
    define(sh, &options.kubeconfig)?;
    let trial = Trial { sh, options, reports: sh.current_dir().join(&options.reports) };
    let mut failed = 0;
    for suite in chosen {
        failed += trial.run(suite)?.count(Outcome::Failed);
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes the kinds known to the cluster, with all their fields.
fn define(sh: &Shell, kubeconfig: &Path) -> anyhow::Result<()> {
    cmd!(sh, "cargo build --release --locked --package ringfence").run()?;
    let ringfence = demo::binary(sh, "release", "ringfence")?;
    cmd!(sh, "{ringfence} crds install --channel experimental --admin --kubeconfig {kubeconfig}").run()?;
    Ok(())
}

/// One run of the chore.
struct Trial<'a> {
    sh: &'a Shell,
    options: &'a Options,
    reports: PathBuf,
}

impl Trial<'_> {
    fn run(&self, suite: &Suite) -> anyhow::Result<Transcript> {
        println!("{}: {} {}", suite.name, suite.kinds, suite.version);
        let transcript = self.test(suite)?;
        if self.options.sctp == Sctp::Nobody {
            for test in suite.sctp {
                println!("  left out {test}: the nodes' kernel has no SCTP sockets");
            }
        }
        println!(
            "{}: {} passed, {} failed, {} skipped",
            suite.name,
            transcript.count(Outcome::Passed),
            transcript.count(Outcome::Failed),
            transcript.count(Outcome::Skipped),
        );
        Ok(transcript)
    }

    /// Builds and runs the suite, says how each test ended, and keeps everything it said.
    fn test(&self, suite: &Suite) -> anyhow::Result<Transcript> {
        let report = self.reports.join(format!("{}.yaml", suite.name));
        let log_path = self.reports.join(format!("{}.log", suite.name));
        let mut log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
        let mut command = Command::new("go");
        command.arg("-C").arg(self.sh.current_dir().join(suite.folder()));
        command.args(["test", "-v", "-count=1", "-timeout", LIMIT, ".", "-args"]);
        command.arg("-cluster").arg(self.sh.current_dir().join(&self.options.kubeconfig));
        command.arg("-report").arg(&report).args(["-features", &suite.features.join(",")]);
        command.args(["-implementation-version", env!("CARGO_PKG_VERSION"), "-implementation-url", &self.options.url]);
        if self.options.websocket {
            command.arg("-websocket");
        }
        match self.options.sctp {
            Sctp::Kernel => {}
            Sctp::StandIn => drop(command.args(["-sctp", "stand-in", "-stand-in"]).arg(self.stand_in()?)),
            Sctp::Nobody => drop(command.args(["-sctp", "nobody", "-leave-out", &suite.sctp.join(",")])),
        }
        let mut child = command.stdout(Stdio::piped()).spawn().context("go could not be started")?;
        let output = child.stdout.take().context("go has no output")?;
        let left_out = if self.options.sctp == Sctp::Nobody { suite.sctp } else { &[] };
        let mut transcript = Transcript::leaving_out(left_out);
        for line in BufReader::new(output).lines() {
            let line = line?;
            writeln!(log, "{line}")?;
            if let Some(told) = transcript.read(&line) {
                println!("  {told}");
            }
        }
        if !child.wait()?.success() && transcript.count(Outcome::Failed) == 0 {
            bail!("the suite could not be run\nhint: {} has what it said", log_path.display());
        }
        Ok(transcript)
    }

    /// Builds the program that speaks SCTP; it must run in any image.
    fn stand_in(&self) -> anyhow::Result<PathBuf> {
        let sh = self.sh;
        let program = self.reports.join("agnhost");
        let folder = Path::new(suites::FOLDER).join("sctp");
        cmd!(sh, "go -C {folder} test .").quiet().ignore_stdout().run()?;
        let _static = sh.push_env("CGO_ENABLED", "0");
        cmd!(sh, "go -C {folder} build -trimpath -o {program} .").quiet().run()?;
        Ok(program)
    }
}
