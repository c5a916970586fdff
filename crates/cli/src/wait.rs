//! `ringfence wait`.

use std::path::PathBuf;
use std::time::Duration;

use ringfence_console::exit::Code;
use ringfence_console::output;
use ringfence_install::wait;
use ringfence_k8s::Severity;
use ringfence_k8s::manifest::{self, Manifests};
use ringfence_model::Object;

use crate::cluster::{Target, block_on, duration};

/// `ringfence wait`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Files and directories with policies, `-` for standard input
    #[arg(short, long, value_name = "FILE", required = true)]
    filename: Vec<PathBuf>,
    /// Time to wait
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    timeout: Duration,
}

/// Waits; negative if the time is up.
pub(crate) fn run(args: &Args) -> anyhow::Result<Code> {
    let (lags, count) = block_on(async {
        let manifests = manifest::load(&args.filename);
        let policies = policies(&manifests)?;
        let client = args.target.client().await?;
        let wanted = wait::of_objects(&client, &policies).await?;
        Ok((wait::everywhere(&client, &wanted, args.timeout).await?, wanted.len()))
    })?;
    for lag in &lags {
        output::remark(lag);
    }
    match (lags.is_empty(), count) {
        (true, 1) => output::line("the policy is enforced on every node"),
        (true, count) => output::line(&format!("{count} policies are enforced on every node")),
        (false, _) => Ok(Code::Negative),
    }
}

/// The policies among what was loaded. What cannot be read is an error here: nobody could say that it is enforced.
fn policies(manifests: &Manifests) -> anyhow::Result<Vec<serde_json::Value>> {
    if let Some(error) = manifests.diagnostics.iter().find(|diagnostic| diagnostic.severity == Severity::Error) {
        anyhow::bail!("{error}");
    }
    let is_policy = |object: &Option<Object>| matches!(object, Some(Object::Policy(_)));
    let policies = manifests.documents.iter().filter(|document| is_policy(&document.object));
    let mut policies: Vec<_> = policies.map(|document| document.value.clone()).collect();
    anyhow::ensure!(!policies.is_empty(), "there is no policy in these files");
    for policy in &mut policies {
        // As kubectl takes it.
        if policy["kind"] == "NetworkPolicy" && policy["metadata"]["namespace"].as_str().is_none_or(str::is_empty) {
            policy["metadata"]["namespace"] = "default".into();
        }
    }
    Ok(policies)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: {}}\n";

    #[test]
    fn policies_are_picked_and_get_the_namespace_kubectl_takes() {
        let text = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: x}}\n---\n{POLICY}");
        let found = policies(&Manifests::from_text("a.yaml", text)).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["metadata"]["namespace"], "default");
    }

    #[test]
    fn nothing_to_wait_for_is_an_error() {
        assert!(policies(&Manifests::from_text("a.yaml", "")).is_err());
        assert!(policies(&Manifests::from_text("a.yaml", POLICY.replace("podSelector", "podselector"))).is_err());
    }
}
