//! `bench --cluster`: the same on a cluster whose nodes are namespaces of this machine, started for this and removed.

use std::path::Path;

use anyhow::{Context as _, bail};
use xshell::{Shell, cmd};

use super::DOCUMENT;
use crate::e2e::cluster::{self, Cluster, Shape, Source};
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
pub(super) fn run(sh: &Shell, dry: bool) -> anyhow::Result<()> {
    let shape = Shape::default();
    let Source::Local = cluster::choose(sh, None, false, &shape)? else {
        bail!("pods have to be processes of this machine\nhint: take kind off the PATH");
    };
    cmd!(sh, "cargo build --release --locked --package ringfence --package ringfence-bench").run()?;
    let [ringfence, bench] =
        [demo::binary(sh, "release", "ringfence")?, demo::binary(sh, "release", "ringfence-bench")?];
    let archive = image::release(sh)?;
    let cluster = Cluster::start(sh, Source::Local, &shape, &ringfence)?;
    let measured = measure(&cluster, sh, &archive, &ringfence, &bench);
    cluster.stop(sh)?;
    let results = measured?;
    println!("{results}");
    if !dry {
        let document = sh.read_file(DOCUMENT)?;
        sh.write_file(DOCUMENT, marks::replace(&document, MARKS, &results)?)?;
    }
    Ok(())
}

fn measure(cluster: &Cluster, sh: &Shell, archive: &Path, ringfence: &Path, bench: &Path) -> anyhow::Result<String> {
    cluster.load(sh, &[archive.to_path_buf()])?;
    let status = cluster.command(ringfence).arg("install").status().context("ringfence install")?;
    anyhow::ensure!(status.success(), "ringfence install failed ({status})");
    let directory = cluster.directory().context("a cluster without directory")?;
    let say = |words: &[&str]| -> anyhow::Result<String> {
        let mut command = cluster.command(bench);
        command.arg("cluster").args(words).stderr(std::process::Stdio::inherit());
        if words.contains(&"--machine") {
            command.arg(directory);
        }
        let output = command.output().with_context(|| format!("measuring {}", words.join(" ")))?;
        anyhow::ensure!(output.status.success(), "measuring {} failed ({})", words.join(" "), output.status);
        Ok(String::from_utf8(output.stdout)?)
    };
    let host = cmd!(sh, "{bench} host").read()?;
    let date = cmd!(sh, "date --utc +%Y-%m-%d").quiet().read()?;
    let about = say(&["describe"])?;
    let mut results =
        vec![format!("Made on {date} by `cargo xtask bench --cluster` on {}, {}.", host.trim(), about.trim())];
    for (heading, words) in MEASURED {
        results.push(format!("### {heading}\n\n{}", say(words)?.trim()));
    }
    Ok(results.join("\n\n"))
}
