//! Asks the node's agent whether a pod's policy is in the kernel. Until it says yes the pod is not started.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ringfence_api::WaitRequest;
use ringfence_api::client::Client;

/// Time that the agent may take over one answer.
const AGENT_TIMEOUT: Duration = Duration::from_secs(10);

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

/// Returns when the agent says that the pod's policy is in the kernel; else says why not.
pub(super) async fn endpoint_ready(socket: &Path, question: &Question) -> io::Result<()> {
    let request = WaitRequest {
        namespace: question.namespace.clone(),
        name: question.name.clone(),
        uid: question.uid.clone(),
        addresses: question.addresses.clone(),
        container: None,
        network: None,
        links: Vec::new(),
        hardware_address: None,
        timeout_ms: u64::try_from(AGENT_TIMEOUT.as_millis()).unwrap_or(u64::MAX),
    };
    let client = Client::new(socket);
    // The agent gives up first, so that its reason arrives.
    match tokio::time::timeout(AGENT_TIMEOUT + Duration::from_secs(1), client.wait(&request)).await {
        Ok(reply) => reply.map(drop).map_err(io::Error::other),
        Err(_elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, "the agent does not answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_api::Failure;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    async fn answered(answer: String) -> (io::Result<()>, String) {
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
        let yes = r#"{"apiVersion":"ringfence/v1","kind":"EndpointReady","addresses":[]}"#;
        let (result, request) =
            answered(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{yes}", yes.len())).await;
        assert!(result.is_ok());
        assert!(request.contains(r#""addresses":["10.245.1.2"]"#), "{request}");
        let no = serde_json::to_string(&Failure::new("watches are not in sync")).unwrap();
        let (result, _) = answered(format!("HTTP/1.1 503 Oops\r\n\r\n{no}")).await;
        assert_eq!(result.unwrap_err().to_string(), "watches are not in sync");
        assert!(answered(String::new()).await.0.is_err());
        assert!(answered("HTTP/1.1 404 Not Found\r\n\r\n200".into()).await.0.is_err());
    }

    #[tokio::test]
    async fn no_agent_is_an_error() {
        let question =
            Question { namespace: String::new(), name: String::new(), uid: String::new(), addresses: vec![] };
        let error = endpoint_ready(Path::new("/nonexistent/agent.sock"), &question).await.unwrap_err();
        assert!(error.to_string().starts_with("no agent answers on /nonexistent/agent.sock"), "{error}");
    }
}
