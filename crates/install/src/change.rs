//! Install, upgrade, uninstall.

mod cleanup;

use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::manifest::{
    self, API_HOST, API_PORT, ApiServer, BIN_DIR, CONF_DIR, CniDirs, ENCAPSULATION, METRICS, Mode, OVER_CAPACITY,
    Seccomp, Values,
};
use crate::{AGENT_LABEL, Progress, objects, rollout};

/// Label that no node has: where agents are that are to end.
const NOWHERE: &str = "ringfence/uninstalling";

/// Remark about nodes where nothing says how agents were run.
const UNKNOWN: &str = "nodes on which an agent ran, if any did: there was no DaemonSet that says how; hint: `ringfence \
                       install`, and `ringfence uninstall` once more";

/// An installation that is there.
#[derive(Clone, Debug)]
pub struct Installed {
    /// Namespace of its agents.
    pub namespace: String,
    /// Image of its agents.
    pub image: String,
    /// Its DaemonSet.
    pub set: DaemonSet,
}

/// Looks for an installation.
pub async fn installed(client: &Client) -> anyhow::Result<Option<Installed>> {
    let sets = Api::<DaemonSet>::all(client.clone()).list(&ListParams::default().labels(AGENT_LABEL)).await;
    let sets = match sets {
        Ok(sets) => sets.items,
        // A lab has no DaemonSets.
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(error).context("cannot list the DaemonSets"),
    };
    let Some(set) = sets.into_iter().find(|set| set.name_any() == manifest::NAME) else { return Ok(None) };
    let mut containers = set.spec.iter().flat_map(|spec| spec.template.spec.iter().flat_map(|spec| &spec.containers));
    let image = containers.find_map(|container| container.image.clone()).unwrap_or_default();
    Ok(Some(Installed { namespace: set.namespace().unwrap_or_default(), image, set }))
}

/// Writes the objects and, if a limit is given, waits until every agent is ready.
pub async fn apply(
    client: &Client,
    values: &Values,
    limit: Option<Duration>,
    progress: &dyn Progress,
) -> anyhow::Result<()> {
    make_namespace(client, &values.namespace).await?;
    call_off(client).await?;
    for object in manifest::objects(values)? {
        objects::apply(client, &object).await?;
        progress.say(&format!("{} written", objects::title(&object)));
    }
    match limit {
        Some(limit) => rollout::rolled_out(client, values, limit, progress).await,
        None => Ok(()),
    }
}

/// Makes sure of the namespace; one that is there is left as it is.
async fn make_namespace(client: &Client, name: &str) -> anyhow::Result<()> {
    let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    if api.get_opt(name).await.context("cannot read the namespace of the agents")?.is_some() {
        return Ok(());
    }
    // Agents use the host's network and directories.
    let labels = json!({"pod-security.kubernetes.io/enforce": "privileged"});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    objects::apply(client, &namespace).await.map(drop)
}

/// The image of this version in the repository that an installation's is from.
fn image_of_this_version(installed: &str) -> String {
    // A digest and a tag say which version it was; what follows a slash is no port.
    let name = installed.split('@').next().unwrap_or_default();
    let repository = name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(name, |(before, _)| before);
    format!("{repository}:{}", env!("CARGO_PKG_VERSION"))
}

