//! The program of the network plugin as a runtime starts it, while the agent restarts.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::kit::program;

/// `STATUS` of CNI 1.1: what comes out, and how the program ends.
fn status(socket: &Path) -> (Option<Value>, i32) {
    let conf = json!({"cniVersion": "1.1.0", "name": "pods", "type": "ringfence-cni", "socket": socket});
    let mut child = Command::new(program("ringfence-cni"))
        .env_clear()
        .env("CNI_COMMAND", "STATUS")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (serde_json::from_slice(&output.stdout).ok(), output.status.code().unwrap())
}

/// An agent that gives each who asks this answer, until the listener goes.
fn answer(listener: UnixListener, times: usize, answer: &'static str) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for _ in 0..times {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let length = connection.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /v1/serving "));
            connection.write_all(answer.as_bytes()).unwrap();
        }
    })
}

/// A runtime takes a node's pods out of Services while the network is said not to be there. So a restart is no reason
/// to say so, and what is said is 50: no new pod can be connected. 51 would be that pods that run may have lost theirs.
#[test]
fn status_is_well_while_the_agent_restarts_and_50_when_it_stays_away_or_cannot_serve() {
    const YES: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
    const NO: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 16\r\n\r\n{\"error\":\"late\"}";
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let unavailable = |answer: (Option<Value>, i32)| {
        let (Some(error), 1) = answer else { panic!("{answer:?}") };
        assert_eq!((&error["code"], &error["cniVersion"]), (&json!(50), &json!("1.1.0")), "{error}");
        assert!(error["msg"].is_string() && error["details"].is_string(), "{error}");
    };
    unavailable(status(&socket));
    // It is there, and says so beside its socket.
    let serving = answer(UnixListener::bind(&socket).unwrap(), 1, YES);
    ringfence_cni::touch(&socket).unwrap();
    assert_eq!(status(&socket), (None, 0));
    serving.join().unwrap();
    // It was killed: its socket is there, and nobody answers.
    assert!(socket.exists());
    assert_eq!(status(&socket), (None, 0));
    // It ended by itself, and took the socket along.
    std::fs::remove_file(&socket).unwrap();
    assert_eq!(status(&socket), (None, 0));
    // The one that comes has not read the policy of the cluster yet.
    let starting = answer(UnixListener::bind(&socket).unwrap(), 2, NO);
    assert_eq!(status(&socket), (None, 0));
    // It takes longer than a restart does.
    let stamp = std::fs::File::options().write(true).open(ringfence_cni::stamp(&socket)).unwrap();
    stamp.set_modified(SystemTime::now() - Duration::from_secs(90)).unwrap();
    unavailable(status(&socket));
    starting.join().unwrap();
    std::fs::remove_file(&socket).unwrap();
    unavailable(status(&socket));
}
