//! The tour agrees, with kubectl and without.

use super::kit::{Need, can_run, ringfence, text};

fn agrees(test: &str, arguments: &[&str]) {
    let directory = format!("/run/ringfence-test-{}-{test}", std::process::id());
    let output = ringfence().args(["lab", "--dir"]).arg(directory).arg("demo").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stdout);
    for step in 1..=11 {
        assert!(said.contains(&format!("Step {step}: ")), "step {step} is missing:\n{said}");
    }
    assert!(said.contains("all agree"), "{said}");
}

#[test]
fn with_kubectl() {
    if can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        agrees("kubectl", &[]);
    }
}

#[test]
fn without_kubectl() {
    if can_run(&[Need::Root, Need::Kernel]) {
        agrees("plain", &["--without-kubectl"]);
    }
}
