//! The program's command line. That it enforces policy is tried by the product tests.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringfence-agent")).args(arguments).output().unwrap()
}

#[test]
fn an_agent_that_is_not_there_is_an_error_with_an_exit_code_of_its_own() {
    for command in [&["status"][..], &["observe"], &["wait", "NetworkPolicy/shop/web@1-2:7"]] {
        let output = run(&[command, &["--socket", "/nonexistent/agent.sock"]].concat());
        assert_eq!(output.status.code(), Some(4), "{command:?}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with("error: no agent answers on /nonexistent/agent.sock: "), "{said}");
    }
}

#[test]
fn it_answers_to_nothing_of_a_lab_or_of_a_cluster() {
    for word in ["agent", "lab", "lab-init", "lab-container", "lab-exec", "install", "verify"] {
        let output = run(&[word]);
        assert_eq!(output.status.code(), Some(2), "{word}: {output:?}");
    }
}
