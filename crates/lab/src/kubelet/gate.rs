//! Asks the node's agent whether a pod's policy is in the kernel. Until it says yes the pod is not started.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// How long the agent may take over one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer read, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// A pod as the agent is asked about it.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Unique id of the pod.
    pub uid: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Comes back when the agent says that the pod's policy is in the kernel; else says why not.
pub(super) async fn endpoint_ready(socket: &Path, question: &Question) -> io::Result<()> {
    // The agent gives up first, so that its reason arrives.
    match tokio::time::timeout(PATIENCE + Duration::from_secs(1), ask(socket, question)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, "the agent does not answer")),
    }
}

async fn ask(socket: &Path, question: &Question) -> io::Result<()> {
    let mut connection = UnixStream::connect(socket)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("the node's agent cannot be reached: {error}")))?;
    let body = json!({
        "namespace": question.namespace,
        "name": question.name,
        "uid": question.uid,
        "addresses": question.addresses,
        "timeoutMs": PATIENCE.as_secs() * 1000,
    })
    .to_string();
    let head = format!(
        "POST /v1/endpoint/wait HTTP/1.1\r\nHost: ringfence\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).await?;
    connection.write_all(body.as_bytes()).await?;
    let mut answer = Vec::new();
    connection.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    judge(&String::from_utf8_lossy(&answer))
}

/// Reads the status line; the body of a failure says why.
fn judge(answer: &str) -> io::Result<()> {
    let status = answer.split_whitespace().nth(1).unwrap_or_default();
    if status == "200" {
        return Ok(());
    }
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let message = body
        .find('{')
        .and_then(|start| body.get(start..))
        .and_then(|text| serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>().next()?.ok())
        .and_then(|value| Some(value.get("message")?.as_str()?.to_owned()))
        .unwrap_or_else(|| format!("the agent answered with status {status:?}"));
    Err(io::Error::other(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    async fn answered(answer: &'static str) -> (io::Result<()>, String) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let mut length = 0;
            while !String::from_utf8_lossy(&request[..length]).contains("\r\n\r\n{") {
                length += connection.read(&mut request[length..]).await.unwrap();
            }
            connection.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let question = Question {
            namespace: "a".into(),
            name: "p".into(),
            uid: "u".into(),
            addresses: vec!["10.245.1.2".parse().unwrap()],
        };
        let result = endpoint_ready(&socket, &question).await;
        (result, server.await.unwrap())
    }

    #[tokio::test]
    async fn only_a_clear_yes_lets_a_pod_start() {
        let (result, request) = answered("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
        assert!(result.is_ok());
        assert!(request.contains(r#""addresses":["10.245.1.2"]"#), "{request}");
        let (result, _) = answered("HTTP/1.1 503 Oops\r\n\r\n{\"message\":\"watches are not in sync\"}").await;
        assert_eq!(result.unwrap_err().to_string(), "watches are not in sync");
        assert!(answered("").await.0.is_err());
        assert!(answered("HTTP/1.1 404 Not Found\r\n\r\n200").await.0.is_err());
    }

    #[tokio::test]
    async fn no_agent_is_an_error() {
        let question =
            Question { namespace: String::new(), name: String::new(), uid: String::new(), addresses: vec![] };
        let error = endpoint_ready(Path::new("/nonexistent/agent.sock"), &question).await.unwrap_err();
        assert!(error.to_string().starts_with("the node's agent cannot be reached"), "{error}");
    }
}
