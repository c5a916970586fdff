//! Rounds of changes, watched by probes to every server.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::runtime::Runtime;

use super::pods::{Change, Pods};
use super::prober::{self, End};
use super::seen::{Seen, Tally};
use crate::figures::quantile;

/// Milliseconds of each kind of change, for each time it was made and each server.
pub(crate) type Times = BTreeMap<Change, Vec<Vec<f64>>>;

/// The pods under steady probes.
pub(crate) struct Rounds {
    pods: Pods,
    seen: Vec<Seen>,
    probers: Vec<End>,
    allowed: bool,
}

impl Rounds {
    /// Starts to probe, and waits until every server is reached.
    pub(crate) fn start(pods: Pods, interval: Duration) -> anyhow::Result<Self> {
        let (mut seen, mut probers) = (Vec::new(), Vec::new());
        for server in &pods.servers {
            let (sender, receiver) = mpsc::channel();
            probers.push(prober::start(Arc::clone(&pods.near), *server, interval, sender));
            seen.push(Seen::new(receiver));
        }
        for seen in &mut seen {
            seen.begin(true, Instant::now()).context("the client never reaches the server, before any change")?;
        }
        Ok(Self { pods, seen, probers, allowed: true })
    }

    /// Makes every change so often.
    pub(crate) fn measure(&mut self, runtime: &Runtime, rounds: usize) -> anyhow::Result<Times> {
        let mut times = Times::new();
        for round in 1..=rounds {
            for change in Change::ROUND {
                // Not in step with anything periodic: between 20 and 60 ms.
                let rest = 20 + (round * 7 + times.values().map(Vec::len).sum::<usize>() * 13) % 41;
                let took = self.make(runtime, change, Duration::from_millis(rest as u64));
                times.entry(change).or_default().push(took.with_context(|| format!("{change:?} of round {round}"))?);
            }
            eprintln!("round {round} of {rounds}");
        }
        Ok(times)
    }

    /// Stops to probe.
    pub(crate) fn end(self) -> Tally {
        drop(self.probers);
        let mut sum = Tally::default();
        for seen in &self.seen {
            sum += seen.tally();
        }
        sum
    }

    fn make(&mut self, runtime: &Runtime, change: Change, rest: Duration) -> anyhow::Result<Vec<f64>> {
        for (number, seen) in self.seen.iter_mut().enumerate() {
            // Those after the first have rested with it.
            if !seen.hold(self.allowed, if number == 0 { rest } else { Duration::ZERO }) {
                bail!("before the change the prober ended or stood still");
            }
        }
        let asked = Instant::now();
        runtime.block_on(self.pods.make(change))?;
        let answered = Instant::now();
        self.allowed = change.allows();
        let begun = |seen: &mut Seen| seen.begin(self.allowed, asked).context("it changed nothing");
        self.seen.iter_mut().map(|seen| Ok(signed_millis(answered, begun(seen)?))).collect()
    }
}

/// From one instant to another, which may be earlier: a change may be in force before the answer is read.
pub(crate) fn signed_millis(from: Instant, to: Instant) -> f64 {
    let forward = to.saturating_duration_since(from).as_secs_f64();
    (forward - from.saturating_duration_since(to).as_secs_f64()) * 1e3
}

/// Headings of the numbers of a row.
pub(crate) const HEADINGS: [&str; 5] = ["n", "P50 ms", "P90 ms", "P99 ms", "max ms"];

/// The rows for a server; `labels` are the columns after the first.
pub(crate) fn report(labels: &[String], times: &Times, server: usize) -> Vec<Vec<String>> {
    let group = |name: &str, member: &dyn Fn(Change) -> bool| {
        let values = times.iter().filter(|(change, _)| member(**change)).flat_map(|(_, times)| times);
        row(name, labels, &values.filter_map(|of_servers| of_servers.get(server).copied()).collect::<Vec<_>>())
    };
    vec![
        group("policy created", &|change| change.kind() == "create"),
        group("policy updated", &|change| change.kind() == "update"),
        group("policy deleted", &|change| change.kind() == "delete"),
        group("pod relabelled", &|change| change.kind() == "relabel"),
        group("all that deny", &|change| !change.allows()),
        group("all that allow", &|change| change.allows()),
        group("all", &|_| true),
    ]
}

/// The row of changes that have to be in force at every server, until they are at the last.
pub(crate) fn everywhere(labels: &[String], times: &Times) -> Vec<String> {
    let values = times.iter().filter(|(change, _)| change.is_about_servers()).flat_map(|(_, times)| times);
    let last = |of_servers: &Vec<f64>| of_servers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    row("policy for pods of both nodes", labels, &values.map(last).collect::<Vec<_>>())
}

fn row(name: &str, labels: &[String], values: &[f64]) -> Vec<String> {
    let at = |fraction| format!("{:.2}", quantile(values, fraction));
    let numbers = [values.len().to_string(), at(0.5), at(0.9), at(0.99), at(1.0)];
    std::iter::once(name.to_owned()).chain(labels.iter().cloned()).chain(numbers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_force_everywhere_is_so_at_the_last() {
        let times = Times::from([
            (Change::CreateOnly, vec![vec![1.0, 3.0], vec![-2.0, -4.0]]),
            (Change::CreateDenyEgress, vec![vec![100.0, 100.0]]),
            (Change::RelabelIn, vec![vec![100.0, 100.0]]),
        ]);
        let labels = ["x".to_owned()];
        assert_eq!(everywhere(&labels, &times)[1..3], ["x", "2"]);
        assert_eq!(everywhere(&labels, &times)[6], "3.00");
        let rows = report(&labels, &times, 0);
        assert_eq!(rows.len(), 7);
        assert_eq!(rows[6][2..4], ["4", "100.00"]);
    }
}
