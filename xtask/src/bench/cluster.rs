//! `bench --cluster`: the same on a cluster whose nodes are namespaces of this machine, started for this and removed.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use xshell::{Shell, cmd};

use super::publish;
use crate::cluster::Shape;
use crate::e2e::cluster::{self, Cluster, Source};
use crate::e2e::steps::Steps;
use crate::{demo, image, marks};

const MARKS: (&str, &str) = ("<!-- results: cargo xtask bench --cluster -->", "<!-- end of results -->");

/// The measurements: the heading in the document, and what `ringfence-bench cluster` is told.
const MEASURED: &[(&str, &[&str])] = &[
    ("Reaction", &["reaction"]),
    ("The network plugin", &["chain", "--machine"]),
    ("Traffic", &["traffic", "--machine"]),
    ("A crowd", &["crowd"]),
];
/// And on a cluster that has no network plugin but Ringfence.
const PRIMARY: &[(&str, &[&str])] =
    &[("Traffic in primary mode", &["traffic", "--stays", "--blocks", "0,10000", "--pods", "100", "--machine"])];

/// Measures on clusters of its own, and writes the tables unless told not to.
pub(super) fn run(sh: &Shell, dry: bool) -> anyhow::Result<ExitCode> {
    let mut steps = Steps::listening()?;
    let Some(made) = steps.take("build", || build(sh)) else { return Ok(steps.code()) };
    let bridge = on_one(sh, &mut steps, &made, &Shape::default(), |steps, cluster| {
        let about = say(steps, cluster, &made, &["describe"])?;
        let bench = &made.bench;
        let made_on = steps.take("host", || {
            let host = cmd!(sh, "{bench} host").read()?;
            marks::made(sh, "cargo xtask bench --cluster", &format!("{}, {}", host.trim(), about.trim()))
        })?;
        Some(format!("{made_on}\n\n{}", measure(steps, cluster, &made, MEASURED)?))
    });
    let primary = Shape::without_plugin();
    let primary = on_one(sh, &mut steps, &made, &primary, |steps, cluster| measure(steps, cluster, &made, PRIMARY));
    if let (Some(bridge), Some(primary)) = (bridge, primary) {
        let results = format!("{bridge}\n\n{primary}");
        publish(sh, MARKS, &results, dry)?;
    }
    Ok(steps.code())
}

/// Starts a cluster, does something there, and removes it, also after a failure and when interrupted.
pub(super) fn on_one<T>(
    sh: &Shell,
    steps: &mut Steps,
    made: &Made,
    shape: &Shape,
    act: impl FnOnce(&mut Steps, &Cluster) -> Option<T>,
) -> Option<T> {
    let cluster = steps.take("cluster", || match cluster::choose(sh, None, false, shape, true)? {
        Source::Local => Cluster::start(sh, Source::Local, shape, &made.ringfence),
        _ => bail!("pods have to be processes of this machine\nhint: take kind off the PATH"),
    })?;
    let loaded = steps.take("images", || cluster.load(sh, std::slice::from_ref(&made.image)));
    let done = loaded.and_then(|()| act(steps, &cluster));
    steps.last("end", || cluster.stop());
    done
}

/// Programs and image that are built for it.
pub(super) struct Made {
    pub(super) ringfence: PathBuf,
    pub(super) bench: PathBuf,
    image: PathBuf,
}

pub(super) fn build(sh: &Shell) -> anyhow::Result<Made> {
    cmd!(sh, "cargo build --release --locked --package ringfence --package ringfence-bench").run()?;
    Ok(Made {
        ringfence: demo::binary(sh, "release", "ringfence")?,
        bench: demo::binary(sh, "release", "ringfence-bench")?,
        image: image::release(sh)?,
    })
}

/// Installs Ringfence and measures. The tables; none if something did not go well, which was told.
fn measure(steps: &mut Steps, cluster: &Cluster, made: &Made, what: &[(&str, &[&str])]) -> Option<String> {
    steps.run("install", &mut cluster.ringfence(&made.ringfence, &["install"]))?;
    let mut results = Vec::new();
    for (heading, words) in what {
        results.push(format!("### {heading}\n\n{}", say(steps, cluster, made, words)?.trim()));
    }
    Some(results.join("\n\n"))
}

/// The output of a measurement that succeeded.
fn say(steps: &mut Steps, cluster: &Cluster, made: &Made, words: &[&str]) -> Option<String> {
    let mut command = cluster.command(&made.bench);
    command.arg("cluster").args(words);
    if words.contains(&"--machine") {
        command.arg(cluster.directory()?);
    }
    steps.read_well(words[0], &mut command)
}
