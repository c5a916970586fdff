//! The agents of a cluster, and questions to them: their own program run beside each, so that nothing of an agent has
//! to be open to the network and the API server decides who may ask.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use ringfence_k8s::exec::Output;
use tokio::time::{Instant, timeout, timeout_at};

use crate::AGENT_LABEL;
use crate::exec::{self, Container};

/// How many agents are asked at a time. Many more than are likely to hang: those hold up the others.
pub(crate) const AT_ONCE: usize = 128;

/// A node, and its agent if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the node.
    pub node: String,
    /// The agent that runs there, or why none does.
    pub agent: Result<Agent, String>,
}

/// An agent that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its container.
    pub container: Container,
    /// The program beside it that asks it.
    pub program: &'static str,
}

/// The program in the agents' image.
const PROGRAM: &str = "ringfence-agent";
/// The program in the image of versions whose one program was the agent by its first argument.
const EARLIER: (&str, &str) = ("ringfence", "agent");

/// Every node of the cluster that agents are for, by name.
pub async fn list(client: &Client) -> Result<Vec<Place>, kube::Error> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    let pods = Api::<Pod>::all(client.clone()).list(&ListParams::default().labels(AGENT_LABEL)).await?;
    Ok(places(&nodes.items, &pods.items))
}

fn places(nodes: &[Node], pods: &[Pod]) -> Vec<Place> {
    let mut agents: BTreeMap<&str, Result<Agent, String>> = BTreeMap::new();
    for pod in pods {
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) else { continue };
        let found = agent(pod);
        // During an upgrade a node has the old agent's pod and the new one's.
        let entry = agents.entry(node).or_insert_with(|| found.clone());
        if entry.is_err() && found.is_ok() {
            *entry = found;
        }
    }
    let mut places: Vec<Place> = nodes
        .iter()
        .filter(|node| node.labels().get("kubernetes.io/os").is_none_or(|os| os == "linux"))
        .map(|node| Place {
            node: node.name_any(),
            agent: agents.get(&*node.name_any()).cloned().unwrap_or_else(|| Err(without(node))),
        })
        .collect();
    places.sort_by(|a, b| a.node.cmp(&b.node));
    places
}

fn without(node: &Node) -> String {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    match ready {
        Some(ready) if ready.status != "True" => {
            let message = ready.message.as_deref().unwrap_or("no reason is given");
            format!("no agent runs there, and the node is not ready: {message}")
        }
        _ => "no agent runs there".to_owned(),
    }
}

/// The agent, if it runs.
fn agent(pod: &Pod) -> Result<Agent, String> {
    if let Some(trouble) = crate::rollout::trouble(pod) {
        return Err(trouble);
    }
    let container = pod.spec.iter().flat_map(|spec| &spec.containers).next();
    let earlier =
        container.and_then(|container| container.args.as_ref()?.first()).is_some_and(|word| word == EARLIER.1);
    let name = container.map(|container| container.name.clone()).unwrap_or_default();
    let container = Container { namespace: pod.namespace().unwrap_or_default(), pod: pod.name_any(), name };
    Ok(Agent { container, program: if earlier { EARLIER.0 } else { PROGRAM } })
}

/// What one agent says, or why there is no answer.
pub type Answer = Result<Output, String>;

/// Runs the agent's program with these arguments beside each agent. Each may take so long, and all of them until `end`:
/// by then there is an answer of each node, in the order of `places`, be it that it gave none.
pub async fn ask(
    client: &Client,
    places: &[Place],
    arguments: &[&str],
    limit: Duration,
    end: Instant,
) -> Vec<(String, Answer)> {
    let one = async |place: &Place| match &place.agent {
        Ok(Agent { container, program }) => {
            let command: Vec<&str> = std::iter::once(*program).chain(arguments.iter().copied()).collect();
            exec::run_to_end(client, container, &command).await.map_err(|error| format!("{error:#}"))
        }
        Err(why) => Err(why.clone()),
    };
    gather(places, limit, end, one).await
}

