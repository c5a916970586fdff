//! Policies as a person sees them: Events, conditions, columns, and when they are enforced.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Event, Service};
use kube::Api;
use kube::api::ListParams;
use ringfence_e2e::cluster::{LABEL, eventually};
use ringfence_install::objects;
use ringfence_install::verify::report::Outcome;
use ringfence_install::wait;
use serde_json::{Value, json};

use super::attempt::outcome;
use super::policy::{ingress, policy, role};
use super::stage::{SPACE, Stage};

/// The time that a newest generation may take.
const ENFORCE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time to wait for what never comes.
const NEVER_TIMEOUT: Duration = Duration::from_secs(1);

/// Media type of a table in JSON.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// `ringfence wait`: for the newest generation, and not for less.
pub(super) async fn wait(stage: &Stage) -> anyhow::Result<Outcome> {
    let object = ingress(&role("server"), &[]);
    let written = stage.put(std::slice::from_ref(&object)).await?;
    stage.cluster.merge(&object, &json!({"spec": {"ingress": [{}]}})).await?;
    let client = &stage.cluster.client;
    let wanted = wait::of_objects(client, std::slice::from_ref(&object)).await?;
    let mut wrong = wait::everywhere(client, &wanted, ENFORCE_TIMEOUT).await?;
    let mut next = written.first().context("a policy")?.clone();
    next["metadata"]["generation"] = json!(3);
    if wait::everywhere(client, &[wait::enforced(&next)?], NEVER_TIMEOUT).await?.is_empty() {
        wrong.push("a generation that there is not is said to be enforced".into());
    }
    wrong.extend(stage.take(&written).await?);
    Ok(outcome(wrong))
}

/// A policy with a problem gets an Event.
pub(super) async fn events(stage: &Stage) -> anyhow::Result<Outcome> {
    let services: Api<Service> = Api::namespaced(stage.cluster.client.clone(), "default");
    let address = services.get("kubernetes").await?.spec.and_then(|spec| spec.cluster_ip).context("no address")?;
    let block = super::policy::cidr(address.parse()?);
    let rule = json!({"to": [{"ipBlock": {"cidr": block}}]});
    let troubled = policy("troubled", &role("server"), &json!({"policyTypes": ["Egress"], "egress": [rule]}));
    let fine = policy("fine", &role("server"), &json!({"policyTypes": ["Egress"], "egress": [{}]}));
    let written = stage.put(&[troubled, fine]).await?;
    let api: Api<Event> = Api::namespaced(stage.cluster.client.clone(), SPACE);
    let about = ListParams::default().fields("involvedObject.kind=NetworkPolicy");
    let mut wrong = Vec::new();
    let seen = eventually("an Event about policy troubled", || async {
        let found = api.list(&about).await?;
        let ours = found.iter().filter(|event| {
            event.involved_object.name.as_deref().is_some_and(|name| ["troubled", "fine"].contains(&name))
        });
        let told = ours.map(|event| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            (text(&event.involved_object.name), text(&event.type_), text(&event.reason))
        });
        let told: Vec<_> = told.collect();
        Ok((!told.is_empty()).then_some(told))
    })
    .await?;
    if seen != [("troubled".into(), "Warning".into(), "ServiceAddresses".into())] {
        wrong.push(format!("one Event, about the policy of a Service's address, must be there, and there is {seen:?}"));
    }
    wrong.extend(stage.take(&written).await?);
    Ok(outcome(wrong))
}

fn tiered(name: &str, action: &str) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": format!("ringfence-e2e-{name}"), "labels": {LABEL: "yes"}},
        "spec": {
            "tier": "Admin", "priority": 900,
            "subject": {"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": SPACE}}},
            "ingress": [{"action": action, "from": [{"namespaces": {"matchLabels": {"no": "such"}}}]}],
        },
    })
}

/// Conditions of cluster-wide policies: two of one priority are told of.
pub(super) async fn conditions(stage: &Stage) -> anyhow::Result<Outcome> {
    let api = objects::cluster_policies(&stage.cluster.client);
    match api.list(&ListParams::default().limit(1)).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => {
            return Ok(Outcome::Skipped("the cluster does not have the kind ClusterNetworkPolicy".into()));
        }
        Err(error) => return Err(error.into()),
    }
    let condition = async |name: &str, kind: &str| -> anyhow::Result<String> {
        let object = serde_json::to_value(api.get(&format!("ringfence-e2e-{name}")).await?)?;
        let mut all = object["status"]["conditions"].as_array().into_iter().flatten();
        let found = all.find(|condition| condition["type"] == kind);
        Ok(found.and_then(|condition| condition["status"].as_str()).unwrap_or_default().to_owned())
    };
    let mut written = stage.put(&[tiered("first", "Accept")]).await?;
    eventually("the first is accepted without a warning", || async {
        let said = (condition("first", "Accepted").await?, condition("first", "HasWarnings").await?);
        Ok((said == ("True".into(), "False".into())).then_some(()))
    })
    .await?;
    written.extend(stage.put(&[tiered("second", "Deny")]).await?);
    for name in ["first", "second"] {
        eventually(&format!("the tie is told of the {name}"), || async {
            let said = (condition(name, "Accepted").await?, condition(name, "HasWarnings").await?);
            Ok((said == ("True".into(), "True".into())).then_some(()))
        })
        .await?;
    }
    Ok(outcome(stage.take(&written).await?))
}

/// Columns of policies in `kubectl get`: the columns are those of Kubernetes.
pub(super) async fn columns(stage: &Stage) -> anyhow::Result<Outcome> {
    let mut wrong = Vec::new();
    let policies = format!("/apis/networking.k8s.io/v1/namespaces/{SPACE}/networkpolicies");
    for (path, wanted) in [
        (policies.as_str(), "Name, Pod-Selector, Age"),
        ("/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies", "Name, Tier, Priority, Age"),
    ] {
        let request = http::Request::get(path).header("Accept", TABLE).body(Vec::new())?;
        let table: Value = match stage.cluster.client.request(request).await {
            Err(kube::Error::Api(status)) if status.code == 404 => continue,
            table => table?,
        };
        let columns = table["columnDefinitions"].as_array().into_iter().flatten();
        // Those of no priority are printed without being asked for more.
        let shown = columns.filter(|column| column["priority"] == 0).filter_map(|column| column["name"].as_str());
        let shown = shown.collect::<Vec<_>>().join(", ");
        if shown != wanted {
            wrong.push(format!("{path} must have the columns {wanted}, and has {shown}"));
        }
    }
    Ok(outcome(wrong))
}
