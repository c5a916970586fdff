//! Nothing of a lab outlives it, however it ended, and nothing of the machine is other than before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringfence_lab::place::Place;
use ringfence_netns::{Namespace, VethEnd};

use super::kit::{Lab, Need, can_run, eventually};
use super::sudden_death::ours;

/// State of the machine, and of a lab in this directory.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    namespaces: Vec<String>,
    processes: BTreeSet<String>,
    mounts: BTreeSet<String>,
    bpf: BTreeSet<String>,
    /// The machine's own network, as `ip` and `nft` show it.
    network: BTreeMap<&'static str, String>,
    settings: BTreeMap<String, String>,
}

impl Machine {
    fn look(directory: &Path) -> Self {
        let wanted = directory.to_string_lossy().into_owned();
        let lines = |file: &str| fs::read_to_string(file).unwrap();
        Self {
            namespaces: Namespace::list(Place::at(directory).prefix()).unwrap(),
            processes: processes(&wanted),
            mounts: lines("/proc/self/mounts")
                .lines()
                .filter(|line| line.contains(&wanted))
                .map(str::to_owned)
                .collect(),
            bpf: names("/sys/fs/bpf"),
            network: [
                ("nft", "nft list ruleset"),
                ("links", "ip -o link"),
                ("addresses", "ip -o address"),
                ("routes", "ip route show table all"),
                ("routes of IPv6", "ip -6 route show table all"),
                ("rules", "ip rule"),
                ("neighbour proxies", "ip neighbour show proxy"),
            ]
            .into_iter()
            .map(|(name, command)| (name, printed(command)))
            .collect(),
            settings: settings(),
        }
    }

    /// As another time, apart from settings that came with a module of the kernel that was loaded meanwhile.
    fn assert_as(&self, mut before: Self) {
        before.settings.retain(|name, _| self.settings.contains_key(name));
        let mut now = self.settings.clone();
        now.retain(|name, _| before.settings.contains_key(name));
        assert_eq!(now, before.settings);
        assert_eq!((&self.namespaces, &self.processes), (&before.namespaces, &before.processes));
        assert_eq!((&self.mounts, &self.bpf), (&before.mounts, &before.bpf));
        assert_eq!(self.network, before.network);
    }
}

/// Command lines of the processes that name the directory in command line or environment, this one apart.
fn processes(directory: &str) -> BTreeSet<String> {
    let own = std::process::id().to_string();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let names = |text: &[u8]| String::from_utf8_lossy(text).contains(directory);
        if entry.file_name() != *own && (names(&read("cmdline")) || names(&read("environ"))) {
            found.insert(String::from_utf8_lossy(&read("cmdline")).replace('\0', " "));
        }
    }
    found
}

fn names(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The output of a command, without figures that change by themselves.
fn printed(command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    // Lifetimes of what a router announced.
    text.split_inclusive(' ').filter(|word| !word.trim_end().ends_with("sec")).collect()
}

/// All settings of the network below `/proc/sys`, without those that move by themselves.
fn settings() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![Path::new("/proc/sys/net").to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if let Ok(value) = fs::read_to_string(&path)
                && !path.ends_with("nf_conntrack_count")
            {
                found.insert(path.to_string_lossy().into_owned(), value);
            }
        }
    }
    found
}

/// Links from a namespace of the test's into namespaces of the lab. They live exactly as long as those do: a namespace
/// that something still holds (a process, a program of the kernel) keeps its end.
struct Threads(Namespace, usize);

impl Threads {
    fn tie(lab: &Lab, namespaces: &[String]) -> Self {
        let name = lab.directory().file_name().unwrap().to_string_lossy().into_owned();
        let own = Namespace::create(&format!("{name}-threads")).unwrap();
        let mut netlink = own.netlink().unwrap();
        for (number, name) in namespaces.iter().enumerate() {
            let inside = Namespace::open(name).unwrap();
            let (here, there) = (format!("thread{number}"), format!("thread{number}"));
            let ends = (VethEnd { name: &here, namespace: &own }, VethEnd { name: &there, namespace: &inside });
            netlink.add_veth(ends.0, ends.1, None).unwrap();
        }
        Self(own, namespaces.len())
    }

    fn left(&self) -> usize {
        let mut netlink = self.0.netlink().unwrap();
        (0..self.1).filter(|number| netlink.find_link(&format!("thread{number}")).unwrap().is_some()).count()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let _gone_already = Namespace::delete(self.0.name());
    }
}

/// Uses a lab with agents and policies, ends it in this way, and looks for what is left.
fn leaves_nothing(test: &str, end: impl FnOnce(&Lab)) {
    let directory = std::path::PathBuf::from(format!("/run/ringfence-test-{}-{test}", std::process::id()));
    let before = Machine::look(&directory);
    let lab = Lab::up(test, &["--nodes", "2", "--dual-stack"]);
    assert_eq!(lab.directory(), directory);
    lab.nginx("server", "node-2", "app=server");
    lab.nginx("client", "node-1", "role=client");
    lab.must("expose pod server --port=80 --type=NodePort");
    lab.ready(&["server", "client"]);
    let server = lab.field("pod/server", ".status.podIP");
    lab.settles("client", &server, true);
    lab.must_with(
        "apply -f -",
        r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny"},
            "spec": {"podSelector": {}}}"#,
    );
    lab.settles("client", &server, false);

    // All that is to be gone is there now.
    let during = Machine::look(&directory);
    assert!(during.namespaces.len() >= 6 && during.processes.len() >= 6, "{during:#?}");
    assert!(during.mounts.iter().any(|line| line.contains(" bpf ")), "{:?}", during.mounts);
    let pins = directory.join("bpf/node-1");
    assert!(fs::read_dir(&pins).unwrap().count() >= 2, "the agents have pinned maps and links");
    let threads = Threads::tie(&lab, &during.namespaces);
    assert_eq!(threads.left(), during.namespaces.len());
    // And the machine's own network is as it was, while the lab is up as well.
    assert_eq!(during.network, before.network);

    end(&lab);
    lab.down();
    Machine::look(&directory).assert_as(before);
    assert!(!directory.exists());
    eventually("the kernel has let every namespace go", || threads.left() == 0);
}

fn strike(lab: &Lab, which: impl Fn(&str) -> bool) {
    let struck: Vec<i32> =
        ours(lab).into_iter().filter(|(command, _)| which(command)).flat_map(|(_, pids)| pids).collect();
    assert!(!struck.is_empty());
    for pid in struck {
        // One may have taken another with it.
        let _gone_already = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

#[test]
fn taken_down() {
    if can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        leaves_nothing("down", |_| {});
    }
}

#[test]
fn taken_down_after_the_labs_process_died() {
    if can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        leaves_nothing("dead", |lab| strike(lab, |command| command.starts_with("serve ")));
    }
}

#[test]
fn taken_down_after_everything_died_and_its_state_was_lost() {
    if can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        leaves_nothing("lost", |lab| {
            strike(lab, |command| command.starts_with("serve "));
            strike(lab, |_| true);
            fs::write(lab.directory().join("lab.json"), "{").unwrap();
        });
    }
}
