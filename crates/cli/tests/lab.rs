//! A whole lab at product height: brought up, used with a client, killed, taken over, taken down without a trace.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a failed step fails the test, a skipped test says so")]

#[path = "../../lab/tests/api/limited.rs"]
mod limited;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A lab of the test's own, in a directory of its own.
struct Lab {
    directory: PathBuf,
}

impl Lab {
    fn up(name: &str, arguments: &[&str]) -> Self {
        let lab = Self { directory: PathBuf::from(format!("/run/rf-lab-test-{}-{name}", std::process::id())) };
        lab.ringfence(&[&["up"], arguments].concat());
        lab
    }

    fn command(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ringfence"))
            .args(["lab", "--dir"])
            .arg(&self.directory)
            .args(arguments)
            .output()
            .unwrap()
    }

    fn ringfence(&self, arguments: &[&str]) -> String {
        said(arguments, &self.command(arguments))
    }

    fn kubectl(&self, arguments: &[&str]) -> Output {
        let kubeconfig = self.directory.join("kubeconfig");
        limited::run(Command::new("kubectl").args(arguments).env("KUBECONFIG", kubeconfig), "")
    }

    fn ask(&self, arguments: &[&str]) -> String {
        said(arguments, &self.kubectl(arguments))
    }

    fn apply(&self, object: &Value) {
        let file = self.directory.join("object.json");
        fs::write(&file, object.to_string()).unwrap();
        self.ask(&["apply", "-f", file.to_str().unwrap()]);
        fs::remove_file(file).unwrap();
    }

    fn get(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ask(&[&["get", "-o", "json"], arguments].concat())).unwrap()
    }

    /// The output of a command in a pod.
    fn exec(&self, pod: &str, command: &[&str]) -> Output {
        self.kubectl(&[&["exec", pod, "--"], command].concat())
    }

    fn server(&self) -> i32 {
        let state: Value = serde_json::from_slice(&fs::read(self.directory.join("lab.json")).unwrap()).unwrap();
        i32::try_from(state["process"]["pid"].as_i64().unwrap()).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", fs::read_to_string(self.directory.join("serve.log")).unwrap_or_default());
        }
        let down = self.command(&["down"]);
        if !down.status.success() {
            println!("lab down: {}", String::from_utf8_lossy(&down.stderr));
        }
    }
}

