//! Being the network plugin, where there is none.
//!
//! Standard plugins do the work in the pod; what is left is routes between nodes ([`ringfence_routes`]), which follow
//! the nodes of the cluster at once, and the configuration that says all this to runtimes ([`crate::chain`]).

mod condition;
mod nodes;
mod roads;
mod taken;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use ringfence_netns::Netlink;
use ringfence_routes::Encapsulation;
use tokio::sync::Notify;

use crate::chain::{self, Chain, Program, Wanted};
use crate::core::Handle;
use crate::metrics::Meters;
use crate::run::Config;

pub(crate) use condition::clear;
pub(crate) use nodes::Nudge;
pub(crate) use roads::Roads;

/// Settings of primary mode.
#[derive(Clone, Debug)]
pub struct Primary {
    /// When to go through VXLAN.
    pub encapsulation: Encapsulation,
    /// Directory of the standard plugins that are missing on the node.
    pub plugins: PathBuf,
}

/// Starts to be it: installs plugins and configuration, sets routes. `clear` is notified when the network is there.
pub(crate) fn start(
    primary: &Primary,
    chain: Chain,
    program: Program,
    config: &Config,
    core: Handle,
    clear: Arc<Notify>,
    meters: Arc<Meters>,
) -> anyhow::Result<std::sync::mpsc::Sender<Nudge>> {
    let wanted = Wanted::primary(primary.plugins.clone());
    let keeper = chain::start(chain, program, &config.socket, wanted, core.clone(), meters)
        .context("cannot install the network plugin")?;
    let roads =
        Roads::new(config.node.as_str().into(), primary.encapsulation, addresses(&config.socket), keeper, core, clear);
    roads.start().context("cannot start a thread")
}

/// Directory in which `host-local` keeps the addresses in use: gone with the pods when the machine starts anew.
fn addresses(socket: &Path) -> PathBuf {
    socket.with_file_name("addresses")
}

/// Takes away what is set for pods of other nodes in the network namespace of the calling thread, and which addresses
/// are taken. What was never there is no error.
pub fn unroute(socket: &Path) -> anyhow::Result<()> {
    ringfence_routes::clean_up(&mut Netlink::open()?)?;
    let addresses = addresses(socket);
    taken::forget(&addresses).with_context(|| format!("cannot remove {}", addresses.display()))
}
