//! The clock is set ahead and behind, and back each time.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

use super::super::stage::{PATIENCE, Stage};
use super::{Scenario, everywhere};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "clock",
    about: "The clock is set ahead, back, behind, back",
    obstacle: everywhere,
    run: |stage, options| Box::pin(run(stage, options.clock_step.into())),
};

/// The time that it is wrong each time.
const OUTAGE: Duration = Duration::from_secs(4);

/// Steps it, with a change of policy while it is wrong and one after it is right again.
async fn run(stage: &mut Stage, step: Duration) -> anyhow::Result<String> {
    let mut slowest = Duration::ZERO;
    for ahead in [true, false] {
        let wrong = Wrong::by(step, ahead)?;
        let begun = Instant::now();
        let changed = stage.change(!stage.visit).await?;
        slowest = slowest.max(stage.reach(changed, PATIENCE, |_| true).await?);
        tokio::time::sleep(OUTAGE.saturating_sub(begun.elapsed())).await;
        drop(wrong);
        let changed = stage.change(!stage.visit).await?;
        slowest = slowest.max(stage.reach(changed, PATIENCE, |_| true).await?);
    }
    stage.agents_ready().await?;
    let (step, slowest) = (step.as_secs(), slowest.as_millis());
    Ok(format!(
        "{step} s ahead, back, {step} s behind, back; a change of policy after each step was in force after {slowest} \
         ms at most"
    ))
}

/// A wrong clock; right again when dropped.
struct Wrong {
    /// Real time less the time since the machine started.
    right: TimeSpec,
}

impl Wrong {
    fn by(step: Duration, ahead: bool) -> anyhow::Result<Self> {
        let since_start = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
        let right = clock_gettime(ClockId::CLOCK_REALTIME)? - since_start;
        let step = TimeSpec::from(step);
        let wrong = if ahead { right + step } else { right - step };
        set(wrong).context("cannot set the clock")?;
        Ok(Self { right })
    }
}

impl Drop for Wrong {
    fn drop(&mut self) {
        // It could be set wrong, so it can be set right.
        let _ = set(self.right);
    }
}

fn set(base: TimeSpec) -> nix::Result<()> {
    clock_settime(ClockId::CLOCK_REALTIME, base + clock_gettime(ClockId::CLOCK_BOOTTIME)?)
}