/// The values that an upgrade keeps: the values that an installation was made with, and where its image came from.
pub fn values_of(installed: &Installed) -> anyhow::Result<Values> {
    let set = serde_json::to_value(&installed.set)?;
    let container = set.pointer("/spec/template/spec/containers/0").context("the DaemonSet has no container")?;
    let words: Vec<&str> = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let flag = |flag: &str, default: String| {
        words.iter().find_map(|word| word.strip_prefix(flag)).map_or(default, str::to_owned)
    };
    let image = container["image"].as_str().context("the DaemonSet's container has no image")?;
    let defaults = Values::default();
    let variable = |name: &str| {
        let variable = container["env"].as_array()?.iter().find(|variable| variable["name"] == name)?;
        variable["value"].as_str()
    };
    let level = variable("RUST_LOG").and_then(|text| text.split(',').next());
    let api_server = match (variable(API_HOST), variable(API_PORT)) {
        (Some(host), Some(port)) => {
            Some(ApiServer { host: host.into(), port: port.parse().context("the agents' port of the API server")? })
        }
        _ => None,
    };
    let chains = words.iter().any(|word| word.starts_with(CONF_DIR));
    let port = flag(METRICS, String::new()).rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let context = &container["securityContext"];
    Ok(Values {
        namespace: installed.namespace.clone(),
        image: image_of_this_version(image),
        pull_policy: container["imagePullPolicy"].as_str().unwrap_or(&defaults.pull_policy).to_owned(),
        mode: match (words.contains(&"--primary"), chains) {
            (true, _) => Mode::Primary,
            (false, true) => Mode::Chained,
            (false, false) => Mode::Alone,
        },
        encapsulation: flag(ENCAPSULATION, defaults.encapsulation),
        api_server,
        cni: CniDirs { conf: flag(CONF_DIR, defaults.cni.conf), bin: flag(BIN_DIR, defaults.cni.bin) },
        mount_bpf: set.pointer("/spec/template/spec/initContainers/0").is_some(),
        metrics_port: port.unwrap_or(defaults.metrics_port),
        seccomp: Seccomp::of(&context["seccompProfile"]).unwrap_or(defaults.seccomp),
        se_linux: context.get("seLinuxOptions").cloned(),
        extra_args: words.iter().filter(|word| is_extra(word)).map(|word| (*word).to_owned()).collect(),
        connections: flag("--connections=", defaults.connections),
        over_capacity: flag(OVER_CAPACITY, flag(EARLIER_OVER_CAPACITY, defaults.over_capacity)),
        log_level: level.unwrap_or(&defaults.log_level).to_owned(),
        log_format: flag("--log-format=", defaults.log_format),
    })
}

/// The flag of [`OVER_CAPACITY`] in versions before.
const EARLIER_OVER_CAPACITY: &str = "--without-room=";

/// True if an argument of the agent is none that follows from another value. Earlier versions began with `agent`.
fn is_extra(word: &str) -> bool {
    let known = [
        METRICS,
        ENCAPSULATION,
        CONF_DIR,
        BIN_DIR,
        "--connections=",
        OVER_CAPACITY,
        EARLIER_OVER_CAPACITY,
        "--log-format=",
    ];
    !["agent", "--primary"].contains(&word) && !known.iter().any(|flag| word.starts_with(flag))
}

/// Takes Ringfence away: agents, what they left on the nodes, and the objects. Says which nodes were not cleaned. May
/// be left at any moment and begun again: their DaemonSet, which says how to clean, goes last.
pub async fn remove(client: &Client, limit: Duration, progress: &dyn Progress) -> anyhow::Result<Vec<String>> {
    let there = match installed(client).await? {
        Some(installed) => {
            // They would put back what is taken away.
            place(client, &installed, json!("yes")).await.context("cannot end the agents")?;
            progress.say("agents are ending; what they enforce stays in force");
            Some(installed)
        }
        None => assumed(client, progress).await?,
    };
    let cleaned = cleanup::run(client, there.as_ref(), limit, progress).await?;
    let namespace = there.map_or_else(|| manifest::NAMESPACE.into(), |installed| installed.namespace);
    let mut removed = 0;
    for object in remains(namespace)? {
        if objects::delete(client, &object).await? {
            removed += 1;
            progress.say(&format!("{} removed", objects::title(&object)));
        }
    }
    let mut left = cleaned.left;
    match (removed, cleaned.any) {
        (0, false) => bail!("Ringfence is not installed in this cluster; hint: was it by Helm under another name?"),
        (_, false) => left.push(UNKNOWN.into()),
        (_, true) => {}
    }
    Ok(left)
}

/// The objects of an installation, in the order in which they go.
fn remains(namespace: String) -> anyhow::Result<Vec<Value>> {
    // Made by the agents: who of them writes about policies.
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": manifest::NAME, "namespace": namespace},
    });
    let mut objects = manifest::objects(&Values { namespace, ..Values::default() })?;
    objects.push(lease);
    objects.sort_by_key(|object| object["kind"] != "DaemonSet");
    objects.reverse();
    Ok(objects)
}

