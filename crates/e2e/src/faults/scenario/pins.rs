//! Somebody on a node removes what keeps enforcement in the kernel: pins of links, of maps, of both.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ringfence_e2e::cluster::eventually;
use ringfence_e2e::machine::Machine;

use super::super::stage::{PATIENCE, Stage};
use super::{Scenario, on_this_machine};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "pins",
    about: "The agent's pins below /sys/fs/bpf are removed on each node, and its agent is killed afterwards",
    obstacle: on_this_machine,
    run: |stage, _| Box::pin(run(stage)),
};

/// Pin directory of the agents of an installation.
const DIRECTORY: &str = "/sys/fs/bpf/ringfence";
/// The time that pins may be missing: agents look every two seconds.
const REPAIR_LIMIT: Duration = Duration::from_secs(5);

/// Removes links, maps and both on every node; each is put back, and policy goes on changing.
async fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let machine = stage.machine.clone().context("no processes of nodes")?;
    let mut slowest = Duration::ZERO;
    for number in 1..=stage.nodes.len() {
        let whole = machine.inside(number, || pins(""))?;
        ensure!(whole > 0, "nothing is pinned in {DIRECTORY} of node {number}");
        for prefix in ["links-", "maps-", ""] {
            remove(&machine, number, prefix)?;
            let removed = Instant::now();
            eventually("pins are put back", || async {
                Ok((machine.inside(number, || pins(""))? == whole).then_some(()))
            })
            .await?;
            slowest = slowest.max(removed.elapsed());
            let changed = stage.change(!stage.visit).await?;
            stage.reach(changed, PATIENCE, |_| true).await?;
        }
        stage.kill_agent(number).await?;
        stage.agent_ready(number).await?;
        stage.reach(Instant::now(), PATIENCE, |_| true).await?;
    }
    ensure!(slowest <= REPAIR_LIMIT, "pins were missing for {slowest:?}");
    Ok(format!(
        "pins of links, of maps and of both removed on every node, and put back after {} ms at most; a change of \
         policy after each, and each agent killed once afterwards",
        slowest.as_millis()
    ))
}

/// The number of pins there are in directories whose names begin so.
fn pins(prefix: &str) -> usize {
    directories(prefix).into_iter().filter_map(|path| fs::read_dir(path).ok()).map(Iterator::count).sum()
}

fn directories(prefix: &str) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).map(|entry| entry.path()).collect()
}

fn remove(machine: &Machine, number: usize, prefix: &str) -> anyhow::Result<()> {
    let removed = machine.inside(number, || directories(prefix).iter().try_for_each(|path| remove_all(path)))?;
    removed.with_context(|| format!("cannot remove pins of node {number}"))
}

/// As `rm -r` does.
fn remove_all(directory: &Path) -> std::io::Result<()> {
    fs::read_dir(directory)?.flatten().try_for_each(|entry| fs::remove_file(entry.path()))?;
    fs::remove_dir(directory)
}
