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
        "prevResult": { "cniVersion": "1.0.0", "interfaces": [{ "name": "veth1" },
            { "name": "eth0", "mac": "02:00:00:00:00:07", "sandbox": "/run/netns/x" }],
            "dns": { "nameservers": ["10.96.0.10"] },
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
const LATE: &str = "HTTP/1.1 504 Gateway \
    Timeout\r\n\r\n{\"apiVersion\":\"ringfence/v1\",\"kind\":\"Failure\",\"message\":\"no pod a/web with uid u is \
    bound to this node\"}";

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
    assert_eq!((&body["links"], &body["hardwareAddress"]), (&json!(["veth1"]), &json!("02:00:00:00:00:07")));
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
    assert!(ready.request.join().unwrap().starts_with("GET /v1/serving "));
    let late = agent(LATE);
    assert_eq!(code(&call("STATUS", "", conf(&late.socket).to_string().as_bytes())), 50);
}

#[test]
fn an_agent_that_was_there_a_moment_ago_is_expected_back() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let mut gate = conf(&socket);
    gate["gate"] = json!(true);
    let conf = conf(&socket).to_string();
    assert_eq!(code(&call("STATUS", "", conf.as_bytes())), 50, "nobody was ever there");
    ringfence_cni::touch(&socket).unwrap();
    for conf in [&conf, &gate.to_string()] {
        assert_eq!(call("STATUS", "", conf.as_bytes()), Outcome { output: None, code: 0 });
    }
    assert_eq!(code(&call("CHECK", ARGS, conf.as_bytes())), 11, "that is of STATUS alone");
    let stamp = std::fs::File::options().write(true).open(ringfence_cni::stamp(&socket)).unwrap();
    stamp.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(90)).unwrap();
    assert_eq!(code(&call("STATUS", "", conf.as_bytes())), 50, "away for longer than a minute");
}

#[test]
fn a_container_that_is_no_pod_is_let_alone() {
    let nowhere = std::path::Path::new("/nonexistent/agent.sock");
    let chained = conf(nowhere);
    let args = "IgnoreUnknown=1";
    let outcome = call("ADD", args, chained.to_string().as_bytes());
    assert_eq!(outcome, Outcome { output: Some(chained["prevResult"].clone()), code: 0 });
    let gate = json!({"cniVersion": "1.0.0", "name": "pods", "type": "ringfence-cni", "socket": nowhere, "gate": true});
    let outcome = call("ADD", "", gate.to_string().as_bytes());
    assert_eq!(outcome, Outcome { output: Some(json!({"cniVersion": "1.0.0"})), code: 0 });
    for command in ["CHECK", "DEL"] {
        assert_eq!(call(command, args, chained.to_string().as_bytes()), Outcome { output: None, code: 0 });
    }
    // A pod that is named in part is one.
    assert_eq!(code(&call("ADD", "K8S_POD_NAME=web", chained.to_string().as_bytes())), 4);
}

