//! A node of a cluster on this machine loses everything but its disk, and comes back.
//!
//! A node is a network namespace and a mount namespace. What a reboot takes: every process, the network namespace with
//! its links, rules, connection tracking and BPF links, the BPF file system with its pins, what is mounted, `/run`.
//! What stays: images and containers' file systems, the kubelet's and the network plugins' files. What the machine's
//! own start brings back: the node's interface with its address, and its routes to other nodes.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::component::{Component, end};
use crate::machine::Machine;

/// Components of a node, in the order in which they start.
const COMPONENTS: [&str; 4] = ["registry", "containerd", "kubelet", "kube-proxy"];
/// Settings of a node's network that its start makes.
const SETTINGS: [&str; 4] = [
    "net.ipv4.ip_forward",
    "net.ipv6.conf.all.forwarding",
    "net.bridge.bridge-nf-call-iptables",
    "net.bridge.bridge-nf-call-ip6tables",
];
/// The time that the runtime may take to start.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// One that runs for so long goes on running.
const MIN_UPTIME: Duration = Duration::from_secs(1);

/// A node that is down.
pub struct Down {
    machine: Machine,
    number: usize,
    name: String,
    components: Vec<Component>,
    network: Network,
}

/// The node's interface as its start makes it.
struct Network {
    bridge: String,
    hardware: String,
    addresses: Vec<String>,
    routes: Vec<(&'static str, String)>,
    settings: Vec<String>,
}

/// Takes a node down at once, as when its power fails.
pub fn power_off(machine: &Machine, number: usize, name: &str) -> anyhow::Result<Down> {
    let names = COMPONENTS.iter().map(|component| format!("{component}-{number}"));
    let names = names.filter(|name| machine.process(name).is_ok());
    let components = names.map(|name| Component::running(machine, &name)).collect::<anyhow::Result<Vec<_>>>()?;
    let network = Network::of(machine, number, name)?;
    // Those that would start others first.
    for component in components.iter().rev() {
        component.stop(Signal::SIGKILL)?;
    }
    kill_all(machine, number, name)?;
    forget(machine, number)?;
    ip(&["link", "delete", name])?;
    ip(&["netns", "delete", name])?;
    Ok(Down { machine: machine.clone(), number, name: name.to_owned(), components, network })
}

impl Down {
    /// Starts the node again. Its pods come back by themselves.
    pub fn power_on(self) -> anyhow::Result<()> {
        let Self { machine, number, name, components, network } = self;
        network.make(&name)?;
        for component in &components {
            start(component)?;
            let socket = machine.node(number).join("containerd.sock");
            let end = Instant::now() + READY_TIMEOUT;
            while component.name().starts_with("containerd")
                && run(Command::new("ctr").arg("--address").arg(&socket).arg("version")).is_err()
            {
                if Instant::now() > end {
                    bail!("containerd of node {number} does not answer within {READY_TIMEOUT:?}");
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    }
}

/// Starts a component, again and again until it stays, as the program that starts them on machines does: a kubelet ends
/// when the runtime answers, but is not done with what it finds on the disk.
fn start(component: &Component) -> anyhow::Result<()> {
    let end = Instant::now() + READY_TIMEOUT;
    loop {
        component.start()?;
        if !component.name().starts_with("kubelet") {
            return Ok(());
        }
        std::thread::sleep(MIN_UPTIME);
        if component.runs() {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("{} ends again and again", component.name());
        }
    }
}

impl Network {
    fn of(machine: &Machine, number: usize, name: &str) -> anyhow::Result<Self> {
        let link = json(Command::new("ip").args(["-json", "link", "show", name]))?;
        let bridge = link.pointer("/0/master").and_then(Value::as_str).context("the node is not on a bridge")?;
        let show = |arguments: &[&str]| json(machine.on(number, "ip").arg("-json").args(arguments));
        let eth0 = show(&["address", "show", "eth0"])?;
        let hardware = eth0.pointer("/0/address").and_then(Value::as_str).context("eth0 has no hardware address")?;
        let infos = eth0.pointer("/0/addr_info").and_then(Value::as_array).into_iter().flatten();
        let global = infos.filter(|info| info["scope"] == "global");
        let addresses = global.filter_map(|info| Some(format!("{}/{}", info["local"].as_str()?, info["prefixlen"])));
        let mut routes = Vec::new();
        for family in ["-4", "-6"] {
            // What agents and plugins made is made by them again.
            let text = text(machine.on(number, "ip").args([family, "route", "show", "dev", "eth0", "proto", "boot"]))?;
            routes.extend(text.lines().map(|line| (family, line.trim().to_owned())));
        }
        let set = |name: &&str| {
            text(machine.on(number, "sysctl").args(["--values", name])).map(|v| format!("{name}={}", v.trim()))
        };
        Ok(Self {
            bridge: bridge.to_owned(),
            hardware: hardware.to_owned(),
            addresses: addresses.collect(),
            routes,
            settings: SETTINGS.iter().map(set).collect::<anyhow::Result<_>>()?,
        })
    }

    fn make(&self, name: &str) -> anyhow::Result<()> {
        let Self { bridge, hardware, addresses, routes, settings } = self;
        ip(&["netns", "add", name])?;
        ip(&["link", "add", name, "type", "veth", "peer", "name", "eth0", "address", hardware, "netns", name])?;
        ip(&["link", "set", name, "master", bridge, "up"])?;
        for link in ["lo", "eth0"] {
            ip(&["-n", name, "link", "set", link, "up"])?;
        }
        for address in addresses {
            let mut words = vec!["-n", name, "address", "add", address, "dev", "eth0"];
            words.extend(address.contains(':').then_some("nodad"));
            ip(&words)?;
        }
        for (family, route) in routes {
            let words: Vec<&str> = ["-n", name, family, "route", "add"]
                .into_iter()
                .chain(route.split(' '))
                .chain(["dev", "eth0"])
                .collect();
            ip(&words)?;
        }
        for setting in settings {
            ip(&["netns", "exec", name, "sysctl", "--quiet", "--write", setting])?;
        }
        Ok(())
    }
}

/// Kills every process of the node: those in its pods' control groups, and what watches over containers.
fn kill_all(machine: &Machine, number: usize, name: &str) -> anyhow::Result<()> {
    let socket = machine.node(number).join("containerd.sock").display().to_string();
    loop {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir("/proc").context("/proc")?.flatten() {
            let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let groups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).into_owned();
            let of_node = groups.lines().any(|line| line.rsplit(':').next().is_some_and(|path| within(path, name)));
            let shim = words.contains("containerd-shim") && words.split('\0').any(|word| word == socket);
            if of_node || shim {
                found.insert(process);
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        for process in &found {
            // Gone already is well too.
            let _ = kill(Pid::from_raw(*process), Signal::SIGKILL);
        }
        for process in found {
            end(Pid::from_raw(process), Signal::SIGKILL)?;
        }
    }
}

fn within(path: &str, name: &str) -> bool {
    path.split('/').nth(1) == Some(name)
}

/// Empties what is memory: mounts, the BPF file system, `/run`, control groups.
fn forget(machine: &Machine, number: usize) -> anyhow::Result<()> {
    let node = machine.node(number);
    let mounts = text(machine.on(number, "cat").arg("/proc/self/mounts"))?;
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let state = ["containerd/", "kubelet/pods/", "netns/"].map(|part| node.join(part).display().to_string());
    let prefixes = state.iter().map(String::as_str).chain(["/var/lib/kubelet/pods/", "/run/netns/"]);
    let prefixes: Vec<&str> = prefixes.collect();
    let gone = places.filter(|place| prefixes.iter().any(|prefix| place.starts_with(prefix)));
    let mut gone: Vec<String> = gone.map(str::to_owned).collect();
    gone.reverse();
    for place in gone {
        // It may have gone with the one before.
        let _ = run(machine.on(number, "umount").args(["--lazy", &place]));
    }
    let clear = "rm -rf /sys/fs/bpf/* 2>/dev/null || true; rm -rf /run/netns/* /run/ringfence/*; umount /sys/fs/bpf; \
        mount -t bpf bpf /sys/fs/bpf";
    run(machine.on(number, "sh").args(["-ec", clear]))?;
    let state = node.join("containerd/state");
    fs::remove_dir_all(&state).with_context(|| format!("cannot remove {}", state.display()))
}

fn ip(words: &[&str]) -> anyhow::Result<()> {
    run(Command::new("ip").args(words)).map(drop)
}

fn json(command: &mut Command) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(&run(command)?)?)
}

fn text(command: &mut Command) -> anyhow::Result<String> {
    Ok(String::from_utf8_lossy(&run(command)?).into_owned())
}

/// Runs a command; what it says if it fails is the error.
fn run(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_a_node_are_known_by_their_control_group() {
        assert!(within("/n1/burstable/pod1/2", "n1"));
        assert!(within("/n1", "n1"));
        assert!(!within("/n12/pod1", "n1"));
        assert!(!within("/user/n1", "n1"));
    }
}
