//! `bench --cluster`: the same on a cluster whose nodes are namespaces of this machine, started for this and removed.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use xshell::{Shell, cmd};

use super::DOCUMENT;
use crate::e2e::cluster::{self, Cluster, Shape, Source};
use crate::e2e::steps::Steps;
use crate::{demo, image, marks};

const MARKS: (&str, &str) = ("<!-- results: cargo xtask bench --cluster -->", "<!-- end of results -->");

/// What is measured: the heading in the document, and what `ringfence-bench cluster` is told.
const MEASURED: &[(&str, &[&str])] = &[
    ("Reaction", &["reaction"]),
    ("The network plugin", &["chain", "--machine"]),
    ("Traffic", &["traffic", "--machine"]),
    ("A crowd", &["crowd"]),
];

/// Measures on a cluster of its own, and writes the tables unless told not to.
pub(super) fn run(sh: &Shell, dry: bool) -> anyhow::Result<ExitCode> {
    let shape = Shape::default();
    let Source::Local = cluster::choose(sh, None, false, &shape)? else {
        bail!("pods have to be processes of this machine\nhint: take kind off the PATH");
    };
    let mut steps = Steps::listening()?;
    let Some(made) = steps.take("build", || build(sh)) else { return Ok(steps.code()) };
    let started = steps.take("cluster", || Cluster::start(sh, Source::Local, &shape, &made.ringfence));
    let Some(cluster) = started else { return Ok(steps.code()) };
    let results = measure(sh, &mut steps, &cluster, &made);
    // Also after a failure, and when interrupted.
    steps.last("end", || cluster.stop(sh));
    if let Some(results) = results {
        println!("{results}");
        if !dry {
            let document = sh.read_file(DOCUMENT)?;
            sh.write_file(DOCUMENT, marks::replace(&document, MARKS, &results)?)?;
        }
    }
    Ok(steps.code())
}

/// What is built for it.
struct Made {
    ringfence: PathBuf,
    bench: PathBuf,
    image: PathBuf,
}

fn build(sh: &Shell) -> anyhow::Result<Made> {
    cmd!(sh, "cargo build --release --locked --package ringfence --package ringfence-bench").run()?;
    Ok(Made {
        ringfence: demo::binary(sh, "release", "ringfence")?,
        bench: demo::binary(sh, "release", "ringfence-bench")?,
        image: image::release(sh)?,
    })
}

/// The tables; none if something did not go well, which was told.
fn measure(sh: &Shell, steps: &mut Steps, cluster: &Cluster, made: &Made) -> Option<String> {
    steps.take("images", || cluster.load(sh, std::slice::from_ref(&made.image)))?;
    steps.run("install", &mut cluster.ringfence(&made.ringfence, &["install"]))?;
    let directory = cluster.directory()?;
    let mut say = |name: &str, words: &[&str]| {
        let mut command = cluster.command(&made.bench);
        command.arg("cluster").args(words);
        if words.contains(&"--machine") {
            command.arg(directory);
        }
        let said = steps.read(name, &mut command);
        said.filter(|_| !steps.failed)
    };
    let about = say("describe", &["describe"])?;
    let mut results = Vec::new();
    for (heading, words) in MEASURED {
        results.push(format!("### {heading}\n\n{}", say(words[0], words)?.trim()));
    }
    let bench = &made.bench;
    let made = steps.take("host", || {
        let (host, date) = (cmd!(sh, "{bench} host").read()?, cmd!(sh, "date --utc +%Y-%m-%d").quiet().read()?);
        Ok(format!("Made on {date} by `cargo xtask bench --cluster` on {}, {}.", host.trim(), about.trim()))
    })?;
    results.insert(0, made);
    Some(results.join("\n\n"))
}