#[test]
fn a_gate_lets_nobody_through_without_an_agent_and_makes_nothing() {
    let gate = |socket: &std::path::Path| {
        let mut conf = conf(socket);
        conf["gate"] = json!(true);
        conf["timeoutSeconds"] = json!(1);
        conf.as_object_mut().unwrap().remove("prevResult");
        conf.to_string()
    };
    let ready = agent("HTTP/1.1 200 OK\r\n\r\nok\n");
    let passed = call("ADD", ARGS, gate(&ready.socket).as_bytes());
    assert_eq!(passed, Outcome { output: Some(json!({"cniVersion": "1.0.0"})), code: 0 });
    assert!(ready.request.join().unwrap().starts_with("GET /v1/serving "));
    let away = gate(std::path::Path::new("/nowhere/agent.sock"));
    assert_eq!(code(&call("ADD", ARGS, away.as_bytes())), 11);
    assert_eq!(code(&call("STATUS", "", away.as_bytes())), 50);
    for command in ["DEL", "CHECK", "GC"] {
        assert_eq!(call(command, ARGS, away.as_bytes()), Outcome { output: None, code: 0 }, "{command}");
    }
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
    let expected = json!({ "cniVersion": "1.0.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] });
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
    assert_eq!(code(&call("ADD", "K8S_POD_UID=u", conf.to_string().as_bytes())), 4);
    assert_eq!(code(&call("JUMP", "", b"{}")), 4);
    assert_eq!(code(&call("ADD", ARGS, br#"{"cniVersion": "1.1.0"}"#)), 7);
}

#[test]
fn the_result_is_handed_on_in_the_version_that_is_asked_for() {
    for (version, family) in [("0.3.1", Some("6")), ("0.4.0", Some("6")), ("1.0.0", None), ("1.1.0", None)] {
        let agent = agent(READY);
        let mut conf = conf(&agent.socket);
        conf["cniVersion"] = json!(version);
        let result = call("ADD", ARGS, conf.to_string().as_bytes()).output.unwrap();
        assert_eq!((&result["cniVersion"], result["ips"][1]["version"].as_str()), (&json!(version), family));
        assert_eq!(result["dns"], conf["prevResult"]["dns"]);
        agent.request.join().unwrap();
    }
}

#[test]
fn check_asks_and_changes_nothing() {
    let ready = agent(READY);
    let outcome = call("CHECK", ARGS, conf(&ready.socket).to_string().as_bytes());
    assert_eq!(outcome, Outcome { output: None, code: 0 });
    assert!(ready.request.join().unwrap().starts_with("POST /v1/endpoint/check "));
    let late = agent(LATE);
    assert_eq!(code(&call("CHECK", ARGS, conf(&late.socket).to_string().as_bytes())), 11);
}

#[test]
fn gc_tells_the_agent_which_sandboxes_are_left() {
    let agent = agent(READY);
    let mut conf = conf(&agent.socket);
    conf["cni.dev/valid-attachments"] = json!([{ "containerID": "c1", "ifname": "eth0" }]);
    assert_eq!(call("GC", "", conf.to_string().as_bytes()), Outcome { output: None, code: 0 });
    let request = agent.request.join().unwrap();
    assert!(request.starts_with("POST /v1/endpoint/collect "), "{request}");
    assert!(request.ends_with(r#"{"network":"pods","containers":["c1"]}"#), "{request}");
}

#[test]
fn an_agent_that_ends_or_never_answers_is_one_that_is_away() {
    let gone = agent("");
    assert_eq!(code(&call("ADD", ARGS, conf(&gone.socket).to_string().as_bytes())), 11);
    // It listens, and that is all: nobody takes the connection.
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let mut conf = conf(&socket);
    conf["timeoutSeconds"] = json!(0);
    assert_eq!(code(&call("ADD", ARGS, conf.to_string().as_bytes())), 11);
}

/// JSON that may stand anywhere in a configuration.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(json!("10.0.0.1/33")),
        Just(json!("::ffff:10.0.0.1/96")),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec((".{0,6}", inner), 0..3).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// Every place in a value, as a JSON pointer.
fn places(value: &Value, here: &str, found: &mut Vec<String>) {
    found.push(here.to_owned());
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                places(member, &format!("{here}/{key}"), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places(item, &format!("{here}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// A good configuration of which something was replaced, and then some bytes were.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (any::<prop::sample::Index>(), anything(), any::<bool>(), damage, any::<prop::sample::Index>(), any::<bool>())
        .prop_map(|(place, other, replace, damage, end, cut)| {
            let mut conf = conf(std::path::Path::new("/nonexistent/agent.sock"));
            conf["timeoutSeconds"] = json!(1);
            let mut all = Vec::new();
            places(&conf, "", &mut all);
            if replace && let Some(target) = conf.pointer_mut(&all[place.index(all.len())]) {
                *target = other;
            }
            let mut bytes = conf.to_string().into_bytes();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if cut {
                bytes.truncate(end.index(bytes.len()));
            }
            bytes
        })
}

/// Exit code 0, or an error as the specification wants it.
fn is_proper(outcome: &Outcome) -> bool {
    match (&outcome.output, outcome.code) {
        (output, 0) => output.as_ref().is_none_or(Value::is_object),
        (Some(error), 1) => {
            let text = |name| error.get(name).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
            let code = error.get("code").and_then(Value::as_u64);
            text("cniVersion") && text("msg") && code.is_some_and(|code| [1, 4, 6, 7, 11, 50, 100].contains(&code))
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn bytes_that_make_no_sense_give_an_error_and_never_more(
        command in "ADD|CHECK|DEL|GC|STATUS|VERSION|[A-Z]{0,6}",
        input in prop_oneof![any::<Vec<u8>>(), mutated(), mutated(),
            "(\\[|\\{\"a\":){0,400}".prop_map(String::into_bytes)],
        args in prop_oneof![Just(ARGS.to_owned()), ".{0,40}"],
    ) {
        let outcome = call(&command, &args, &input);
        // Without an agent no pod is connected, whatever is said. A container of which nobody says that it is one may
        // be.
        let is_of_a_pod = args.contains("K8S_POD_") || !["ADD", "CHECK"].contains(&command.as_str());
        if is_of_a_pod && !["VERSION", "DEL", "GC"].contains(&command.as_str()) {
            prop_assert_eq!(outcome.code, 1);
        }
        prop_assert!(is_proper(&outcome), "{:?}", outcome);
    }
}
