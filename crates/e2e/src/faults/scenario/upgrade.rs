//! Another version is rolled out node by node, and the first one again; policies change meanwhile.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use ringfence_install::change;
use ringfence_install::manifest::Values;

use super::super::stage::{PATIENCE, Stage};
use super::{Options, Scenario};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "upgrade",
    about: "Another version with another layout of maps is rolled out, and this one again",
    obstacle,
    run: |stage, options| Box::pin(run(stage, options)),
};

/// The time that a rollout may take.
const ROLLOUT_TIMEOUT: Duration = Duration::from_mins(3);

fn obstacle(_: &Stage, options: &Options) -> Option<String> {
    let why = "it needs the image of another version (--other-image), which the nodes have";
    options.other_image.is_none().then(|| why.into())
}

/// Upgrades and downgrades.
async fn run(stage: &mut Stage, options: &Options) -> anyhow::Result<String> {
    let other = options.other_image.as_deref().context("no other image")?;
    let client = stage.cluster.client.clone();
    let there = change::installed(&client).await?.context("Ringfence is not installed")?;
    let values = change::values_of(&there)?;
    let mut slowest = Duration::ZERO;
    for image in std::iter::repeat_n([other, &there.image], options.upgrades).flatten() {
        let values = Values { image: image.to_owned(), ..values.clone() };
        let quiet = |_: &str| {};
        let rollout = change::apply(&client, &values, Some(ROLLOUT_TIMEOUT), &quiet);
        // Met by agents of both versions, or by none.
        let change = stage.change(!stage.visit);
        let (rolled, changed) = tokio::join!(rollout, change);
        rolled.with_context(|| format!("rolling out {image}"))?;
        changed?;
        slowest = slowest.max(stage.reach(Instant::now(), PATIENCE, |_| true).await?);
    }
    let (rounds, slowest) = (options.upgrades, slowest.as_secs_f64());
    Ok(format!(
        "{rounds} times to a version with another layout of maps and another program, and back, on every node; a \
         policy changed during each rollout was in force {slowest:.1} s at most after its end"
    ))
}
