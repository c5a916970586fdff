//! `e2e`: tries Ringfence on a cluster as its users meet it, from installing to uninstalling, or under faults.

pub(crate) mod cluster;
pub(crate) mod steps;
mod table;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use clap::ValueEnum;
use xshell::{Shell, cmd};

use crate::cluster::Shape;
use crate::{demo, image, marks, setup};
use cluster::Cluster;
use steps::Steps;

const DOCUMENT: &str = "docs/reliability.md";
const MARKS: (&str, &str) = ("<!-- results: cargo xtask e2e --faults -->", "<!-- end of results -->");

/// The cluster, and the trial.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A cluster that is there [default: one is started, with kind or of processes of this machine, and removed].
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Try a lab, in which nothing is to be installed.
    #[arg(long, conflicts_with_all = ["faults", "image"])]
    lab: bool,
    /// Archive of the image to try [default: it is built].
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Build and try the debug program: quicker, and for clusters on this machine only.
    #[arg(long)]
    debug: bool,
    /// Try faults under steady probes, and write their rows into the table of docs/reliability.md.
    #[arg(long)]
    faults: bool,
    /// Try these faults only; the other rows stay as they are [default: all].
    #[arg(long, value_delimiter = ',', value_name = "NAME", requires = "faults")]
    only: Vec<String>,
    /// Extent of the trial.
    #[arg(long, value_enum, default_value_t = Part::All)]
    part: Part,
    #[command(flatten)]
    shape: Shape,
    /// Further arguments of `ringfence-e2e faults`. The document is left alone then.
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Extent of the trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Everything
    All,
    /// A part that fits into five minutes; where no cluster can be had, the reason is told, and that is no failure
    Ci,
}

/// Programs of one build.
struct Programs {
    ringfence: PathBuf,
    agent: PathBuf,
    e2e: PathBuf,
}

/// Tries it; the exit code says whether all was well.
pub(crate) fn run(sh: &Shell, options: &Options) -> anyhow::Result<ExitCode> {
    setup::run(sh)?;
    let wanted =
        cluster::choose(sh, options.kubeconfig.as_deref(), options.lab, &options.shape, options.part == Part::All);
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(error) if options.part == Part::Ci => {
            println!("skipped: {error:#}");
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => return Err(error),
    };
    let mut steps = Steps::listening()?;
    let built = steps.take("build", || {
        let programs = build(sh, options)?;
        Ok((images(sh, options, &programs)?, programs))
    });
    let Some((images, programs)) = built else { return Ok(steps.code()) };
    let started = steps.take("cluster", || Cluster::start(sh, wanted, &options.shape, &programs.ringfence));
    let Some(cluster) = started else { return Ok(steps.code()) };
    let mut trial = Trial { sh, options, cluster: &cluster, programs: &programs, steps: &mut steps };
    if let Err(error) = trial.run(&images) {
        if !steps.interrupted() {
            println!("FAILED {error:#}");
        }
        steps.failed = true;
    }
    // Also after a failure, and when interrupted.
    steps.last("end", || cluster.stop());
    Ok(steps.code())
}

fn build(sh: &Shell, options: &Options) -> anyhow::Result<Programs> {
    let profile = if options.debug { "debug" } else { "release" };
    if options.debug {
        // As the tests build it, so that nothing is compiled twice.
        cmd!(sh, "cargo build --quiet --locked --workspace").run()?;
    } else {
        let programs = demo::PROGRAMS;
        cmd!(sh, "cargo build --release --locked {programs...} --package ringfence-e2e").run()?;
    }
    // Copies: another version is built beside them.
    let copy = |name: &str| -> anyhow::Result<PathBuf> {
        let to = sh.current_dir().join("target/e2e").join(name);
        sh.create_dir("target/e2e")?;
        sh.copy_file(demo::binary(sh, profile, name)?, &to)?;
        Ok(to)
    };
    // The command finds the lab's program beside it, and the lab the agent's; images take the plugin from there.
    copy("ringfence-cni")?;
    copy("ringfence-lab")?;
    Ok(Programs { ringfence: copy("ringfence")?, agent: copy("ringfence-agent")?, e2e: copy("ringfence-e2e")? })
}