fn said(arguments: &[&str], output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Waits until something holds; panics with what is there instead.
fn until<T: std::fmt::Debug>(what: &str, look: impl Fn() -> T, holds: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let seen = look();
        if holds(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}: {seen:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// True if the test can run; in CI it must.
fn possible() -> bool {
    let root = nix::unistd::geteuid().is_root();
    let kubectl = Command::new("kubectl").args(["version", "--client"]).output().is_ok();
    let missing = match (root, kubectl) {
        (true, true) => return true,
        (false, _) => "root",
        _ => "kubectl",
    };
    assert!(std::env::var_os("CI").is_none(), "CI must have {missing}");
    println!("skipped: needs {missing}");
    false
}

/// Everything of the machine a lab could leave behind or touch.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    namespaces: BTreeSet<String>,
    mounts: BTreeSet<String>,
    links: String,
    forwarding: String,
    rules: String,
}

impl Machine {
    fn look(directory: &Path) -> Self {
        let own = |text: &str| text.contains(&*directory.to_string_lossy());
        let prefix = namespace_prefix(directory);
        let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let links = fs::read_to_string("/proc/net/dev").unwrap();
        let rules = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        Self {
            namespaces: names.filter(|name| name.starts_with(&prefix)).collect(),
            mounts: mounts.lines().filter(|line| own(line)).map(str::to_owned).collect(),
            // Names only: the counters behind them move.
            links: links
                .lines()
                .filter_map(|line| line.split_once(':'))
                .map(|(name, _)| name.to_owned() + "\n")
                .collect(),
            forwarding: fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(),
            rules: String::from_utf8_lossy(&rules.stdout).into_owned(),
        }
    }
}

fn namespace_prefix(directory: &Path) -> String {
    ringfence_lab::place::Place::at(directory).prefix().to_owned()
}

/// Processes whose command line names the lab's directory.
fn processes(directory: &Path) -> Vec<String> {
    let wanted = directory.to_string_lossy().into_owned();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(&wanted)).collect()
}

#[test]
fn a_lab_serves_pods_services_and_names_and_leaves_nothing() {
    if !possible() {
        return;
    }
    let directory = PathBuf::from(format!("/run/rf-lab-test-{}-whole", std::process::id()));
    let before = Machine::look(&directory);
    let lab = Lab::up("whole", &["--nodes", "2", "--without-agents"]);

    // A deployment and its Service, called by address and by name, from a pod on the other node.
    lab.ask(&["create", "deployment", "web", "--image=nginx:1.27"]);
    lab.ask(&["expose", "deployment", "web", "--port=80"]);
    for (name, node) in [("one", "node-1"), ("two", "node-2")] {
        lab.apply(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 2, "containers": [
                {"name": "c", "image": "registry.k8s.io/e2e-test-images/agnhost:2.53",
                 "args": ["netexec", "--http-port=8080", "--udp-port=8081"]}]},
        }));
    }
    lab.ask(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]);
    let address = |pod: &str| lab.get(&["pod", pod])["status"]["podIP"].as_str().unwrap().to_owned();
    let service = lab.get(&["service", "web"])["spec"]["clusterIP"].as_str().unwrap().to_owned();
    for target in [service.as_str(), "web", "web.default.svc.cluster.local"] {
        let url = format!("http://{target}/");
        until(
            target,
            || text(&lab.exec("two", &["curl", "-sS", "-m", "5", &url])),
            |page| page.contains("Welcome to nginx!"),
        );
    }
    for protocol in ["tcp", "udp"] {
        let port = if protocol == "tcp" { 8080 } else { 8081 };
        let target = format!("{}:{port}", address("one"));
        let answer =
            lab.exec("two", &["/agnhost", "connect", &target, "--timeout=3s", &format!("--protocol={protocol}")]);
        assert!(answer.status.success(), "{protocol}: {}", text(&answer));
    }
    let refused = lab.exec("two", &["/agnhost", "connect", &format!("{}:9", address("one")), "--timeout=3s"]);
    assert_eq!((refused.status.code(), text(&refused).contains("REFUSED")), (Some(1), true), "{refused:?}");
    assert!(text(&lab.exec("two", &["curl", "-sS", "http://nowhere.default/"])).contains("Could not resolve"));

    // Commands: exit codes, output, input, host name; what is written stays inside.
    assert_eq!(lab.exec("one", &["sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(text(&lab.exec("one", &["hostname"])).trim(), "one");
    assert_eq!(lab.exec("one", &["no-such-program"]).status.code(), Some(127));
    assert!(lab.exec("one", &["sh", "-c", "echo x > /ringfence-lab-test"]).status.success());
    assert!(!Path::new("/ringfence-lab-test").exists());
    assert!(lab.ask(&["logs", "one"]).contains("Started HTTP server on port 8080"));

    // An image that is not known says so and what is.
    lab.ask(&["run", "strange", "--image=example.com/strange:1"]);
    until(
        "image",
        || lab.ask(&["describe", "pod", "strange"]),
        |told| told.contains("ErrImagePull") && told.contains("it knows nginx"),
    );

    // A pod that ends is complete; one that crashes is started again.
    lab.ask(&["run", "done", "--image=busybox", "--restart=Never", "--", "true"]);
    until("done", || lab.get(&["pod", "done"])["status"]["phase"].clone(), |phase| phase == "Succeeded");
    lab.ask(&["run", "crash", "--image=busybox", "--", "false"]);
    until(
        "restarts",
        || lab.get(&["pod", "crash"])["status"].clone(),
        |status| status["containerStatuses"][0]["restartCount"].as_i64().is_some_and(|count| count >= 1),
    );

    // The process that serves is killed: pods go on, and a new one takes over.
    let (old, log) = (address("one"), lab.ask(&["logs", "one"]));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(lab.server()), nix::sys::signal::Signal::SIGKILL).unwrap();
    lab.ringfence(&["up", "--nodes", "2", "--without-agents"]);
    assert_eq!(address("one"), old);
    let again = lab.get(&["pod", "one"]);
    assert_eq!(again["status"]["containerStatuses"][0]["restartCount"], 0, "{again:#}");
    assert_eq!(lab.ask(&["logs", "one"]), log);
    assert!(lab.exec("two", &["curl", "-sS", "-m", "5", &format!("http://{old}:8080/hostname")]).status.success());

    // Deleted pods take their namespace with them.
    lab.ask(&["delete", "pod", "one", "--timeout=30s"]);
    assert!(!lab.kubectl(&["get", "pod", "one"]).status.success());

    assert!(!processes(&directory).is_empty());
    lab.ringfence(&["down"]);
    assert_eq!(Machine::look(&directory), before);
    assert_eq!(processes(&directory), Vec::<String>::new());
    assert!(!directory.exists());
    lab.ringfence(&["down"]);
}

#[test]
fn dual_stack_pods_and_services_answer_on_both_families() {
    if !possible() {
        return;
    }
    let lab = Lab::up("dual", &["--nodes", "2", "--dual-stack", "--without-agents"]);
    lab.apply(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "nginx"}]},
    }));
    lab.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"ipFamilyPolicy": "RequireDualStack", "selector": {"app": "web"}, "ports": [{"port": 80}]},
    }));
    lab.apply(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"},
        "spec": {"nodeName": "node-2", "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "curlimages/curl", "args": ["sleep", "3600"]}]},
    }));
    lab.ask(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]);
    for family in ["-4", "-6"] {
        until(
            family,
            || text(&lab.exec("client", &["curl", family, "-sS", "-m", "5", "http://web.default/"])),
            |page| page.contains("Welcome to nginx!"),
        );
    }
    let addresses = lab.get(&["pod", "web"])["status"]["podIPs"].as_array().unwrap().len();
    assert_eq!(addresses, 2);
}

#[test]
fn a_crashed_lab_is_removed_by_what_is_on_disk() {
    if !possible() {
        return;
    }
    let directory = PathBuf::from(format!("/run/rf-lab-test-{}-crash", std::process::id()));
    let before = Machine::look(&directory);
    let lab = Lab::up("crash", &["--nodes", "1", "--without-agents"]);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(lab.server()), nix::sys::signal::Signal::SIGKILL).unwrap();
    // Even the state is damaged: what the lab made is known by name.
    fs::write(directory.join("lab.json"), "{").unwrap();
    lab.ringfence(&["down"]);
    assert_eq!(Machine::look(&directory), before);
    assert_eq!(processes(&directory), Vec::<String>::new());
}
