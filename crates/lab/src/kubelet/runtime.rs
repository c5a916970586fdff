//! Streams into pods for the API server: commands and logs.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use parking_lot::RwLock;
use tokio::io::AsyncRead;
use tokio::sync::{mpsc, oneshot};

use super::logs::Until;
use super::{MIRROR, attach, beside_agent, logs};
use crate::container::config::ContainerDirectory;
use crate::container::{start_piped, start_terminal};
use crate::place::Place;
use crate::runtime::{AttachRequest, ContainerRef, ExecRequest, ExecSession, LogRequest, PodRuntime, RuntimeError};

/// Knows which pod is where.
#[derive(Debug)]
pub struct Runtime {
    place: Place,
    api_address: SocketAddr,
    pods: RwLock<HashMap<(String, String), Known>>,
}

#[derive(Clone, Debug)]
struct Known {
    uid: String,
    containers: Vec<String>,
    /// The node whose agent a mirror pod stands for.
    mirror_of: Option<String>,
}

/// A container's directory, or the node of an agent.
enum Source {
    Container(ContainerDirectory),
    Agent(String),
}

impl Runtime {
    /// Of a lab whose API is at that address inside its network.
    pub fn new(place: Place, api_address: SocketAddr) -> Self {
        Self { place, api_address, pods: RwLock::default() }
    }

    /// Remembers a pod.
    pub(super) fn remember(&self, pod: &Pod) {
        let spec = pod.spec.as_ref();
        let all = spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        let known = Known {
            uid: pod.uid().unwrap_or_default(),
            containers: all.map(|container| container.name.clone()).collect(),
            mirror_of: pod
                .annotations()
                .contains_key(MIRROR)
                .then(|| spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default()),
        };
        self.pods.write().insert((pod.namespace().unwrap_or_default(), pod.name_any()), known);
    }

    /// Forgets a pod.
    pub(super) fn forget(&self, uid: &str) {
        self.pods.write().retain(|_, known| known.uid != uid);
    }

    fn find(&self, target: &ContainerRef) -> Result<Source, RuntimeError> {
        let pod = format!("{}/{}", target.namespace, target.pod);
        let not_found = |container: &str| RuntimeError::NotFound { pod: pod.clone(), container: container.to_owned() };
        let pods = self.pods.read();
        let known = pods
            .get(&(target.namespace.clone(), target.pod.clone()))
            .ok_or_else(|| not_found(target.container.as_deref().unwrap_or_default()))?;
        let name = match &target.container {
            Some(name) if known.containers.contains(name) => name,
            Some(name) => return Err(not_found(name)),
            None => known.containers.first().ok_or_else(|| not_found(""))?,
        };
        Ok(match &known.mirror_of {
            Some(node) => Source::Agent(node.clone()),
            None => Source::Container(ContainerDirectory::of(&self.place.pod_directory(&known.uid), name)),
        })
    }
}

impl PodRuntime for Runtime {
    fn exec(&self, request: ExecRequest) -> BoxFuture<'static, Result<ExecSession, RuntimeError>> {
        let found = self.find(&request.target);
        let place = self.place.clone();
        async move {
            let source = found?;
            if let Source::Agent(node) = &source {
                return beside_agent::start(&place, node, &request);
            }
            let directory = running(source, &request.target)?;
            start(&directory, &request).map_err(|error| RuntimeError::Failed(error.to_string()))
        }
        .boxed()
    }

    fn attach(&self, request: AttachRequest) -> BoxFuture<'static, Result<ExecSession, RuntimeError>> {
        let found = self.find(&request.target);
        async move {
            let directory = running(found?, &request.target)?;
            // Whether it is a terminal is the container's affair, not the client's.
            let streams = directory.config().map(|config| config.streams);
            let attached = match streams {
                Ok(streams) => attach::attach(&directory, request.stdin && streams.stdin, streams.terminal),
                Err(error) => Err(error),
            };
            attached.map_err(|error| RuntimeError::Failed(format!("cannot attach: {error}")))
        }
        .boxed()
    }

    fn logs(&self, request: LogRequest) -> BoxFuture<'static, Result<Box<dyn AsyncRead + Send + Unpin>, RuntimeError>> {
        let found = self.find(&request.target);
        let place = self.place.clone();
        async move {
            let (path, until) = match found? {
                Source::Agent(node) => (place.agent_log(&node), Until::Forever),
                Source::Container(directory) => log_of(&directory, request.previous)
                    .ok_or_else(|| not_available(&request.target, request.previous))?,
            };
            let open = logs::open(&path, until, &request).await;
            let reader = open.map_err(|error| RuntimeError::Failed(format!("log cannot be read: {error}")))?;
            Ok(Box::new(reader) as Box<dyn AsyncRead + Send + Unpin>)
        }
        .boxed()
    }

    fn api_address(&self) -> Option<SocketAddr> {
        Some(self.api_address)
    }
}

