//! The agent itself, and what goes before and after it.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use ringfence_agent::{Config, Encapsulation, Primary};
use ringfence_api::SOCKET;
use ringfence_console::exit::Code;
use ringfence_console::logging::{self, LogFormat};

use crate::args::{Cleanup, Encapsulated, Run};

/// Directory in which runtimes look for network configurations.
const CONF_DIR: &str = "/etc/cni/net.d";

/// Longest time that an agent which was told to end may take.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_mins(1);

/// Runs the agent until it is told to end.
pub(crate) fn run(args: Run) -> anyhow::Result<Code> {
    logging::start(args.log_format);
    let config = config(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(ringfence_agent::run(config))?;
    Ok(Code::Ok)
}

/// Mounts `/sys/fs/bpf`.
pub(crate) fn mount_bpf() -> anyhow::Result<Code> {
    logging::start(LogFormat::Text);
    let mounted = ringfence_agent::mount_bpf()?;
    tracing::info!("/sys/fs/bpf {}", if mounted { "is mounted now" } else { "was mounted already" });
    Ok(Code::Ok)
}

/// Removes what an agent left.
pub(crate) fn clean_up(args: Cleanup) -> anyhow::Result<Code> {
    logging::start(LogFormat::Text);
    let Cleanup { pin_dir, socket, plugin } = args;
    let socket = socket.as_deref();
    if let Some(socket) = socket {
        // What it still does would be left.
        ringfence_agent::wait_for_end(socket, SHUTDOWN_TIMEOUT)?;
    }
    // First the plugin: without it pods start unguarded no sooner than they would anyway.
    if let Some(chain) = plugin.chain() {
        ringfence_agent::unchain(&chain).context("cannot remove the network plugin")?;
    }
    let beside = socket.unwrap_or_else(|| Path::new(SOCKET));
    ringfence_agent::unroute(beside).context("cannot remove the routes between nodes")?;
    ringfence_agent::cleanup(&pin_dir)?;
    socket.map_or(Ok(()), ringfence_agent::forget)?;
    Ok(Code::Ok)
}

fn config(run: Run) -> anyhow::Result<Config> {
    let Run {
        node,
        kubeconfig,
        pin_dir,
        socket,
        metrics,
        connections,
        over_capacity,
        map_sizes,
        report_allowed,
        mut plugin,
        primary,
        encapsulation,
        cni_plugins_dir: plugins,
        detach,
        dns_service,
        cluster_domain,
        namespace,
        dns_servers,
        log_format: _,
    } = run;
    let node = match node {
        Some(node) => node,
        None => host_name().context("cannot tell the name of this node; hint: --node NAME")?,
    };
    let encapsulation = match encapsulation {
        Encapsulated::CrossSubnet => Encapsulation::CrossSubnet,
        Encapsulated::Always => Encapsulation::Always,
    };
    let primary = primary.then_some(Primary { encapsulation, plugins });
    if primary.is_some() {
        plugin.cni_conf_dir.get_or_insert_with(|| CONF_DIR.into());
    }
    let chain = plugin.chain();
    Ok(Config {
        node,
        kubeconfig,
        pin_dir,
        socket,
        metrics,
        connections,
        over_capacity,
        map_sizes,
        report_allowed,
        chain,
        primary,
        detach,
        dns_service,
        cluster_domain,
        namespace,
        dns_servers,
    })
}

/// The host name as the kubelet makes a node name of it: in lower case.
fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname()?;
    let name = name.into_string().map_err(|name| anyhow::anyhow!("host name {} is not text", name.display()))?;
    Ok(name.trim().to_lowercase())
}
