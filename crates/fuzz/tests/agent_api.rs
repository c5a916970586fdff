//! What is said to an agent over its socket, and what it answers.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::sync::mpsc;
use std::time::Duration;

use ringfence_api::{CollectRequest, FlowLine, ReleaseRequest, Status, WaitRequest, blocking};
use ringfence_fuzz::hostile;
use serde::Serialize;
use serde::de::DeserializeOwned;

const WAIT: &[u8] = br#"{"namespace": "shop", "name": "web", "uid": "1a", "addresses": ["10.0.0.7", "fd00::7"],
  "container": "c1", "network": "bridge", "links": ["veth1"],
  "hardwareAddress": "02:00:00:00:00:01", "timeoutMs": 10}"#;
const RELEASE: &[u8] = br#"{"namespace": "shop", "name": "web", "uid": "1a", "container": "c1"}"#;
const COLLECT: &[u8] = br#"{"network": "bridge", "containers": ["c1", "c2"]}"#;
const LOST: &[u8] = br#"{"apiVersion": "ringfence/v1", "kind": "FlowsLost", "lost": 3, "source": null}"#;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 74\r\n\r\n\
  {\"apiVersion\":\"ringfence/v1\",\"kind\":\"EndpointReady\",\"addresses\":[\"10.0.0.7\"]}";
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\r\n\
  {\"apiVersion\":\"ringfence/v1\",\"kind\":\"Failure\",\"message\":\"not in sync\"}";

/// Reads a value; one that can be read is written as something that gives it again.
fn read<T: DeserializeOwned + Serialize>(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(bytes) {
        let text = serde_json::to_vec(&value).expect("it can be written");
        let again: T = serde_json::from_slice(&text).expect("what was written can be read");
        assert_eq!(serde_json::to_vec(&again).expect("it can be written"), text);
    }
}

#[test]
fn requests_to_an_agent_survive_hostile_input() {
    hostile(&[WAIT, RELEASE, COLLECT], |bytes| {
        read::<WaitRequest>(bytes);
        read::<ReleaseRequest>(bytes);
        read::<CollectRequest>(bytes);
    });
}

#[test]
fn statuses_and_flows_survive_hostile_input() {
    hostile(&[LOST, WAIT, b"{\"kind\": \"Flow\"}"], |bytes| {
        read::<Status>(bytes);
        let _ = serde_json::from_slice::<FlowLine>(bytes);
    });
}

#[test]
fn answers_of_an_agent_survive_hostile_input() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let (answers, next) = mpsc::channel::<Vec<u8>>();
    std::thread::spawn(move || {
        for answer in next {
            let (mut connection, _) = listener.accept().expect("the client connects");
            // The request is shorter than this and comes at once; whatever it is, the answer is hostile.
            let _ = connection.read(&mut [0; 4096]);
            let _ = connection.write_all(&answer);
        }
    });
    let request: WaitRequest = serde_json::from_slice(WAIT).expect("a request");
    hostile(&[ANSWER, REFUSAL], |bytes| {
        answers.send(bytes.to_vec()).expect("the agent is there");
        // A yes names addresses, and anything else says why not.
        if let Err(error) = blocking::check(&socket, Duration::from_secs(10), &request) {
            assert!(!error.to_string().is_empty());
        }
    });
}
