//! No fault, but changes of policy: what the instrument sees by itself.

use std::time::Duration;

use super::super::stage::{PATIENCE, Stage};
use super::{Scenario, everywhere};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "nothing",
    about: "No fault, but changes of policy: what the instrument sees by itself",
    obstacle: everywhere,
    run: |stage, _| Box::pin(run(stage)),
};

/// Changes of policy without a fault.
const CHANGES: usize = 10;

async fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let mut slowest = Duration::ZERO;
    for _ in 0..CHANGES {
        let changed = stage.change(!stage.visit).await?;
        slowest = slowest.max(stage.reach(changed, PATIENCE, |_| true).await?);
    }
    Ok(format!("{CHANGES} changes of policy, in force after {} ms at most", slowest.as_millis()))
}
