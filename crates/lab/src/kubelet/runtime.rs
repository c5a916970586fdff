//! Streams into pods for the API server: commands and logs.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _, ReadBuf};
use tokio::sync::{mpsc, oneshot};

use super::MIRROR;
use crate::container::config::ContainerDirectory;
use crate::container::{start_piped, start_terminal};
use crate::place::Place;
use crate::runtime::{ContainerRef, ExecRequest, ExecSession, LogRequest, PodRuntime, RuntimeError};

/// How often a followed log is looked at.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);
/// How much of a log's end is searched for the last lines, in bytes.
const MAX_TAIL: u64 = 8 << 20;

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

/// A container's directory, or an agent's log.
enum Source {
    Container(ContainerDirectory),
    Agent(PathBuf),
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
            Some(node) => Source::Agent(self.place.agent_log(node)),
            None => Source::Container(ContainerDirectory::of(&self.place.pod_directory(&known.uid), name)),
        })
    }
}

impl PodRuntime for Runtime {
    fn exec(&self, request: ExecRequest) -> BoxFuture<'static, Result<ExecSession, RuntimeError>> {
        let found = self.find(&request.target);
        async move {
            let directory = match found? {
                Source::Container(directory) => directory,
                Source::Agent(_) => {
                    let message = "the agent's pod mirrors a process of the lab; commands cannot be run in it";
                    return Err(RuntimeError::Failed(message.to_owned()));
                }
            };
            let running = directory.running().ok().flatten().is_some_and(|running| running.init.is_alive());
            if !running {
                return Err(RuntimeError::NotRunning {
                    pod: format!("{}/{}", request.target.namespace, request.target.pod),
                    container: request.target.container.unwrap_or_default(),
                });
            }
            start(&directory, &request).map_err(|error| RuntimeError::Failed(error.to_string()))
        }
        .boxed()
    }

    fn logs(&self, request: LogRequest) -> BoxFuture<'static, Result<Box<dyn AsyncRead + Send + Unpin>, RuntimeError>> {
        let found = self.find(&request.target);
        async move {
            let (path, container) = match found? {
                Source::Agent(path) => (path, None),
                Source::Container(directory) => {
                    let attempt = attempt(&directory, request.previous)
                        .ok_or_else(|| not_available(&request.target, request.previous))?;
                    (directory.log(attempt), Some((directory, attempt)))
                }
            };
            let open = open_log(&path, container, &request).await;
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
    let (sender, exit) = oneshot::channel();
    if request.tty {
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
    let mut child = start_piped(directory, &request.command, request.stdin)?;
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

/// The attempt whose log is asked for.
fn attempt(directory: &ContainerDirectory, previous: bool) -> Option<u32> {
    let current = directory.running().ok().flatten()?.attempt;
    if previous { current.checked_sub(1) } else { Some(current) }
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

async fn open_log(
    path: &std::path::Path,
    container: Option<(ContainerDirectory, u32)>,
    request: &LogRequest,
) -> io::Result<Log> {
    let mut file = tokio::fs::File::open(path).await?;
    if let Some(lines) = request.tail_lines {
        let start = tail_start(&mut file, lines).await?;
        file.seek(io::SeekFrom::Start(start)).await?;
    }
    Ok(Log { file, follow: request.follow.then(|| Follow { container, pause: None, last_round: false }) })
}

/// Where the last lines of a file begin.
async fn tail_start(file: &mut tokio::fs::File, lines: usize) -> io::Result<u64> {
    let length = file.metadata().await?.len();
    let from = length.saturating_sub(MAX_TAIL);
    if lines == 0 {
        return Ok(length);
    }
    file.seek(io::SeekFrom::Start(from)).await?;
    let mut text = Vec::new();
    file.take(MAX_TAIL).read_to_end(&mut text).await?;
    // The line end at the very end closes the last line; it does not begin another.
    let body = text.strip_suffix(b"\n").unwrap_or(&text);
    let begin = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').nth(lines - 1);
    Ok(from + begin.map_or(0, |(index, _)| index as u64 + 1))
}

/// A log being read, to its end or until the container ends.
struct Log {
    file: tokio::fs::File,
    follow: Option<Follow>,
}

struct Follow {
    container: Option<(ContainerDirectory, u32)>,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
    last_round: bool,
}

impl AsyncRead for Log {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if let Some(pause) = this.follow.as_mut().and_then(|follow| follow.pause.as_mut()) {
                std::task::ready!(pause.as_mut().poll(context));
            }
            if let Some(follow) = &mut this.follow {
                follow.pause = None;
            }
            let before = buffer.filled().len();
            std::task::ready!(Pin::new(&mut this.file).poll_read(context, buffer))?;
            let Some(follow) = &mut this.follow else { return Poll::Ready(Ok(())) };
            if buffer.filled().len() > before || follow.last_round {
                return Poll::Ready(Ok(()));
            }
            // Looked at before the pause: what was written until the end is read in the round after.
            follow.last_round = follow.has_ended();
            follow.pause = Some(Box::pin(tokio::time::sleep(FOLLOW_INTERVAL)));
        }
    }
}

impl Follow {
    fn has_ended(&self) -> bool {
        let Some((directory, attempt)) = &self.container else { return false };
        let running = directory.running().ok().flatten();
        !running.is_some_and(|running| running.attempt == *attempt && running.shim.is_alive())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn tail(content: &str, lines: Option<usize>) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, content).unwrap();
        let request = LogRequest {
            target: ContainerRef { namespace: "n".into(), pod: "p".into(), container: None },
            follow: false,
            tail_lines: lines,
            previous: false,
        };
        let mut text = String::new();
        open_log(&path, None, &request).await.unwrap().read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn the_last_lines_of_a_log_are_found() {
        assert_eq!(tail("a\nb\nc\n", None).await, "a\nb\nc\n");
        assert_eq!(tail("a\nb\nc\n", Some(2)).await, "b\nc\n");
        assert_eq!(tail("a\nb\nc", Some(1)).await, "c");
        assert_eq!(tail("a\nb\n", Some(9)).await, "a\nb\n");
        assert_eq!(tail("a\n\n", Some(1)).await, "\n");
        assert_eq!(tail("a\n", Some(0)).await, "");
        assert_eq!(tail("", Some(3)).await, "");
    }

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
