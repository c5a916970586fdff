//! Commands that speak of a whole cluster: status, wait, verify.

use std::process::{Command, Output};

use serde_json::Value;

use crate::kit::{self, Lab, Need, eventually, ringfence, text};

const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: default}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

/// The program, with the lab as its cluster.
fn of(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = ringfence();
    command.args(arguments).env("KUBECONFIG", lab.directory().join("kubeconfig")).env_remove("RINGFENCE_SOCKET");
    command
}

fn run(lab: &Lab, arguments: &[&str]) -> Output {
    of(lab, arguments).output().unwrap()
}

#[test]
fn the_status_of_all_nodes_and_waiting_for_them() {
    if !kit::can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        return;
    }
    let lab = Lab::up("cluster", &["--nodes", "2"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("closed.yaml");
    std::fs::write(&file, POLICY).unwrap();
    let file = file.to_str().unwrap();
    let output = run(&lab, &["wait", "-f", file]);
    assert_ne!(output.status.code(), Some(0), "nothing was applied yet: {}", text(&output));
    assert!(text(&output).contains("is not in the cluster"), "{}", text(&output));
    lab.must(&format!("apply -f {file}"));
    let output = run(&lab, &["wait", "-f", file, "--timeout", "30s"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let output = run(&lab, &["status", "--cluster", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["nodes"].as_array().unwrap().len(), 2);
    assert_eq!(status["policies"][0]["enforced"], 2, "{status}");
    // A policy of the file that is changed has another generation, and that one is waited for.
    lab.must("patch networkpolicy closed --type=merge -p {\"spec\":{\"policyTypes\":[\"Ingress\",\"Egress\"]}}");
    assert_eq!(run(&lab, &["wait", "-f", file]).status.code(), Some(0));
    let output = run(&lab, &["status", "--cluster"]);
    assert!(text(&output).contains("2 of 2 nodes ready, 1 of 1 policies enforced on all"), "{}", text(&output));
    lab.down();
}

#[test]
fn the_matrix_of_policies_holds_and_leaves_nothing() {
    if !kit::can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        return;
    }
    let lab = Lab::up("verify", &["--nodes", "2", "--dual-stack"]);
    let folder = tempfile::tempdir().unwrap();
    let junit = folder.path().join("junit.xml");
    let output = run(&lab, &["verify", "--only", "port", "--junit", junit.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("IPv4 and IPv6"), "{}", text(&output));
    let xml = std::fs::read_to_string(junit).unwrap();
    assert!(xml.contains("name=\"ingress-named-port\"") && xml.contains("failures=\"0\""), "{xml}");
    let output = run(&lab, &["verify", "--only", "cuts"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(!lab.must("get namespaces").contains("ringfence-verify"));
    interrupted(&lab);
    lab.down();
}

/// Ctrl-C in the middle leaves nothing either.
fn interrupted(lab: &Lab) {
    let mut child = of(lab, &["verify"]).spawn().unwrap();
    eventually("its namespaces are there", || lab.must("get namespaces").contains("ringfence-verify"));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let status = child.wait().unwrap();
    assert_ne!(status.code(), Some(0));
    assert!(!lab.must("get namespaces").contains("ringfence-verify"));
}
