//! Interface of the API server to the runtime of pods: streams into them and their logs.

use std::net::SocketAddr;

use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

/// Runs commands in pods and reads their output. Implemented by the kubelet, called by the API server.
pub trait PodRuntime: Send + Sync + 'static {
    /// Starts a command in a container.
    fn exec(&self, request: ExecRequest) -> BoxFuture<'static, Result<ExecSession, RuntimeError>>;
    /// Attaches to a container's own command.
    fn attach(&self, request: AttachRequest) -> BoxFuture<'static, Result<ExecSession, RuntimeError>>;
    /// Opens the log of a container.
    fn logs(&self, request: LogRequest) -> BoxFuture<'static, Result<Box<dyn AsyncRead + Send + Unpin>, RuntimeError>>;
    /// Address of the API inside the lab's network, for what runs in pods and nodes.
    fn api_address(&self) -> Option<SocketAddr> {
        None
    }
}

/// A container of a pod; `container` empty means the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRef {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Name of the container, if the caller named one.
    pub container: Option<String>,
}

/// A command to run in a container.
#[derive(Clone, Debug)]
pub struct ExecRequest {
    /// Its port.
    pub target: ContainerRef,
    /// Program and arguments.
    pub command: Vec<String>,
    /// True if the caller will send input.
    pub stdin: bool,
    /// True if to run on a terminal (then everything comes on standard output).
    pub tty: bool,
}

/// A container to attach to.
#[derive(Clone, Debug)]
pub struct AttachRequest {
    /// Its identity.
    pub target: ContainerRef,
    /// True if the caller will send input.
    pub stdin: bool,
}

/// A running command.
pub struct ExecSession {
    /// Its input, if asked for; closing it is end of file.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Its output.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// Its error output; none on a terminal.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Takes new terminal sizes (columns, rows), on a terminal.
    pub resize: Option<mpsc::Sender<(u16, u16)>>,
    /// Its exit code, once it has ended.
    pub exit: oneshot::Receiver<i32>,
}

/// Part of a log.
#[derive(Clone, Debug)]
pub struct LogRequest {
    /// Whose.
    pub target: ContainerRef,
    /// Go on until the container ends.
    pub follow: bool,
    /// Only so many last lines.
    pub tail_lines: Option<usize>,
    /// The log of the container before its last restart.
    pub previous: bool,
    /// Only what was written since.
    pub since: Option<Timestamp>,
    /// Each line with its time.
    pub timestamps: bool,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
}

/// The reason why a stream could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// No such pod or container on any node.
    #[error("container {container} of pod {pod} not found")]
    NotFound {
        /// Pod as namespace/name.
        pod: String,
        /// Container asked for.
        container: String,
    },
    /// The container is not running.
    #[error("container {container} of pod {pod} is not running")]
    NotRunning {
        /// Pod as namespace/name.
        pod: String,
        /// Container asked for.
        container: String,
    },
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}