/// Asks many at a time, whoever answers first.
async fn gather(
    places: &[Place],
    limit: Duration,
    end: Instant,
    ask: impl AsyncFn(&Place) -> Answer,
) -> Vec<(String, Answer)> {
    let (ask, begun) = (&ask, Instant::now());
    let one = async |(number, place)| {
        let silent = |_elapsed| Err(format!("its agent does not answer within {limit:?}"));
        (number, timeout(limit, ask(place)).await.unwrap_or_else(silent))
    };
    let asked = places.iter().enumerate();
    let mut answers: Vec<Option<Answer>> = vec![None; places.len()];
    let mut coming = std::pin::pin!(stream::iter(asked).map(one).buffer_unordered(AT_ONCE));
    while let Ok(Some((number, answer))) = timeout_at(end, coming.next()).await {
        answers[number] = Some(answer);
    }
    let late = || Err(format!("its agent did not answer in the {:.0?} that there were", begun.elapsed()));
    let named = |(place, answer): (&Place, Option<Answer>)| (place.node.clone(), answer.unwrap_or_else(late));
    places.iter().zip(answers).map(named).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, node: &str, running: bool) -> Pod {
        let state = if running {
            json!({"running": {}})
        } else {
            json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}})
        };
        let phase = if running { "Running" } else { "Pending" };
        parse(json!({
            "metadata": {"name": name, "namespace": "kube-system"},
            "spec": {"nodeName": node, "containers": [{"name": "agent"}]},
            "status": {"phase": phase, "containerStatuses": [{
                "name": "agent", "image": "", "imageID": "", "ready": running, "restartCount": 0, "state": state,
            }]},
        }))
    }

    fn node(name: &str, os: &str) -> Node {
        parse(json!({"metadata": {"name": name, "labels": {"kubernetes.io/os": os}}}))
    }

    fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    /// Nodes of which some say nothing for ever, at the front, where they hold up the others most.
    async fn crowd(number: usize, hanging: usize, limit: Duration, end: Duration) -> (Vec<Answer>, Duration) {
        let place = |number| Place { node: format!("n{number:04}"), agent: Err(String::new()) };
        let places: Vec<Place> = (0..number).map(place).collect();
        let begun = Instant::now();
        let ask = async |place: &Place| {
            if *place.node < *format!("n{hanging:04}") {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(Output { code: 0, stdout: place.node.clone(), stderr: String::new() })
        };
        let answers = gather(&places, limit, begun + end, ask).await;
        assert!(answers.iter().map(|(node, _)| node).eq(places.iter().map(|place| &place.node)), "in order");
        (answers.into_iter().map(|(_, answer)| answer).collect(), begun.elapsed())
    }

    #[tokio::test]
    async fn thirty_of_a_thousand_that_hang_hold_nobody_up() {
        let (answers, took) = crowd(1000, 30, Duration::from_secs(1), Duration::from_mins(1)).await;
        let (hanging, others) = answers.split_at(30);
        assert!(hanging.iter().all(|answer| answer.as_ref().unwrap_err() == "its agent does not answer within 1s"));
        assert!(others.iter().all(Result::is_ok));
        assert!(took < Duration::from_secs(10), "{took:?}");
    }

    #[tokio::test]
    async fn the_time_of_all_is_kept_however_many_hang() {
        let (answers, took) = crowd(1000, 900, Duration::from_secs(30), Duration::from_secs(1)).await;
        assert!(answers[..900].iter().all(|answer| answer.as_ref().unwrap_err().contains("did not answer in the")));
        assert!(took < Duration::from_secs(5), "{took:?}");
        let (answers, _) = crowd(200, 100, Duration::from_secs(30), Duration::from_secs(1)).await;
        assert!(answers[100..].iter().all(Result::is_ok), "what came in time is told");
    }

    #[test]
    fn an_agent_of_an_earlier_version_is_asked_by_the_program_that_it_has() {
        let mut earlier = pod("a", "n", true);
        earlier.spec.as_mut().unwrap().containers[0].args = Some(vec!["agent".into(), "--metrics=:1".into()]);
        assert_eq!(agent(&earlier).unwrap().program, "ringfence");
        assert_eq!(agent(&pod("a", "n", true)).unwrap().program, "ringfence-agent");
    }

    #[test]
    fn every_linux_node_has_a_line_and_a_running_agent_wins() {
        let nodes = [node("b", "linux"), node("a", "linux"), node("w", "windows"), node("c", "linux")];
        let pods = [pod("old", "a", false), pod("new", "a", true), pod("broken", "c", false)];
        let found = places(&nodes, &pods);
        let names: Vec<&str> = found.iter().map(|place| place.node.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        let new = found[0].agent.as_ref().unwrap();
        assert_eq!((new.container.pod.as_str(), new.program), ("new", "ringfence-agent"));
        assert_eq!(found[1].agent.as_ref().unwrap_err(), "no agent runs there");
        assert!(found[2].agent.as_ref().unwrap_err().contains("ImagePullBackOff: no such image"), "{found:?}");
    }
}
