//! `ringfence install`, `upgrade` and `uninstall`.

use std::time::Duration;

use anyhow::Context as _;
use clap::{ArgGroup, ValueEnum};
use ringfence_console::exit::Code;
use ringfence_console::output;
use ringfence_install::change;
use ringfence_install::interrupt::unless_interrupted;
use ringfence_install::manifest::{self, ApiServer, CniDirs, Mode, Seccomp, Values};
use ringfence_install::survey::{self, Survey};

use crate::cluster::{Target, block_on, duration};

/// Advice about an installation that was interrupted.
const INSTALLING: &str = "what was written stays, and agents go on starting: `ringfence status --wait` waits for them, \
                          `ringfence uninstall` takes everything away";
/// The same about an upgrade.
const UPGRADING: &str =
    "what was written stays, and agents go on being replaced: `ringfence status --wait` waits for them";
/// The same about an end.
const UNINSTALLING: &str = "agents stay away, and nodes that have begun go on cleaning: `ringfence uninstall` again \
                            takes away the rest, `ringfence install` brings the agents back";

/// `ringfence install`
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
#[command(group(ArgGroup::new("mode").args(["primary", "chained"])))]
pub(crate) struct Install {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    changes: Changes,
    /// Namespace of the agents
    #[arg(long, short, value_name = "NAME", default_value = manifest::NAMESPACE)]
    namespace: String,
    /// Be the network plugin, whatever is there
    #[arg(long)]
    primary: bool,
    /// Come after the cluster's network plugin, and do not be one where there is none
    #[arg(long)]
    chained: bool,
    /// Directory of network configurations on nodes [default: /etc/cni/net.d, and where k3s has it]
    #[arg(long, value_name = "DIR")]
    cni_conf_dir: Option<String>,
    /// Directory of network plugins on nodes [default: /opt/cni/bin, and where k3s has it]
    #[arg(long, value_name = "DIR")]
    cni_bin_dir: Option<String>,
    /// Mount /sys/fs/bpf on nodes that have not, by a privileged container before the agent [default: where nodes may
    /// be containers themselves]
    #[arg(long)]
    mount_bpf: bool,
    /// Print what would be written, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Form in which a dry run prints
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Form::Yaml, requires = "dry_run")]
    output: Form,
    /// Install also where policy cannot be enforced
    #[arg(long)]
    force: bool,
}

/// `ringfence upgrade`
#[derive(Debug, clap::Args)]
pub(crate) struct Upgrade {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    changes: Changes,
}

/// `ringfence uninstall`
#[derive(Debug, clap::Args)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    target: Target,
    /// The time that nodes may take
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2m")]
    timeout: Duration,
}

/// Choices; an upgrade keeps what is not named.
#[derive(Debug, clap::Args)]
struct Changes {
    /// Image of the agents [default: this version, from localhost/ringfence or where the one to upgrade is from]
    #[arg(long, value_name = "NAME:TAG")]
    image: Option<String>,
    /// When nodes pull the image [default: IfNotPresent]
    #[arg(long, value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: Option<String>,
    /// Address of the API server for agents, if not the cluster's Service for it
    #[arg(long, value_name = "HOST:PORT")]
    api_server: Option<ApiServer>,
    /// As the network plugin, when packets between nodes go through VXLAN [default: cross-subnet]
    #[arg(long, value_name = "WHEN", value_parser = ["cross-subnet", "always"])]
    encapsulation: Option<String>,
    /// TCP port of the nodes on which agents answer probes and Prometheus [default: 9464]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    metrics_port: Option<u16>,
    /// Seccomp profile of the agents: RuntimeDefault, Unconfined or localhost/FILE [default: RuntimeDefault; with CRI-O
    /// Unconfined]
    #[arg(long, value_name = "PROFILE")]
    seccomp: Option<Seccomp>,
    /// Fate of open connections that a change of policy denies [default: cut]
    #[arg(long, value_name = "HOW", value_parser = ["cut", "drain"])]
    connections: Option<String>,
    /// Fate of pods whose policies do not fit into the kernel maps [default: deny]
    #[arg(long, value_name = "HOW", value_parser = ["deny", "keep"])]
    over_capacity: Option<String>,
    /// Level of the agents' logs [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"])]
    log_level: Option<String>,
    /// Format of the agents' logs [default: text]
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"])]
    log_format: Option<String>,
    /// The time that agents may take to be ready
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5m")]
    timeout: Duration,
    /// Do not wait for the agents
    #[arg(long)]
    no_wait: bool,
}

