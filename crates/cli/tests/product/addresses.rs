//! An address that another pod gets has that pod's policy, from the moment the network plugin comes back.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use ringfence_lab::place::Place;
use serde_json::{Value, json};

use super::kit::{Lab, Need, can_run, program, text};

const CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec:
  podSelector: {matchLabels: {app: closed}}
  policyTypes: [Ingress]
";

/// Calls the network plugin as a runtime does, for a sandbox of a pod that was given an address.
fn plugin(lab: &Lab, command: &str, pod: &str, container: &str, address: &str) -> Output {
    let uid = lab.field(&format!("pod/{pod}"), ".metadata.uid");
    let prefixed = format!("{address}/32");
    let conf = json!({
        "cniVersion": "1.0.0", "name": "pods", "type": "ringfence-cni",
        "socket": Place::at(lab.directory()).agent_socket("node-1"), "timeoutSeconds": 20,
        "prevResult": { "cniVersion": "1.0.0", "interfaces": [{ "name": "eth0", "sandbox": "/run/netns/x" }],
            "ips": [{ "address": prefixed, "interface": 0 }] },
    });
    let mut child = Command::new(program("ringfence-cni"))
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", "/run/netns/x")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_UID={uid}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[track_caller]
fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", text(output));
}

#[test]
fn an_address_has_the_policy_of_the_pod_it_was_given_to_last() {
    if !can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        return;
    }
    let lab = Lab::up("addresses", &["--nodes", "1"]);
    lab.must_with("apply -f -", CLOSED);
    for (name, labels) in [("client", "app=client"), ("open", "app=open"), ("closed", "app=closed")] {
        lab.nginx(name, "node-1", labels);
    }
    lab.ready(&["client", "open", "closed"]);
    let address = lab.field("pod/open", ".status.podIP");
    lab.settles("client", &address, true);
    for round in 0..5 {
        // Nobody says that the pod before it is gone, and the API goes on saying that it has the address.
        succeeds(&plugin(&lab, "ADD", "closed", &format!("c{round}"), &address));
        assert_eq!(lab.reaches("client", &address), Ok(false), "round {round}: the new pod's policy");
        lab.must(&format!("annotate pod open round={round} --overwrite"));
        assert_eq!(lab.reaches("client", &address), Ok(false), "round {round}: and nothing the API says changes that");
        succeeds(&plugin(&lab, "CHECK", "closed", &format!("c{round}"), &address));
        succeeds(&plugin(&lab, "DEL", "closed", &format!("c{round}"), &address));
        assert_eq!(lab.reaches("client", &address), Ok(false), "round {round}: nobody has it");
        let checked = plugin(&lab, "CHECK", "closed", &format!("c{round}"), &address);
        let error: Value = serde_json::from_slice(&checked.stdout).unwrap();
        assert_eq!((checked.status.code(), &error["code"]), (Some(1), &json!(11)), "{error}");
        succeeds(&plugin(&lab, "ADD", "open", &format!("o{round}"), &address));
        assert_eq!(lab.reaches("client", &address), Ok(true), "round {round}: the first connection is not lost");
    }
    lab.down();
}
