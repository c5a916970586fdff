//! Agents are killed at random moments, some of them in the middle of a change of policy.

use std::time::{Duration, Instant};

use super::super::stage::{PATIENCE, Stage};
use super::{Scenario, everywhere};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "kills",
    about: "Agents are killed at random moments",
    obstacle: everywhere,
    run: |stage, options| Box::pin(run(stage, options.kills)),
};

/// Longest pause between two kills, if the agent is not waited for.
const PAUSE: u64 = 1500;
/// A change is on its way through an agent for about so long.
const MIDDLE: u64 = 20;

/// Kills so often.
async fn run(stage: &mut Stage, kills: usize) -> anyhow::Result<String> {
    let (mut changes, mut waited) = (0, 0);
    let mut open_since: Option<Instant> = None;
    for _ in 0..kills {
        let number = rand::random_range(1..=stage.nodes.len());
        // A change that an earlier kill met must be in force before the next one.
        if open_since.is_some() && rand::random_bool(0.3) {
            stage.agents_ready().await?;
            stage.reach(Instant::now(), PATIENCE, |_| true).await?;
            open_since = None;
        }
        if open_since.is_none() && rand::random_bool(0.5) {
            open_since = Some(stage.change(!stage.visit).await?);
            changes += 1;
            pause(MIDDLE).await;
        }
        stage.kill_agent(number).await?;
        if rand::random_bool(0.5) {
            stage.agent_ready(number).await?;
            waited += 1;
        } else {
            pause(PAUSE).await;
        }
    }
    stage.agents_ready().await?;
    stage.reach(Instant::now(), PATIENCE, |_| true).await?;
    Ok(format!(
        "{kills} kills, {changes} of them within {MIDDLE} ms after a change of policy; {waited} times the agent was \
         awaited before the next"
    ))
}

async fn pause(most: u64) {
    tokio::time::sleep(Duration::from_millis(rand::random_range(0..=most))).await;
}
