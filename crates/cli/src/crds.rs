//! `ringfence crds`: the definitions of the cluster-wide policies, to look at or for a cluster to have.

use std::path::PathBuf;

use clap::Subcommand;
use ringfence_console::exit::Code;
use ringfence_console::output;
use ringfence_k8s::convert::Kind;
use ringfence_k8s::crd::install::{Identity, Installed, install};
use ringfence_k8s::crd::{Channel, KINDS, definition};
use serde_json::Value;

use crate::cluster::Target;

/// `ringfence crds`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Their fields: standard, or experimental (peers by node and domain name)
    #[arg(long, value_name = "CHANNEL", default_value_t = Channel::Standard, global = true)]
    channel: Channel,
    /// Also AdminNetworkPolicy and BaselineAdminNetworkPolicy, which ClusterNetworkPolicy replaces
    #[arg(long, global = true)]
    admin: bool,
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Format::Yaml)]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Apply them to a cluster and wait until their objects are served
    Install(Install),
}

#[derive(Debug, clap::Args)]
struct Install {
    /// Kubeconfig [default: $KUBECONFIG, ~/.kube/config, or the service account of the pod this runs in]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Also replace a newer bundle, or the experimental channel by the standard one
    #[arg(long)]
    force: bool,
}

/// Forms a definition can be applied in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// JSON, as a list
    Json,
    /// YAML
    Yaml,
}

/// Prints the definitions, or installs them.
pub(crate) fn run(args: &Args) -> anyhow::Result<Code> {
    let kinds = KINDS.into_iter().filter(|kind| args.admin || *kind == Kind::ClusterNetworkPolicy);
    let definitions: Vec<Value> = kinds.filter_map(|kind| definition(kind, args.channel)).collect();
    match (&args.command, args.output) {
        (Some(Command::Install(options)), _) => install_all(&definitions, options),
        (None, Format::Json) => {
            output::json(&serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": definitions }))?;
            Ok(Code::Ok)
        }
        (None, Format::Yaml) => {
            for definition in &definitions {
                output::text("---\n")?;
                output::yaml(definition)?;
            }
            Ok(Code::Ok)
        }
    }
}

/// All of them, each told of; the first that is refused ends it.
fn install_all(definitions: &[Value], options: &Install) -> anyhow::Result<Code> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Target { kubeconfig: options.kubeconfig.clone(), context: None }.client().await?;
        for definition in definitions {
            let outcome = install(&client, definition, options.force).await?;
            output::line(&told(definition, &outcome))?;
        }
        Ok(Code::Ok)
    })
}

fn told(definition: &Value, outcome: &Installed) -> String {
    let name = definition["metadata"]["name"].as_str().unwrap_or_default();
    let which = |Identity { bundle, channel }: &Identity| match (bundle.as_str(), channel.as_str()) {
        ("", "") => "a definition without a version".to_owned(),
        (bundle, channel) => format!("{bundle} {channel}").trim().to_owned(),
    };
    let now = which(&Identity::of(definition));
    let said = match outcome {
        Installed::Created => format!("created ({now})"),
        Installed::Changed { from } => format!("changed (from {} to {now})", which(from)),
        Installed::Unchanged => format!("unchanged ({now})"),
    };
    format!("customresourcedefinition.apiextensions.k8s.io/{name} {said}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_says_what_the_definition_does() {
        for kind in KINDS {
            for channel in Channel::ALL {
                let definition = definition(kind, channel).unwrap();
                let text = serde_saphyr::to_string(&definition).unwrap();
                assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), definition);
                // Where it is not quoted, some readers take it for a truth.
                assert!(text.contains("\"True\"") || text.contains("'True'"), "{text}");
            }
        }
    }

    #[test]
    fn outcomes_name_both_versions() {
        let definition = definition(Kind::ClusterNetworkPolicy, Channel::Standard).unwrap();
        let from = Identity { bundle: String::new(), channel: String::new() };
        assert_eq!(
            told(&definition, &Installed::Changed { from }),
            "customresourcedefinition.apiextensions.k8s.io/clusternetworkpolicies.policy.networking.k8s.io changed \
             (from a definition without a version to v0.2.0 standard)"
        );
    }
}
