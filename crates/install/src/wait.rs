//! Waiting until policies are enforced, on one node or on all.
//!
//! Nothing is written per node: each agent is asked, by a command that runs beside it and comes back when it can say
//! yes.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::Client;
use ringfence_agent::api;
use ringfence_agent::client::Client as AgentClient;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::{agents, objects};

/// How often an agent is asked on its own node: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// What a node is given at a time: connections through API servers do not live for ever.
const ROUND: Duration = Duration::from_secs(30);
/// The same where more nodes are waited for than can be asked at a time: each shall have its turn.
const TURN: Duration = Duration::from_secs(1);
/// How many policies are asked for at a time: they are written into the address of a request.
const AT_A_TIME: usize = 100;
/// The least time nodes are given for their first answer, also where nobody shall wait at all.
const LEAST: Duration = Duration::from_secs(2);
/// How much longer than the command itself its connection may take.
const SLACK: Duration = Duration::from_secs(5);
/// So long before the time is up a node shall say what it lacks, lest it be too late: at most, and as a part of that
/// time.
const EARLY: (Duration, u32) = (Duration::from_secs(1), 5);

/// A policy and what to wait for. Written as `KIND/NAMESPACE/NAME@UID:GENERATION`, without generation for one that is
/// to be gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    /// None: it is to be gone.
    generation: Option<i64>,
}

impl Wanted {
    /// An object as the API server has it, in its generation or a newer one.
    pub fn enforced(object: &Value) -> anyhow::Result<Self> {
        let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
        let generation = generation.with_context(|| format!("{} has no generation", objects::title(object)))?;
        Ok(Self { generation: Some(generation), ..Self::gone(object)? })
    }

    /// An object that was deleted: that it is not enforced any more.
    pub fn gone(object: &Value) -> anyhow::Result<Self> {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let wanted = Self {
            kind: text("/kind"),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name"),
            uid: text("/metadata/uid"),
            generation: None,
        };
        anyhow::ensure!(!wanted.uid.is_empty(), "{} has no uid", objects::title(object));
        Ok(wanted)
    }

    fn is_met(&self, status: &api::Status) -> bool {
        let found = status.policies.iter().find(|policy| policy.uid == self.uid);
        match (self.generation, found) {
            (Some(generation), Some(policy)) => policy.enforced_generation >= Some(generation),
            (Some(_), None) => false,
            // Nothing is known before everything was listed.
            (None, found) => found.is_none() && status.ready,
        }
    }

    /// What is the matter with it, for people.
    fn lag(&self, status: &api::Status) -> String {
        let title = format!("{} {}", self.kind, self.title());
        match (self.generation, status.policies.iter().find(|policy| policy.uid == self.uid)) {
            (None, _) => format!("{title} is still there"),
            (Some(_), None) => format!("{title} is not known yet"),
            (Some(wanted), Some(policy)) => match policy.enforced_generation {
                Some(generation) => format!("{title} is enforced in generation {generation}, not {wanted}"),
                None => format!("{title} is not enforced in any generation"),
            },
        }
    }

    fn title(&self) -> String {
        if self.namespace.is_empty() { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name, uid, generation } = self;
        write!(f, "{kind}/{namespace}/{name}@{uid}")?;
        generation.map_or(Ok(()), |generation| write!(f, ":{generation}"))
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not of the form KIND/NAMESPACE/NAME@UID:GENERATION");
        let (path, rest) = text.split_once('@').ok_or_else(wrong)?;
        let [kind, namespace, name] = path.split('/').collect::<Vec<_>>()[..] else { return Err(wrong()) };
        let (uid, generation) = match rest.split_once(':') {
            Some((uid, generation)) => (uid, Some(generation.parse().map_err(|_not_a_number| wrong())?)),
            None => (rest, None),
        };
        let [kind, namespace, name, uid] = [kind, namespace, name, uid].map(str::to_owned);
        Ok(Self { kind, namespace, name, uid, generation })
    }
}

/// What is not enforced when the time is up, for people; nothing if all is.
pub type Lags = Vec<String>;

/// Waits for the agent of this node.
pub async fn here(agent: &AgentClient, wanted: &[Wanted], limit: Duration) -> anyhow::Result<Lags> {
    let end = Instant::now() + limit;
    let mut pause = PAUSE.0;
    loop {
        let status = agent.status().await?;
        let lags: Lags = wanted.iter().filter(|one| !one.is_met(&status)).map(|one| one.lag(&status)).collect();
        if lags.is_empty() || Instant::now() > end {
            return Ok(lags);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Waits for the agents of all nodes.
pub async fn everywhere(client: &Client, wanted: &[Wanted], limit: Duration) -> anyhow::Result<Lags> {
    let end = Instant::now() + limit;
    for some in wanted.chunks(AT_A_TIME) {
        let lags = until(client, some, end).await?;
        if !lags.is_empty() {
            return Ok(lags);
        }
    }
    Ok(Lags::new())
}

async fn until(client: &Client, wanted: &[Wanted], end: Instant) -> anyhow::Result<Lags> {
    let mut done: BTreeSet<String> = BTreeSet::new();
    let end = end.max(Instant::now() + LEAST);
    loop {
        let listed = timeout_at(end, agents::list(client)).await;
        let mut places = listed.context("the API server does not list nodes and agents in time")??;
        if !crate::status::is_installed(&places) {
            bail!("no agent runs in this cluster; hint: ringfence install");
        }
        places.retain(|place| !done.contains(&place.node));
        let lags = ask(client, &places, wanted, end, &mut done).await;
        if lags.is_empty() || Instant::now() + PAUSE.1 >= end {
            return Ok(lags);
        }
        tokio::time::sleep(PAUSE.1).await;
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
    for (node, answer) in agents::ask(client, places, &arguments, turn + SLACK, end).await {
        match answer {
            Ok(output) if output.code == 0 => drop(done.insert(node)),
            Ok(output) => lags.push(format!("{node}: {}", output.said())),
            Err(why) => lags.push(format!("{node}: {why}")),
        }
    }
    lags
}

/// How long each of so many nodes may wait for its agent, if so much time is left for all.
fn turn(nodes: usize, left: Duration) -> Duration {
    let most = if nodes > agents::AT_ONCE { TURN } else { ROUND };
    left.saturating_sub(EARLY.0.min(left / EARLY.1)).min(most)
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
        wanted.push(Wanted::enforced(&found)?);
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
        assert_eq!(turn(2, second * 60), ROUND);
        assert_eq!(turn(2, second * 10), second * 9);
        assert_eq!(turn(2, second), second * 4 / 5);
        assert_eq!(turn(2, Duration::ZERO), Duration::ZERO);
        assert_eq!(turn(1000, second * 60), TURN);
    }

    #[test]
    fn what_is_wanted_survives_a_command_line() {
        for wanted in [
            Wanted::enforced(&object(Some("shop"))).unwrap(),
            Wanted::enforced(&object(None)).unwrap(),
            Wanted::gone(&object(None)).unwrap(),
        ] {
            assert_eq!(wanted.to_string().parse(), Ok(wanted.clone()), "{wanted}");
        }
        assert_eq!(Wanted::enforced(&object(Some("shop"))).unwrap().to_string(), "NetworkPolicy/shop/web@1-2:7");
        for wrong in ["", "a/b@c", "a/b/c", "a/b/c@d:x"] {
            assert!(wrong.parse::<Wanted>().is_err(), "{wrong}");
        }
    }
}