/// Archives to put on the nodes: the version tried, and for faults one with another layout.
fn images(sh: &Shell, options: &Options, programs: &Programs) -> anyhow::Result<Vec<PathBuf>> {
    if options.lab {
        return Ok(Vec::new());
    }
    let mut archives = vec![match &options.image {
        Some(path) => path.canonicalize().with_context(|| format!("no image {}", path.display()))?,
        None if options.debug => image::debug(sh, Some(&programs.agent))?,
        None => image::release(sh)?,
    }];
    let upgrade = options.only.is_empty() || options.only.iter().any(|name| name == "upgrade");
    if (options.faults && upgrade) || options.part == Part::Ci {
        archives.push(image::debug(sh, None)?);
    }
    Ok(archives)
}

/// A trial: options, cluster and programs.
struct Trial<'a> {
    sh: &'a Shell,
    options: &'a Options,
    cluster: &'a Cluster,
    programs: &'a Programs,
    steps: &'a mut Steps,
}

impl Trial<'_> {
    fn ringfence(&self, words: &[&str]) -> Command {
        self.cluster.ringfence(&self.programs.ringfence, words)
    }

    fn run(&mut self, images: &[PathBuf]) -> anyhow::Result<()> {
        if self.options.lab {
            return self.installed();
        }
        self.steps.take("images", || self.cluster.load(self.sh, images)).context("the nodes do not have the image")?;
        let mut install = self.ringfence(&["install"]);
        let mut tried = self.steps.run("install", &mut install).context("it is not installed");
        if tried.is_ok() {
            let mut status = self.ringfence(&["status", "--wait"]);
            self.steps.run("status", &mut status);
            tried = self.installed();
        }
        // A cluster that stays is left as it was, whatever happened. Another goes with all that is on it.
        if self.cluster.is_given() || !self.steps.interrupted() {
            let mut uninstall = self.ringfence(&["uninstall"]);
            self.steps.run_last("uninstall", &mut uninstall);
            self.steps.last("nothing left", || self.cluster.nothing_left());
        }
        tried
    }

    /// Tries a cluster in which Ringfence is installed.
    fn installed(&mut self) -> anyhow::Result<()> {
        let small = self.options.part == Part::Ci;
        if self.options.faults || small {
            self.faults()?;
        }
        if self.options.faults {
            return Ok(());
        }
        let mut definitions = self.ringfence(&["crds", "install", "--channel", "experimental", "--admin"]);
        self.steps.run("definitions", &mut definitions);
        if !small {
            let mut tour = self.ringfence(&["lab", "demo"]);
            self.steps.run("tour", &mut tour);
        }
        let only: &[&str] = if small { &["verify", "--only", "pod"] } else { &["verify"] };
        let mut verify = self.ringfence(only);
        self.steps.run("verify", &mut verify);
        if !small {
            let mut suite = self.cluster.command(&self.programs.e2e);
            self.steps.run("suite", suite.arg("suite").arg("--kubeconfig").arg(&self.cluster.kubeconfig));
        }
        Ok(())
    }

    /// The fault suite; its rows go into the document, if it tried this commit as it is always tried.
    fn faults(&mut self) -> anyhow::Result<()> {
        let Self { sh, options, cluster, programs, .. } = *self;
        let mut command = cluster.command(&programs.e2e);
        command.arg("faults").arg("--kubeconfig").arg(&cluster.kubeconfig);
        command.args(["--other-image", image::OTHER_REFERENCE]);
        if options.part == Part::Ci {
            command.args(["--only", "nothing,kills,upgrade", "--kills", "6", "--upgrades", "1"]);
        } else if !options.only.is_empty() {
            command.arg("--only").arg(options.only.join(","));
        }
        command.args(&options.rest);
        let Some(table) = self.steps.read("faults", &mut command) else { return Ok(()) };
        print!("{table}");
        if options.part == Part::All && options.rest.is_empty() && options.image.is_none() {
            let made = marks::made(sh, &options.told(), cluster.told())?;
            let document = sh.read_file(DOCUMENT)?;
            let merged = table::merge(marks::between(&document, MARKS)?, &table, &marks::commit(sh)?, &made)?;
            sh.write_file(DOCUMENT, marks::replace(&document, MARKS, &merged)?)?;
        }
        Ok(())
    }
}

impl Options {
    /// The command, for the document.
    fn told(&self) -> String {
        let debug = if self.debug { " --debug" } else { "" };
        let only = if self.only.is_empty() { String::new() } else { format!(" --only {}", self.only.join(",")) };
        format!("cargo xtask e2e --faults{only}{debug}{}", self.shape.flags())
    }
}
