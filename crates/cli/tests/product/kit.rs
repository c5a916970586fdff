//! A lab for one test, and kubectl on it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use ringfence_lab::place::Place;
use ringfence_netns::Namespace;
use serde_json::Value;

use super::limited;

/// The time that a condition may take to come true.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(90);

/// A requirement of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// To be root.
    Root,
    /// A kernel that can load the program.
    Kernel,
    /// kubectl 1.31 or newer.
    Kubectl,
    /// The standard network plugins, where Debian puts them.
    Plugins,
}

impl Need {
    /// The reason why it is not met.
    fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!nix::unistd::geteuid().is_root()).then(|| "not root".to_owned()),
            Self::Kernel => kernel(),
            Self::Kubectl => kubectl_version(),
            Self::Plugins => (!Path::new("/usr/lib/cni/ptp").exists())
                .then(|| "no standard network plugins (apt install containernetworking-plugins)".to_owned()),
        }
    }
}

/// True if a test can run here. Says why not; where `CI` is set that is a failure.
pub(crate) fn can_run(needs: &[Need]) -> bool {
    let Some(reason) = needs.iter().find_map(|need| need.missing()) else { return true };
    assert!(std::env::var_os("CI").is_none(), "this machine must run every test, but: {reason}");
    println!("skipped: {reason}");
    false
}

fn kernel() -> Option<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 4) {
        return Some(format!("Linux {} is older than 6.4", release.trim()));
    }
    (!Path::new("/sys/kernel/btf/vmlinux").exists()).then(|| "this kernel has no BTF".to_owned())
}

fn kubectl_version() -> Option<String> {
    let output = Command::new("kubectl").args(["version", "--client", "--output=json"]).output();
    let Ok(output) = output else { return Some("no kubectl is installed".to_owned()) };
    let version: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let version = version.pointer("/clientVersion/gitVersion").and_then(Value::as_str).unwrap_or("unknown").to_owned();
    let minor = version.strip_prefix("v1.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    minor.is_none_or(|minor| minor < 31).then(|| format!("kubectl is {version}, older than 1.31"))
}

/// The command under test.
pub(crate) fn ringfence() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ringfence"))
}

/// Path of another program under test, which is built beside it: `ringfence-agent`, `ringfence-cni`, `ringfence-lab`.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_ringfence")).with_file_name(name);
    assert!(path.exists(), "{} is not built; hint: cargo build --workspace", path.display());
    path
}

/// A lab of one test; taken down when dropped.
pub(crate) struct Lab {
    directory: PathBuf,
}

impl Lab {
    /// Starts it.
    pub(crate) fn up(test: &str, arguments: &[&str]) -> Self {
        let lab = Self { directory: PathBuf::from(format!("/run/ringfence-test-{}-{test}", std::process::id())) };
        let output = lab.command("up").args(arguments).output().unwrap();
        assert!(output.status.success(), "lab up: {}", text(&output));
        lab
    }

    /// Directory of its state.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A `ringfence lab` command on it.
    pub(crate) fn command(&self, verb: &str) -> Command {
        let mut command = ringfence();
        command.args(["lab", "--dir"]).arg(&self.directory).arg(verb).stdin(Stdio::null());
        command
    }

    /// Runs kubectl on it.
    pub(crate) fn kubectl(&self, arguments: &str) -> Output {
        self.kubectl_with(arguments, "")
    }

    /// Runs kubectl on it, with this as its input.
    pub(crate) fn kubectl_with(&self, arguments: &str, input: &str) -> Output {
        self.kubectl_words(&arguments.split_whitespace().collect::<Vec<_>>(), input)
    }

    /// The same, with arguments that may have blanks in them.
    pub(crate) fn kubectl_words(&self, arguments: &[&str], input: &str) -> Output {
        limited::run(self.on_it("kubectl").args(arguments), input)
    }

    /// Starts kubectl on it, for what streams on purpose.
    pub(crate) fn kubectl_streaming(&self, arguments: &str, output: impl Into<Stdio>) -> limited::Started {
        let mut kubectl = self.on_it("kubectl");
        limited::start(kubectl.args(arguments.split_whitespace()).stdin(Stdio::null()).stdout(output))
    }

    /// A program that uses its API.
    pub(crate) fn on_it(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("KUBECONFIG", self.directory.join("kubeconfig"));
        command
    }

    /// The same, which must succeed; returns what it printed.
    pub(crate) fn must(&self, arguments: &str) -> String {
        self.must_with(arguments, "")
    }

