//! Waiting until policies are enforced, on one node or on all.
//!
//! Nothing is written per node: each agent is asked, by a command that runs beside it and comes back when it can say
//! yes.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::Client;
use ringfence_api::wanted::{Lags, Wanted};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::{agents, objects};

/// Time between two rounds.
const ROUND_INTERVAL: Duration = Duration::from_millis(250);
/// Time that a node gets in one round: connections through API servers do not live for ever.
const ROUND_TIMEOUT: Duration = Duration::from_secs(30);
/// The same where more nodes are waited for than can be asked at a time: each shall have its turn.
const CROWDED_ROUND_TIMEOUT: Duration = Duration::from_secs(1);
/// The number of policies are asked for at a time: they are written into the address of a request.
const MAX_POLICIES_PER_REQUEST: usize = 100;
/// The least time nodes are given for their first answer, also where nobody shall wait at all.
const MIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Time that a connection may take beyond its command.
const CONNECTION_MARGIN: Duration = Duration::from_secs(5);
/// So long before the time is up a node shall say what it lacks, lest it be too late: at most, and as a part of that
/// time.
const REPORT_MARGIN: (Duration, u32) = (Duration::from_secs(1), 5);

/// An object as the API server has it, in its generation or a newer one.
pub fn enforced(object: &Value) -> anyhow::Result<Wanted> {
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
    let generation = generation.with_context(|| format!("{} has no generation", objects::title(object)))?;
    Ok(Wanted { generation: Some(generation), ..gone(object)? })
}

/// An object that was deleted: it is not to be enforced any more.
pub fn gone(object: &Value) -> anyhow::Result<Wanted> {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let wanted = Wanted {
        kind: text("/kind"),
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
        uid: text("/metadata/uid"),
        generation: None,
    };
    anyhow::ensure!(!wanted.uid.is_empty(), "{} has no uid", objects::title(object));
    Ok(wanted)
}

/// Waits for the agents of all nodes.
pub async fn everywhere(client: &Client, wanted: &[Wanted], limit: Duration) -> anyhow::Result<Lags> {
    let end = Instant::now() + limit;
    for some in wanted.chunks(MAX_POLICIES_PER_REQUEST) {
        let lags = until(client, some, end).await?;
        if !lags.is_empty() {
            return Ok(lags);
        }
    }
    Ok(Lags::new())
}

async fn until(client: &Client, wanted: &[Wanted], end: Instant) -> anyhow::Result<Lags> {
    let mut done: BTreeSet<String> = BTreeSet::new();
    let end = end.max(Instant::now() + MIN_TIMEOUT);
    loop {
        let listed = timeout_at(end, agents::list(client)).await;
        let mut places = listed.context("the API server does not list nodes and agents in time")??;
        if !crate::status::is_installed(&places) {
            bail!("no agent runs in this cluster; hint: ringfence install");
        }
        places.retain(|place| !done.contains(&place.node));
        let lags = ask(client, &places, wanted, end, &mut done).await;
        if lags.is_empty() || Instant::now() + ROUND_INTERVAL >= end {
            return Ok(lags);
        }
        tokio::time::sleep(ROUND_INTERVAL).await;
    }
}

async fn ask(
    client: &Client,
    places: &[agents::Place],
    wanted: &[Wanted],
    end: Instant,
    done: &mut BTreeSet<String>,
) -> Lags {
    let turn = turn(places.len(), end.saturating_duration_since(Instant::now()));
    let timeout = format!("{}ms", turn.as_millis());
    let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    let mut arguments = vec!["wait", "--here", "--timeout", &timeout];
    arguments.extend(wanted.iter().map(String::as_str));
    let mut lags = Lags::new();
    for (node, answer) in agents::ask(client, places, &arguments, turn + CONNECTION_MARGIN, end).await {
        match answer {
            Ok(output) if output.code == 0 => drop(done.insert(node)),
            Ok(output) => lags.push(format!("{node}: {}", output.said())),
            Err(why) => lags.push(format!("{node}: {why}")),
        }
    }
    lags
}

/// The time that each of so many nodes may wait for its agent, if so much time is left for all.
fn turn(nodes: usize, left: Duration) -> Duration {
    let most = if nodes > agents::AT_ONCE { CROWDED_ROUND_TIMEOUT } else { ROUND_TIMEOUT };
    left.saturating_sub(REPORT_MARGIN.0.min(left / REPORT_MARGIN.1)).min(most)
}

/// The policies of a file, as the API server has them now.
pub async fn of_objects(client: &Client, written: &[Value]) -> anyhow::Result<Vec<Wanted>> {
    let mut wanted = Vec::new();
    for object in written {
        let title = objects::title(object);
        let name = object.pointer("/metadata/name").and_then(Value::as_str).context("a policy without a name")?;
        let found =
            objects::api(client, object)?.get_opt(name).await.with_context(|| format!("cannot read {title}"))?;
        let found = found.with_context(|| format!("{title} is not in the cluster; hint: kubectl apply it first"))?;
        let mut found = serde_json::to_value(found)?;
        found["kind"] = object["kind"].clone();
        wanted.push(enforced(&found)?);
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(namespace: Option<&str>) -> Value {
        json!({"kind": "NetworkPolicy", "metadata": {
            "namespace": namespace, "name": "web", "uid": "1-2", "generation": 7,
        }})
    }

    #[test]
    fn each_of_many_nodes_has_its_turn_and_says_what_it_lacks_in_time() {
        let second = Duration::from_secs(1);
        assert_eq!(turn(2, second * 60), ROUND_TIMEOUT);
        assert_eq!(turn(2, second * 10), second * 9);
        assert_eq!(turn(2, second), second * 4 / 5);
        assert_eq!(turn(2, Duration::ZERO), Duration::ZERO);
        assert_eq!(turn(1000, second * 60), CROWDED_ROUND_TIMEOUT);
    }

    #[test]
    fn an_object_is_waited_for_in_its_generation_or_until_it_is_gone() {
        let texts = [enforced(&object(Some("shop"))), enforced(&object(None)), gone(&object(None))];
        let texts = texts.map(|wanted| wanted.unwrap().to_string());
        assert_eq!(texts, ["NetworkPolicy/shop/web@1-2:7", "NetworkPolicy//web@1-2:7", "NetworkPolicy//web@1-2"]);
        assert!(gone(&json!({"kind": "NetworkPolicy"})).is_err());
    }
}