fn start(directory: &ContainerDirectory, request: &ExecRequest) -> io::Result<ExecSession> {
    if request.tty {
        let (sender, exit) = oneshot::channel();
        let (child, terminal) = start_terminal(directory, &request.command)?;
        let (resize, mut sizes) = mpsc::channel::<(u16, u16)>(4);
        let resized = terminal.clone();
        tokio::spawn(async move {
            while let Some((columns, rows)) = sizes.recv().await {
                if let Err(error) = resized.resize(columns, rows) {
                    tracing::debug!(%error, "terminal not resized");
                }
            }
        });
        tokio::spawn(report_exit(child, sender));
        return Ok(ExecSession {
            stdin: request.stdin.then(|| Box::new(terminal.clone()) as Box<_>),
            stdout: Box::new(terminal),
            stderr: None,
            resize: Some(resize),
            exit,
        });
    }
    piped(start_piped(directory, &request.command, request.stdin)?)
}

/// The session of a command with pipes.
pub(super) fn piped(mut child: tokio::process::Child) -> io::Result<ExecSession> {
    let (sender, exit) = oneshot::channel();
    let missing = || io::Error::other("the command has no pipe");
    let session = ExecSession {
        stdin: child.stdin.take().map(|stdin| Box::new(stdin) as Box<_>),
        stdout: Box::new(child.stdout.take().ok_or_else(missing)?),
        stderr: Some(Box::new(child.stderr.take().ok_or_else(missing)?)),
        resize: None,
        exit,
    };
    tokio::spawn(report_exit(child, sender));
    Ok(session)
}

/// Waits for a command's end; if nobody wants to know any more, ends it.
async fn report_exit(mut child: tokio::process::Child, mut sender: oneshot::Sender<i32>) {
    let status = tokio::select! {
        status = child.wait() => status,
        // Dropping the child kills it.
        () = sender.closed() => return,
    };
    let code = status.ok().and_then(|status| status.code()).unwrap_or(137);
    let _nobody_listens = sender.send(code);
}

/// The directory of a container that runs.
fn running(source: Source, target: &ContainerRef) -> Result<ContainerDirectory, RuntimeError> {
    let directory = match source {
        Source::Container(directory) => directory,
        Source::Agent(_) => {
            let message = "the agent's pod mirrors a process of the lab; there is nothing to attach to";
            return Err(RuntimeError::Failed(message.to_owned()));
        }
    };
    let runs = directory.running().ok().flatten().is_some_and(|running| running.init.is_alive());
    if runs { Ok(directory) } else { Err(not_available(target, false)) }
}

/// The log asked for, and until when it grows.
fn log_of(directory: &ContainerDirectory, previous: bool) -> Option<(PathBuf, Until)> {
    let current = directory.running().ok().flatten()?;
    if previous {
        return Some((directory.log(current.attempt.checked_sub(1)?), Until::Ended));
    }
    Some((directory.log(current.attempt), Until::End(current.shim)))
}

fn not_available(target: &ContainerRef, previous: bool) -> RuntimeError {
    let container = target.container.clone().unwrap_or_default();
    if previous {
        return RuntimeError::Failed(format!(
            "previous terminated container {container:?} in pod {:?} not found",
            target.pod
        ));
    }
    RuntimeError::NotRunning { pod: format!("{}/{}", target.namespace, target.pod), container }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_pods_and_containers_are_told_apart() {
        let runtime = Runtime::new(Place::at("/nonexistent"), "10.89.0.1:6443".parse().unwrap());
        let pod = serde_json::json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "c"}]},
        });
        runtime.remember(&serde_json::from_value(pod).unwrap());
        let find = |pod: &str, container: Option<&str>| {
            let target =
                ContainerRef { namespace: "n".into(), pod: pod.into(), container: container.map(ToOwned::to_owned) };
            runtime.find(&target).err()
        };
        assert_eq!(find("p", None), None);
        assert_eq!(find("p", Some("c")), None);
        let missing = |pod: &str, container: &str| {
            Some(RuntimeError::NotFound { pod: pod.to_owned(), container: container.to_owned() })
        };
        assert_eq!(find("p", Some("d")), missing("n/p", "d"));
        assert_eq!(find("q", None), missing("n/q", ""));
        runtime.forget("u");
        assert_eq!(find("p", None), missing("n/p", ""));
    }
}
