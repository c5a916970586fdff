//! Two other programs write the node's network configuration at once, without the plugin.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ringfence_e2e::cluster::eventually;
use ringfence_e2e::machine::Machine;
use serde_json::Value;

use super::super::stage::{PATIENCE, Stage};
use super::{Scenario, on_this_machine};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "plugin-configuration",
    about: "Two programs rewrite the network configuration of each node at once, without the plugin",
    obstacle: on_this_machine,
    run: |stage, _| Box::pin(run(stage)),
};

/// Directory of network configurations on nodes.
const DIRECTORY: &str = "/etc/cni/net.d";
/// The plugin.
const PLUGIN: &str = "ringfence-cni";
/// Number of writes of each of the two.
const WRITES: usize = 200;
/// The time that the plugin may be missing once they are done.
const REPAIR_LIMIT: Duration = Duration::from_secs(5);

/// Writes on every node, and sees the plugin come back into what was written last.
async fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let machine = stage.machine.clone().context("no processes of nodes")?;
    let mut slowest = Duration::ZERO;
    for number in 1..=stage.nodes.len() {
        slowest = slowest.max(rewrite(stage, &machine, number).await?);
    }
    Ok(format!(
        "{WRITES} times by each of two writers on every node, in place and by renaming; the plugin was back {} ms at \
         most after the last, in what was written last",
        slowest.as_millis()
    ))
}

/// Has others rewrite a node's configuration, and sees the plugin come back into what they wrote last. How long that
/// took.
pub(super) async fn rewrite(stage: &mut Stage, machine: &Machine, number: usize) -> anyhow::Result<Duration> {
    let (file, text) = machine.inside(number, chained)??;
    machine.inside(number, || write_at_once(&file, &text))??;
    let written = Instant::now();
    eventually("the plugin is in the configuration again", || async {
        Ok((machine.inside(number, || is_chained(&file))?).then_some(()))
    })
    .await?;
    let took = written.elapsed();
    let after = machine.inside(number, || fs::read_to_string(&file))??;
    let theirs = without(&after).context("the plugin is not in it")?;
    ensure!(
        theirs == serde_json::from_str::<Value>(&text)?,
        "what others wrote last was lost on node {number}: {after}"
    );
    ensure!(took <= REPAIR_LIMIT, "the plugin was missing for {took:?}");
    let changed = stage.change(!stage.visit).await?;
    stage.reach(changed, PATIENCE, |_| true).await?;
    Ok(took)
}

/// The configuration that the plugin is in, and its text without.
fn chained() -> anyhow::Result<(PathBuf, String)> {
    for entry in fs::read_dir(DIRECTORY)?.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        if let Some(without) = without(&text) {
            return Ok((entry.path(), without.to_string()));
        }
    }
    anyhow::bail!("the plugin is in no configuration in {DIRECTORY}")
}

/// A configuration without the plugin; none if it is not in it.
fn without(text: &str) -> Option<Value> {
    let mut list: Value = serde_json::from_str(text).ok()?;
    let plugins = list.get_mut("plugins")?.as_array_mut()?;
    let before = plugins.len();
    plugins.retain(|plugin| plugin["type"] != PLUGIN);
    (plugins.len() < before).then_some(list)
}

fn is_chained(file: &PathBuf) -> bool {
    without(&fs::read_to_string(file).unwrap_or_default()).is_some()
}

/// One writes in place, one beside and renames.
fn write_at_once(file: &PathBuf, text: &str) -> std::io::Result<()> {
    let draft = file.with_extension("draft");
    thread::scope(|scope| {
        let renaming = scope.spawn(|| {
            (0..WRITES).try_for_each(|_| {
                fs::write(&draft, text)?;
                fs::rename(&draft, file)
            })
        });
        (0..WRITES).try_for_each(|_| fs::write(file, text))?;
        renaming.join().unwrap_or_else(|_panic| Err(std::io::Error::other("a writer panicked")))
    })
}
