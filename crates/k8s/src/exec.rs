//! Commands in containers, through the API server.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::AttachParams;
use kube::{Api, Client};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The result of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// The output of the command, standard error first.
    pub fn said(&self) -> &str {
        Some(self.stderr.trim()).filter(|text| !text.is_empty()).unwrap_or_else(|| self.stdout.trim())
    }
}

/// The reason why the result of a command is unknown.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The API server refused or could not be reached.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// The output could not be read.
    #[error("what it printed cannot be read")]
    Output(#[from] std::io::Error),
    /// The command was not started, or its exit status is unknown; with the message of the server.
    #[error("{0}")]
    NotStarted(String),
    /// The connection ended before the command.
    #[error("the connection to it was lost")]
    Lost,
}

/// Runs a command without input to its end, in a container of this name or else in the pod's first.
///
/// # Errors
/// It was not started, or how it ended is not known; that it ended badly is none.
pub async fn exec(
    client: &Client,
    namespace: &str,
    pod: &str,
    container: Option<&str>,
    command: &[&str],
) -> Result<Output, ExecError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let parameters = AttachParams::default().stdin(false).stdout(true).stderr(true);
    let parameters = container.into_iter().fold(parameters, AttachParams::container);
    let mut process = api.exec(pod, command.iter().copied(), &parameters).await?;
    let status = process.take_status().ok_or(ExecError::Lost)?;
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let (stdout, stderr, status) = tokio::join!(read(stdout), read(stderr), status);
    let status = status.ok_or(ExecError::Lost)?;
    let code = match exit_code(&status) {
        _ if status.status.as_deref() == Some("Success") => 0,
        Some(code) => code,
        None => return Err(ExecError::NotStarted(status.message.unwrap_or_else(|| "it did not start".into()))),
    };
    Ok(Output { code, stdout: stdout?, stderr: stderr? })
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The exit code among the details of a status.
fn exit_code(status: &Status) -> Option<i32> {
    let causes = status.details.as_ref()?.causes.as_ref()?;
    causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"))?.message.as_ref()?.parse().ok()
}
