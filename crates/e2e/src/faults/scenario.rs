//! The faults, by name.

mod clock;
mod kills;
mod outage;
mod partition;
mod reboot;
mod runtime;
mod starts;
mod upgrade;

use clap::ValueEnum;

use super::Options;
use super::stage::Stage;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// No fault, but changes of policy: what the instrument sees by itself.
    Nothing,
    /// Agents are killed at random moments.
    Kills,
    /// Another version with another layout of maps is rolled out, and this one again.
    Upgrade,
    /// The containers' runtime and the kubelet of each node are restarted.
    Runtime,
    /// A node is cut off from the API while policies change.
    Partition,
    /// The clock is set ahead, back, behind, back.
    Clock,
    /// API server and etcd are gone.
    Outage,
    /// A node loses everything but its disk.
    Reboot,
    /// Pods start, many at once, under a policy that denies all.
    StartsDenied,
    /// Pods start, many at once, whose first act is a connection that is allowed.
    StartsAllowed,
}

impl Scenario {
    /// All, in the order in which they are tried.
    pub(crate) fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Why it cannot be tried here, if so.
    pub(crate) fn obstacle(self, stage: &Stage, options: &Options) -> Option<String> {
        match self {
            Self::Upgrade if options.other_image.is_none() => {
                Some("it needs the image of another version (--other-image), which the nodes have".into())
            }
            Self::Runtime | Self::Partition | Self::Outage | Self::Reboot if stage.machine.is_none() => {
                Some("it stops processes of nodes, and this cluster's are not on this machine (--machine)".into())
            }
            _ => None,
        }
    }

    /// Makes it happen and waits until it is over; tells what was done.
    pub(crate) async fn run(self, stage: &mut Stage, options: &Options) -> anyhow::Result<String> {
        match self {
            Self::Nothing => kills::none(stage).await,
            Self::Kills => kills::run(stage, options.kills).await,
            Self::Upgrade => upgrade::run(stage, options).await,
            Self::Runtime => runtime::run(stage).await,
            Self::Partition => partition::run(stage).await,
            Self::Clock => clock::run(stage, options.clock_step.into()).await,
            Self::Outage => outage::run(stage, options.outage.into()).await,
            Self::Reboot => reboot::run(stage).await,
            Self::StartsDenied => starts::denied(stage, options).await,
            Self::StartsAllowed => starts::allowed(stage, options).await,
        }
    }
}
