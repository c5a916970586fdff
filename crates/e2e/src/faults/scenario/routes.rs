//! A program that manages the network of a node takes away all routes and rules that are not its own, and later makes
//! its own again, as `systemd-networkd` does when it is restarted.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ringfence_e2e::machine::Machine;

use super::super::stage::{PATIENCE, Stage};
use super::{Scenario, on_this_machine};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "routes-changed",
    about: "All routes of each node but the kernel's own are taken away, and those that are not the agent's are made \
        again",
    obstacle: on_this_machine,
    run: |stage, _| Box::pin(run(stage)),
};

/// The time that the routes of others are away.
const OUTAGE: Duration = Duration::from_secs(3);
/// By when the agent's own have to be back, and all that is allowed is answered once the others are.
const REPAIR_LIMIT: Duration = Duration::from_secs(5);
/// Time between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Origin of agents' routes, as `ip` shows it.
const OURS: &str = "proto 82";

/// On every node in turn. What must not pass is judged all the while.
async fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let machine = stage.machine.clone().context("no processes of nodes")?;
    let (mut taken, mut own, mut slowest) = (0, Duration::ZERO, Duration::ZERO);
    for number in 1..=stage.nodes.len() {
        stage.exempt_open();
        let away = Away::make(&machine, number)?;
        taken += away.routes.len();
        let since = Instant::now();
        while !away.ours_are_back()? {
            ensure!(
                since.elapsed() < REPAIR_LIMIT,
                "routes of the agent of node {number} were not back after {REPAIR_LIMIT:?}"
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        own = own.max(since.elapsed());
        let changed = stage.change(!stage.visit).await?;
        tokio::time::sleep(OUTAGE).await;
        drop(away);
        let back = Instant::now();
        stage.reach(changed, PATIENCE, |_| true).await?;
        slowest = slowest.max(stage.reach(back, PATIENCE, |_| true).await?);
    }
    stage.agents_ready().await?;
    let [own, slowest_told] = [own, slowest].map(|took| took.as_millis());
    ensure!(slowest <= REPAIR_LIMIT, "what is allowed was answered {slowest_told} ms after the routes were back only");
    Ok(format!(
        "{taken} routes in all, with a change of policy meanwhile; the agents' own were back after {own} ms, and what \
         is allowed was answered {slowest_told} ms at most after all were"
    ))
}

/// Routes that are away; those that did not come back by themselves are made again when dropped.
struct Away<'a> {
    machine: &'a Machine,
    number: usize,
    routes: Vec<(&'static str, String)>,
}

impl<'a> Away<'a> {
    fn make(machine: &'a Machine, number: usize) -> anyhow::Result<Self> {
        let mut away = Self { machine, number, routes: Vec::new() };
        for (family, route) in there(machine, number)? {
            change(machine, number, family, "delete", &route)?;
            away.routes.push((family, route));
        }
        ensure!(!away.routes.is_empty(), "node {number} has no routes but the kernel's own");
        Ok(away)
    }

    fn ours_are_back(&self) -> anyhow::Result<bool> {
        let there = there(self.machine, self.number)?;
        Ok(self.routes.iter().filter(|(_, route)| route.contains(OURS)).all(|route| there.contains(route)))
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        let there = there(self.machine, self.number).unwrap_or_default();
        // Those over a gateway need the way to it first.
        let (direct, by_gateway): (Vec<_>, Vec<_>) =
            self.routes.iter().partition(|(_, route)| !route.contains(" via "));
        for route in direct.into_iter().chain(by_gateway).filter(|route| !there.contains(route)) {
            if let Err(error) = change(self.machine, self.number, route.0, "replace", &route.1) {
                println!("a route of node {} is missing: {error:#}", self.number);
            }
        }
    }
}

/// All routes that the kernel did not make by itself, in every table.
fn there(machine: &Machine, number: usize) -> anyhow::Result<Vec<(&'static str, String)>> {
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        let output = machine.on(number, "ip").args([family, "route", "show", "table", "all"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines =
            text.lines().filter(|line| !line.contains(" proto kernel ")).map(|line| line.replace(" linkdown", ""));
        routes.extend(lines.map(|line| (family, line.trim().to_owned())));
    }
    Ok(routes)
}

fn change(machine: &Machine, number: usize, family: &str, verb: &str, route: &str) -> anyhow::Result<()> {
    let mut command = machine.on(number, "ip");
    let done = command.args([family, "route", verb]).args(route.split_whitespace()).output().context("ip")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "ip route {verb} {route}: {}", said.trim());
    Ok(())
}