/// An installation whose agents are gone, or never were there, as this version makes it by default: nothing says any
/// more how they were run. None if there is none.
async fn assumed(client: &Client, progress: &dyn Progress) -> anyhow::Result<Option<Installed>> {
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    let binding = objects::found(bindings.get(manifest::NAME).await).context("cannot read a ClusterRoleBinding")?;
    let subject = binding.and_then(|binding| binding.subjects?.into_iter().next());
    let Some(namespace) = subject.and_then(|subject| subject.namespace) else { return Ok(None) };
    progress
        .say("there is no DaemonSet of agents; nodes are cleaned as if this version was installed with its defaults");
    let values = Values { namespace, ..Values::default() };
    let mut objects = manifest::objects(&values)?.into_iter();
    let set = objects.find(|object| object["kind"] == "DaemonSet").context("the manifest has no DaemonSet")?;
    Ok(Some(Installed { namespace: values.namespace, image: values.image, set: serde_json::from_value(set)? }))
}

/// Ends the agents, or lets them come again: by where they are to be.
async fn place(client: &Client, installed: &Installed, nowhere: Value) -> anyhow::Result<()> {
    let part = json!({"spec": {"template": {"spec": {"nodeSelector": {NOWHERE: nowhere}}}}});
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), &installed.namespace);
    sets.patch(manifest::NAME, &PatchParams::default(), &Patch::Merge(part)).await?;
    Ok(())
}

/// Calls off an end that was begun: agents come again, and no pod is left that would take away what they put somewhere.
async fn call_off(client: &Client) -> anyhow::Result<()> {
    if let Some(there) = installed(client).await? {
        let selector =
            there.set.spec.iter().flat_map(|spec| spec.template.spec.iter().flat_map(|spec| &spec.node_selector));
        if selector.into_iter().any(|selector| selector.contains_key(NOWHERE)) {
            place(client, &there, Value::Null).await.context("cannot let the agents come again")?;
        }
    }
    cleanup::call_off(client).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_keeps_what_an_installation_was_made_with() {
        let values = Values {
            namespace: "net".into(),
            image: "registry.example/ringfence:0".into(),
            pull_policy: "Always".into(),
            mode: Mode::Primary,
            encapsulation: "always".into(),
            api_server: Some("api.example:6443".parse().unwrap()),
            cni: CniDirs { conf: "/k/net.d".into(), bin: "/k/bin".into() },
            mount_bpf: true,
            metrics_port: 9999,
            seccomp: Seccomp::Unconfined,
            se_linux: Some(json!({"type": "spc_t"})),
            extra_args: vec!["--report-allowed".into(), "--pin-dir=/sys/fs/bpf/x".into()],
            connections: "drain".into(),
            over_capacity: "keep".into(),
            log_level: "debug".into(),
            log_format: "json".into(),
        };
        let alone = Values { mode: Mode::Alone, cni: CniDirs::default(), ..values.clone() };
        for values in [values, alone] {
            let objects = manifest::objects(&values).unwrap();
            let set = objects.into_iter().find(|object| object["kind"] == "DaemonSet").unwrap();
            let set = serde_json::from_value(set).unwrap();
            let installed = Installed { namespace: "net".into(), image: values.image.clone(), set };
            let kept = values_of(&installed).unwrap();
            let encapsulation = kept.encapsulation.clone();
            let image = format!("registry.example/ringfence:{VERSION}");
            assert_eq!(kept, Values { image, encapsulation, ..values });
        }
    }

    #[test]
    fn an_upgrade_takes_this_version_from_where_the_other_was() {
        for (installed, expected) in [
            ("localhost/ringfence:0", "localhost/ringfence"),
            ("registry.example:5000/net/ringfence", "registry.example:5000/net/ringfence"),
            ("registry.example:5000/net/ringfence:v9@sha256:00ff", "registry.example:5000/net/ringfence"),
            ("ringfence@sha256:00ff", "ringfence"),
        ] {
            assert_eq!(image_of_this_version(installed), format!("{expected}:{VERSION}"), "{installed}");
        }
    }

    #[test]
    fn what_says_how_to_clean_goes_last() {
        let objects = remains("net".into()).unwrap();
        assert_eq!(objects.last().unwrap()["kind"], "DaemonSet");
        assert_eq!(objects.len(), manifest::objects(&Values::default()).unwrap().len() + 1);
        assert!(objects.iter().any(|object| object["kind"] == "Lease" && object["metadata"]["namespace"] == "net"));
    }

    const VERSION: &str = env!("CARGO_PKG_VERSION");
}
