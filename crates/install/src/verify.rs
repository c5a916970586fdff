//! A matrix of policies, tried with real pods in namespaces of its own.
//!
//! What must be seen is written down case by case, and not derived from the engine that is tried.

mod case;
mod cases;
mod cut;
mod policy;
pub mod report;
mod stage;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::{StreamExt as _, stream};
use kube::Client;

use crate::interrupt::unless_interrupted;
use crate::wait;
use crate::{Progress, connect, objects};
use case::{Attempt, Case, Check};
use report::{Outcome, Report};
use stage::Stage;

/// Image of pods by default.
pub const IMAGE: &str = "registry.k8s.io/e2e-test-images/agnhost:2.53";

/// The number of connections are tried at a time.
const AT_ONCE: usize = 8;
/// The time that a change may take to be enforced everywhere.
const ENFORCE_TIMEOUT: Duration = Duration::from_mins(1);

/// Options of the verification.
#[derive(Clone, Debug)]
pub struct Options {
    /// Image of the pods: agnhost.
    pub image: String,
    /// Only cases whose name contains this.
    pub filter: Option<String>,
    /// The time that pods may take to start.
    pub patience: Duration,
}

/// Runs every case, and takes everything away again, also when interrupted.
pub async fn run(client: &Client, options: &Options, progress: &dyn Progress) -> anyhow::Result<Report> {
    let stage = Stage::named(client.clone());
    let mut report = Report::new();
    let ended = unless_interrupted("", all(&stage, options, progress, &mut report)).await;
    progress.say("removing what was made");
    // Somebody may have no patience for that either.
    let cleaned = unless_interrupted("", stage.remove()).await;
    cleaned.context("what was made is not removed; hint: ringfence verify --clean-up").and(ended)?;
    Ok(report)
}

/// Takes away what earlier runs left, if they were killed.
pub async fn clean_up(client: &Client) -> anyhow::Result<()> {
    stage::remove_all(client).await
}

async fn all(stage: &Stage, options: &Options, progress: &dyn Progress, report: &mut Report) -> anyhow::Result<()> {
    let cases = cases::all();
    let wanted = |case: &&Case| options.filter.as_ref().is_none_or(|filter| case.name.contains(filter.as_str()));
    let chosen: Vec<&Case> = cases.iter().filter(wanted).collect();
    anyhow::ensure!(!chosen.is_empty(), "no case is called so; hint: without --only all are tried");
    let served = stage.serves_cluster_policies().await?;
    progress.say(&format!("making pods in namespaces {}", stage.namespaces().join(" and ")));
    let ready = stage.make(&options.image, options.patience).await?;
    progress.say(&format!("{} cases over {}", chosen.len(), ready.families()));
    for (index, case) in chosen.iter().enumerate() {
        let start = Instant::now();
        let outcome = if case.cluster_wide && !served {
            Outcome::Skipped("the cluster does not have the kind ClusterNetworkPolicy".into())
        } else {
            match one(stage, &ready, case).await {
                Ok(wrong) if wrong.is_empty() => Outcome::Passed,
                Ok(wrong) => Outcome::Failed(wrong),
                Err(error) => Outcome::Failed(vec![format!("{error:#}")]),
            }
        };
        progress.say(&format!("[{}/{}] {} {}", index + 1, chosen.len(), outcome.word(), case.name));
        for line in outcome.lines() {
            progress.say(&format!("        {line}"));
        }
        report.add(case.name, start.elapsed(), outcome);
    }
    Ok(())
}

/// Writes the policies of a case, waits until they are enforced, tries; then the same after they are gone.
async fn one(stage: &Stage, pods: &stage::Pods, case: &Case) -> anyhow::Result<Vec<String>> {
    let written: Vec<_> = (case.policies)(&stage.names(pods)).into_iter().map(|policy| stage.mark(policy)).collect();
    let cut = match case.check {
        Check::Matrix(_) => None,
        Check::Cut => Some(cut::Held::open(stage, pods).await?),
    };
    let mut wanted = Vec::new();
    for policy in &written {
        let applied = serde_json::to_value(objects::apply(&stage.client, policy).await?)?;
        wanted.push((applied.clone(), wait::enforced(&applied)?));
    }
    let enforced: Vec<_> = wanted.iter().map(|(_, wanted)| wanted.clone()).collect();
    let lags = wait::everywhere(&stage.client, &enforced, ENFORCE_TIMEOUT).await?;
    let mut wrong: Vec<String> =
        lags.into_iter().map(|lag| format!("not enforced in {ENFORCE_TIMEOUT:?}: {lag}")).collect();
    if wrong.is_empty() {
        wrong = match (&case.check, cut) {
            (Check::Matrix(allows), _) => matrix(stage, pods, *allows).await?,
            (Check::Cut, Some(held)) => held.judge().await?,
            (Check::Cut, None) => Vec::new(),
        };
    }
    let mut gone = Vec::new();
    for (applied, _) in &wanted {
        objects::delete(&stage.client, applied).await?;
        gone.push(wait::gone(applied)?);
    }
    wrong.extend(wait::everywhere(&stage.client, &gone, ENFORCE_TIMEOUT).await?);
    Ok(wrong)
}

/// Tries every pair of pods, port and family; returns what differs.
async fn matrix(stage: &Stage, pods: &stage::Pods, allows: fn(&Attempt) -> bool) -> anyhow::Result<Vec<String>> {
    let tries = pods.attempts().into_iter().map(|(attempt, address)| async move {
        let expected = allows(&attempt);
        let target = SocketAddr::new(address, attempt.port.number()).to_string();
        let (from, protocol) = (pods.container(attempt.from), attempt.port.protocol());
        let seen = connect::settle(&stage.client, &from, &target, protocol, expected).await?;
        let place = format!("{attempt} ({address})");
        let (must, is) = if expected { ("let through", "not") } else { ("denied", "let through") };
        anyhow::Ok((seen != expected).then(|| format!("{place} must be {must}, and is {is}")))
    });
    let seen: Vec<_> = stream::iter(tries).buffered(AT_ONCE).collect().await;
    Ok(seen.into_iter().collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten().collect())
}
