//! On a machine that cannot carry a lab, one message says what to do, and nothing is made.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use super::kit::{Lab, Need, can_run, program, ringfence, text};

/// A directory in which no lab may come to be.
fn directory(test: &str) -> PathBuf {
    PathBuf::from(format!("/run/ringfence-test-{}-{test}", std::process::id()))
}

/// Holds that a lab was refused for this reason, with advice, in a few lines, and left nothing.
fn refused(test: &str, output: &Output, reason: &str, advice: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{}", text(output));
    assert!(said.contains(reason) && said.contains(&format!("\nhint: {advice}")), "{said}");
    assert!(said.lines().count() <= 3 && !said.contains("panicked"), "{said}");
    assert!(!directory(test).exists(), "nothing was made");
}

/// `ringfence lab up` in a mount namespace of its own, after a step that spoils it.
fn up_after(test: &str, step: &str) -> Output {
    let script = format!("{step} && exec \"$0\" lab --dir \"$1\" up --nodes 1");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).arg(ringfence().get_program()).arg(directory(test));
    command.output().unwrap()
}

#[test]
fn without_root() {
    if !can_run(&[Need::Root]) {
        return;
    }
    // The program may lie where only root can go.
    let copy = std::env::temp_dir().join(format!("ringfence-{}", std::process::id()));
    std::fs::copy(program("ringfence-lab"), &copy).unwrap();
    for (verb, advice) in [("up", "sudo ringfence lab up"), ("down", "sudo ringfence lab down")] {
        let mut command = Command::new(&copy);
        command.arg(verb).arg("--dir").arg(directory("user")).uid(65534).gid(65534).current_dir("/");
        refused("user", &command.output().unwrap(), "root", advice);
    }
    std::fs::remove_file(copy).unwrap();
}

#[test]
fn on_an_old_kernel() {
    if !can_run(&[Need::Root, Need::Kernel]) {
        return;
    }
    let mut command = Command::new("setarch");
    command.args(["--uname-2.6"]).arg(ringfence().get_program()).args(["lab", "up", "--dir"]);
    let output = command.arg(directory("old")).output().unwrap();
    refused("old", &output, "the kernel is too old: 2.6.", "install a newer kernel");
}

#[test]
fn without_type_information_of_the_kernel() {
    if can_run(&[Need::Root, Need::Kernel]) {
        let output = up_after("btf", "mount -t tmpfs none /sys/kernel/btf");
        refused("btf", &output, "/sys/kernel/btf/vmlinux is missing", "use a distribution's kernel");
    }
}

#[test]
fn without_nft() {
    if can_run(&[Need::Root, Need::Kernel]) {
        let output = up_after("nft", "mount --bind /dev/null \"$(readlink -f \"$(command -v nft)\")\"");
        refused("nft", &output, "nft is missing", "apt-get install nftables");
    }
}

#[test]
fn with_a_port_that_is_taken() {
    if !can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        return;
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let up = || {
        let mut command = ringfence();
        command.args(["lab", "up", "--nodes", "1", "--without-agents", "--api-port", &port]);
        command.arg("--dir").arg(directory("port")).output().unwrap()
    };
    refused("port", &up(), &format!("port {port} of 127.0.0.1 is in use"), "leave --api-port out");
    drop(taken);
    let lab = Lab::up("port", &["--nodes", "1", "--without-agents", "--api-port", &port]);
    assert!(lab.must("cluster-info").contains(&format!("127.0.0.1:{port}")));
    // The lab's own port is no reason to refuse the lab.
    let again = up();
    assert!(again.status.success(), "{}", text(&again));
    lab.down();
}