    /// The same with an input.
    pub(crate) fn must_with(&self, arguments: &str, input: &str) -> String {
        let output = self.kubectl_with(arguments, input);
        assert!(output.status.success(), "kubectl {arguments}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Applies an object.
    pub(crate) fn apply(&self, object: &Value) {
        self.must_with("apply -f -", &object.to_string());
    }

    /// Both outputs of a command in a pod, whether it succeeds or not.
    pub(crate) fn exec(&self, pod: &str, command: &[&str]) -> String {
        let output = self.kubectl_words(&[&["exec", pod, "--"], command].concat(), "");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// A network namespace of the lab: `fabric`, or a node's name.
    pub(crate) fn namespace(&self, of: &str) -> Namespace {
        Namespace::open(&Place::at(&self.directory).node_namespace(of)).unwrap()
    }

    /// A field of an object.
    pub(crate) fn field(&self, object: &str, path: &str) -> String {
        self.must(&format!("get {object} -o jsonpath={{{path}}}"))
    }

    /// Starts an nginx pod with these labels on a node of the default namespace, without waiting for it.
    pub(crate) fn nginx(&self, name: &str, node: &str, labels: &str) {
        let overrides = format!(r#"{{"spec":{{"nodeName":"{node}"}}}}"#);
        self.must(&format!("run {name} --image=nginx --labels={labels} --overrides={overrides}"));
    }

    /// Waits until these pods are ready.
    pub(crate) fn ready(&self, pods: &[&str]) {
        let pods: Vec<String> = pods.iter().map(|pod| format!("pod/{pod}")).collect();
        self.must(&format!("wait --for=condition=Ready --timeout={}s {}", TIMEOUT.as_secs(), pods.join(" ")));
    }

    /// True if a pod gets the page of another: by exit code of `curl`, so that a refusal is neither.
    pub(crate) fn reaches(&self, from: &str, address: &str) -> Result<bool, String> {
        let output = self.kubectl(&format!("exec {from} -- curl -sS -g -o /dev/null --max-time 1 http://{address}/"));
        match output.status.code() {
            Some(0) => Ok(true),
            Some(28) => Ok(false),
            _ => Err(text(&output)),
        }
    }

    /// Waits until the verdict between two pods is this, then holds it against a few more connections.
    pub(crate) fn settles(&self, from: &str, address: &str, allowed: bool) {
        let what = format!("{from} → {address} {}", if allowed { "answers" } else { "times out" });
        eventually(&what, || self.reaches(from, address) == Ok(allowed));
        for _ in 0..3 {
            assert_eq!(self.reaches(from, address), Ok(allowed), "{what}, and stays so");
        }
    }

    /// Takes it down now, and fails if that fails.
    pub(crate) fn down(&self) {
        let output = self.command("down").output().unwrap();
        assert!(output.status.success(), "lab down: {}", text(&output));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(log) = std::fs::read_to_string(self.directory.join("serve.log"))
        {
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            println!("the end of the lab's log:");
            tail.iter().rev().for_each(|line| println!("  {line}"));
        }
        let _ = self.command("down").output();
    }
}

/// True if `curl` inside a network namespace gets a page: without API and kubelet. A refusal is neither.
pub(crate) fn reaches_from(namespace: &Namespace, address: &str) -> Result<bool, String> {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-g", "-o", "/dev/null", "--max-time", "1", &format!("http://{address}/")]);
    curl.stdin(Stdio::null()).stderr(Stdio::piped());
    let output = namespace.spawn(&mut curl).unwrap().wait_with_output().unwrap();
    match output.status.code() {
        Some(0) => Ok(true),
        Some(28) => Ok(false),
        _ => Err(text(&output)),
    }
}

/// Waits until the verdict from a network namespace is this, then holds it against a few more connections.
#[track_caller]
pub(crate) fn settles_from(namespace: &Namespace, address: &str, allowed: bool) {
    let what = format!("{} → {address} {}", namespace.name(), if allowed { "answers" } else { "times out" });
    eventually(&what, || reaches_from(namespace, address) == Ok(allowed));
    for _ in 0..2 {
        assert_eq!(reaches_from(namespace, address), Ok(allowed), "{what}, and stays so");
    }
}

/// Waits for a condition.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < end, "not within {TIMEOUT:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Both outputs of a command.
pub(crate) fn text(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}: {out}{err}", output.status)
}
