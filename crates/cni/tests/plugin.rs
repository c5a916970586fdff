//! The plugin as a runtime sees it: environment and standard input in, result or CNI error out.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread::JoinHandle;

use proptest::prelude::*;
use ringfence_cni::{Outcome, run};
use serde_json::{Value, json};

const ARGS: &str = "K8S_POD_NAMESPACE=a;K8S_POD_NAME=web;K8S_POD_UID=u";

/// An agent that takes one request and gives one answer.
struct Agent {
    _directory: tempfile::TempDir,
    socket: PathBuf,
    request: JoinHandle<String>,
}

fn agent(answer: &'static str) -> Agent {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let request = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let (mut request, mut part) = (String::new(), [0; 4096]);
        loop {
            let length = connection.read(&mut part).unwrap();
            request.push_str(&String::from_utf8_lossy(&part[..length]));
            let whole = request.ends_with('}') || request.starts_with("GET") && request.ends_with("\r\n\r\n");
            if whole || length == 0 {
                break;
            }
        }
        connection.write_all(answer.as_bytes()).unwrap();
        request
    });
    Agent { _directory: directory, socket, request }
}

fn conf(socket: &std::path::Path) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "pods", "type": "ringfence-cni", "socket": socket,
        "prevResult": { "cniVersion": "1.0.0", "interfaces": [{ "name": "veth1" }], "dns": { "nameservers": ["10.96.0.10"] },
            "ips": [{ "address": "10.244.1.7/24", "gateway": "10.244.1.1" }, { "address": "fd00::7/64" }] },
    })
}

fn call(command: &str, args: &str, conf: &[u8]) -> Outcome {
    let variable = |name: &str| match name {
        "CNI_COMMAND" => Some(command.to_owned()),
        "CNI_CONTAINERID" => Some("c1".into()),
        "CNI_NETNS" => Some("/run/netns/x".into()),
        "CNI_IFNAME" => Some("eth0".into()),
        "CNI_ARGS" => Some(args.to_owned()),
        _ => None,
    };
    run(variable, conf)
}

fn code(outcome: &Outcome) -> u64 {
    assert_eq!(outcome.code, 1, "{outcome:?}");
    let error = outcome.output.as_ref().unwrap();
    assert!(error["msg"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
    assert!(error["cniVersion"].is_string(), "{error}");
    error["code"].as_u64().unwrap()
}

const READY: &str =
    "HTTP/1.1 200 OK\r\n\r\n{\"apiVersion\":\"ringfence/v1\",\"kind\":\"EndpointReady\",\"addresses\":[]}";
const LATE: &str = "HTTP/1.1 504 Gateway Timeout\r\n\r\n{\"apiVersion\":\"ringfence/v1\",\"kind\":\"Failure\",\"message\":\"no pod a/web with uid u is bound to this node\"}";

#[test]
fn add_hands_on_the_result_once_the_agent_says_yes() {
    let agent = agent(READY);
    let conf = conf(&agent.socket);
    let outcome = call("ADD", ARGS, conf.to_string().as_bytes());
    assert_eq!(outcome, Outcome { output: Some(conf["prevResult"].clone()), code: 0 });
    let request = agent.request.join().unwrap();
    assert!(request.starts_with("POST /v1/endpoint/wait "), "{request}");
    let body: Value = serde_json::from_str(request.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["addresses"], json!(["10.244.1.7", "fd00::7"]));
    assert_eq!((&body["namespace"], &body["name"], &body["uid"]), (&json!("a"), &json!("web"), &json!("u")));
    assert_eq!(body["container"], "c1");
}

#[test]
fn add_fails_with_the_agents_reason() {
    let agent = agent(LATE);
    let outcome = call("ADD", ARGS, conf(&agent.socket).to_string().as_bytes());
    assert_eq!(code(&outcome), 11);
    assert!(outcome.output.unwrap()["msg"].as_str().unwrap().contains("no pod a/web"));
}

#[test]
fn without_an_agent_nothing_starts_but_everything_ends() {
    let conf = conf(std::path::Path::new("/nonexistent/agent.sock")).to_string();
    assert_eq!(code(&call("ADD", ARGS, conf.as_bytes())), 11);
    assert_eq!(code(&call("CHECK", ARGS, conf.as_bytes())), 11);
    assert_eq!(code(&call("STATUS", "", conf.as_bytes())), 50);
    for command in ["DEL", "GC"] {
        assert_eq!(call(command, ARGS, conf.as_bytes()), Outcome { output: None, code: 0 }, "{command}");
    }
}

#[test]
fn status_asks_whether_the_agent_is_ready() {
    let ready = agent("HTTP/1.1 200 OK\r\n\r\nok\n");
    assert_eq!(call("STATUS", "", conf(&ready.socket).to_string().as_bytes()), Outcome { output: None, code: 0 });
    assert!(ready.request.join().unwrap().starts_with("GET /readyz "));
    let late = agent(LATE);
    assert_eq!(code(&call("STATUS", "", conf(&late.socket).to_string().as_bytes())), 50);
}

#[test]
fn del_tells_the_agent_which_sandbox_is_gone() {
    let agent = agent(READY);
    let outcome = call("DEL", ARGS, conf(&agent.socket).to_string().as_bytes());
    assert_eq!(outcome, Outcome { output: None, code: 0 });
    let request = agent.request.join().unwrap();
    assert!(request.starts_with("POST /v1/endpoint/release ") && request.contains("\"container\":\"c1\""), "{request}");
}

#[test]
fn versions_are_told_and_others_refused() {
    let outcome = call("VERSION", "", br#"{"cniVersion": "1.0.0"}"#);
    let expected = json!({ "cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0", "1.1.0"] });
    assert_eq!(outcome, Outcome { output: Some(expected), code: 0 });
    assert_eq!(call("VERSION", "", b"").code, 0);
    for version in ["0.1.0", "2.0.0", ""] {
        let conf = json!({ "cniVersion": version });
        assert_eq!(code(&call("ADD", ARGS, conf.to_string().as_bytes())), 1, "{version}");
    }
}

#[test]
fn each_mistake_has_its_code() {
    let conf = conf(std::path::Path::new("/nonexistent"));
    assert_eq!(code(&call("ADD", ARGS, b"{")), 6);
    assert_eq!(code(&call("ADD", "", conf.to_string().as_bytes())), 4);
    assert_eq!(code(&call("JUMP", "", b"{}")), 4);
    assert_eq!(code(&call("ADD", ARGS, br#"{"cniVersion": "1.1.0"}"#)), 7);
}

proptest! {
    #[test]
    fn bytes_that_make_no_sense_give_an_error_and_never_more(
        command in "ADD|CHECK|STATUS|[A-Z]{0,6}",
        input in prop_oneof![any::<Vec<u8>>(), r#"\{"cniVersion": "1.0.0", "prevResult": .{0,40}\}"#.prop_map(String::into_bytes)],
        args in ".{0,40}",
    ) {
        let outcome = call(&command, &args, &input);
        if !["VERSION", "DEL", "GC"].contains(&command.as_str()) {
            prop_assert_eq!(outcome.code, 1);
        }
        prop_assert!(outcome.output.is_none_or(|output| output.is_object()));
    }
}