impl Changes {
    fn make(&self, values: Values) -> Values {
        let Self { image, image_pull_policy, connections, log_level, log_format, .. } = self;
        let or = |chosen: &Option<String>, kept: String| chosen.clone().unwrap_or(kept);
        Values {
            image: or(image, values.image),
            pull_policy: or(image_pull_policy, values.pull_policy),
            encapsulation: or(&self.encapsulation, values.encapsulation),
            api_server: self.api_server.clone().or(values.api_server),
            metrics_port: self.metrics_port.unwrap_or(values.metrics_port),
            seccomp: self.seccomp.clone().unwrap_or(values.seccomp),
            connections: or(connections, values.connections),
            over_capacity: or(&self.over_capacity, values.over_capacity),
            log_level: or(log_level, values.log_level),
            log_format: or(log_format, values.log_format),
            ..values
        }
    }

    fn limit(&self) -> Option<Duration> {
        (!self.no_wait).then_some(self.timeout)
    }
}

/// Forms that an API server reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// YAML
    Yaml,
    /// JSON
    Json,
}

/// Looks at the cluster, says what was found, and installs if policy can be enforced there.
pub(crate) fn install(args: &Install) -> anyhow::Result<Code> {
    block_on(async {
        let client = args.target.client().await?;
        if let Some(there) = change::installed(&client).await? {
            anyhow::ensure!(
                args.dry_run || there.namespace == args.namespace,
                "Ringfence is installed in namespace {} already; hint: ringfence upgrade",
                there.namespace
            );
        }
        let survey = survey::judge(&survey::look(&client).await?);
        for finding in &survey.findings {
            output::remark(&finding.to_string());
        }
        let mode = mode(args, &survey);
        output::remark(&format!("{:16} {}", "Ringfence", told(mode)));
        if !survey.refusals().is_empty() && !args.force {
            output::remark("not installed: policy cannot be enforced in this cluster");
            return Ok(Code::Negative);
        }
        let mount_bpf = args.mount_bpf || survey.mount_bpf;
        let cni = CniDirs {
            conf: args.cni_conf_dir.clone().unwrap_or(survey.cni.conf),
            bin: args.cni_bin_dir.clone().unwrap_or(survey.cni.bin),
        };
        let seccomp = survey.seccomp;
        let namespace = args.namespace.clone();
        let values = Values { namespace, mode, cni, mount_bpf, seccomp, ..Values::default() };
        let values = args.changes.make(values);
        if args.dry_run {
            return print(&values, args.output);
        }
        unless_interrupted(INSTALLING, change::apply(&client, &values, args.changes.limit(), &output::remark)).await?;
        output::line(&format!("Ringfence {} is installed", env!("CARGO_PKG_VERSION")))
    })
}

fn mode(args: &Install, survey: &Survey) -> Mode {
    match (args.primary, args.chained) {
        (true, _) => Mode::Primary,
        (_, true) => Mode::Chained,
        _ => survey.mode,
    }
}

fn told(mode: Mode) -> &'static str {
    match mode {
        Mode::Chained => "will come after the network plugin",
        Mode::Primary => "will be the network plugin",
        Mode::Alone => "will stand beside the network plugin",
    }
}

fn print(values: &Values, form: Form) -> anyhow::Result<Code> {
    let objects = manifest::objects(values)?;
    match form {
        Form::Json => {
            output::json(&serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects}))?;
        }
        Form::Yaml => {
            for object in objects {
                output::text("---\n")?;
                output::yaml(&object)?;
            }
        }
    }
    Ok(Code::Ok)
}

/// Rolls this version out over one that is there.
pub(crate) fn upgrade(args: &Upgrade) -> anyhow::Result<Code> {
    block_on(async {
        let client = args.target.client().await?;
        let there = change::installed(&client).await?;
        let there = there.context("Ringfence is not installed in this cluster; hint: ringfence install")?;
        let values = args.changes.make(change::values_of(&there)?);
        output::remark(&format!("from {} to {}", there.image, values.image));
        unless_interrupted(UPGRADING, change::apply(&client, &values, args.changes.limit(), &output::remark)).await?;
        output::line(&format!("Ringfence is upgraded to {}", env!("CARGO_PKG_VERSION")))
    })
}

/// Takes everything away; negative if a node could not be reached.
pub(crate) fn uninstall(args: &Uninstall) -> anyhow::Result<Code> {
    block_on(async {
        let client = args.target.client().await?;
        let left = unless_interrupted(UNINSTALLING, change::remove(&client, args.timeout, &output::remark)).await?;
        if left.is_empty() {
            return output::line("Ringfence is uninstalled; no policy is enforced by it any more");
        }
        for line in &left {
            output::remark(&format!("not cleaned: {line}"));
        }
        output::line("Ringfence is uninstalled, but not every node was cleaned")?;
        Ok(Code::Negative)
    })
}
