//! Time that the network plugin adds to a pod's network: the chain of plugins is called as a runtime does, by a process
//! that is on the node, with ours in it and without, by turns.
//!
//! The pods are objects that no kubelet sees: the node's is stopped meanwhile. They ask for a node of another name, so
//! that it turns down those it hears of afterwards.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt as _};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringfence_e2e::machine::Machine;
use ringfence_netns::Namespace;
use serde_json::{Value, json};

use super::Bench;
use crate::figures::{quantile, table};

const NAMESPACE: &str = "bench-chain";
const PREFIX: &str = "rfbenchchain";
/// Name of our plugin in a configuration.
const OURS: &str = "ringfence-cni";
/// So many pods while the kubelet is stopped: fewer seconds than after which a node counts as lost.
const BATCH: usize = 50;

/// Options of the measurement.
#[derive(clap::Args)]
pub(super) struct Options {
    /// Directory of the cluster on this machine.
    #[arg(long, value_name = "DIR")]
    machine: PathBuf,
    /// The number of pods.
    #[arg(long, default_value_t = 500)]
    pods: usize,
}

/// Measures and reports.
pub(super) fn run(bench: &Bench, options: &Options) -> anyhow::Result<String> {
    let machine = Machine::at(&options.machine)?;
    let [node, _] = bench.two_nodes()?;
    let chain = Chain::of(&machine)?;
    let selecting = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": NAMESPACE, "name": "some"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}}]}]},
    });
    bench.runtime.block_on(async {
        bench.cluster.namespace(NAMESPACE, &json!({})).await?;
        bench.cluster.apply(&selecting).await
    })?;
    let mut times = Times::default();
    let mut made = 0;
    while made < options.pods {
        let stopped = Stopped::new(machine.process("kubelet-1")?)?;
        let count = BATCH.min(options.pods - made);
        let pods = bench.runtime.block_on(create(bench, &node, made, count))?;
        let mut sandboxes = Vec::new();
        let turns = || {
            let mut turns = pods.iter().enumerate();
            turns.try_for_each(|(number, pod)| chain.turn(pod, number, &mut sandboxes, &mut times))
        };
        let measured = machine.inside(1, turns).flatten();
        // The kernel takes a namespace down afterwards, and would do so while the next is measured.
        drop(sandboxes);
        bench.runtime.block_on(remove(bench, &pods))?;
        drop(stopped);
        measured?;
        made += count;
        eprintln!("{made} of {}", options.pods);
    }
    let row = |name: &str, values: &[f64]| {
        let at = |fraction| format!("{:.1}", quantile(values, fraction));
        vec![name.to_owned(), values.len().to_string(), at(0.5), at(0.9), at(0.99), at(1.0)]
    };
    let rows = [
        row("ADD, the chain without Ringfence", &times.without),
        row("ADD, the chain with Ringfence", &times.with),
        row("of it, Ringfence's own plugin", &times.own),
        row("starting any program on a node", &times.nothing),
    ];
    Ok(table(&["", "n", "P50 ms", "P90 ms", "P99 ms", "max ms"], &rows))
}

/// Milliseconds.
#[derive(Default)]
struct Times {
    with: Vec<f64>,
    without: Vec<f64>,
    own: Vec<f64>,
    nothing: Vec<f64>,
}

/// A process that does not run for now.
struct Stopped(Pid);

impl Stopped {
    fn new(process: Pid) -> anyhow::Result<Self> {
        kill(process, Signal::SIGSTOP).context("the kubelet cannot be stopped")?;
        Ok(Self(process))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// The network configuration of the first node.
struct Chain {
    name: Value,
    version: Value,
    plugins: Vec<Value>,
}

impl Chain {
    fn of(machine: &Machine) -> anyhow::Result<Self> {
        let mut command = machine.on(1, "sh");
        command.args(["-c", "cat \"$(ls /etc/cni/net.d/*.conflist | head -1)\""]);
        let output = command.output().context("reading the network configuration")?;
        let conf: Value = serde_json::from_slice(&output.stdout).context("the network configuration of the node")?;
        let plugins = conf["plugins"].as_array().cloned().unwrap_or_default();
        if plugins.last().is_none_or(|last| last["type"] != OURS) {
            bail!("the network configuration of the first node does not end with {OURS}");
        }
        Ok(Self { name: conf["name"].clone(), version: conf["cniVersion"].clone(), plugins })
    }

    /// One pod: with and without, every other time the other way round.
    fn turn(&self, pod: &Pod, number: usize, sandboxes: &mut Vec<Sandbox>, times: &mut Times) -> anyhow::Result<()> {
        let begun = Instant::now();
        Command::new("true").status()?;
        times.nothing.push(millis(begun));
        for ours in [number.is_multiple_of(2), !number.is_multiple_of(2)] {
            let of_turn = |plugin: &&Value| ours || plugin["type"] != OURS;
            let plugins: Vec<Value> = self.plugins.iter().filter(of_turn).cloned().collect();
            let sandbox = Sandbox::new(pod)?;
            let (took, result) = self.add(&plugins, &sandbox)?;
            self.delete(&plugins, &sandbox, &result)?;
            sandboxes.push(sandbox);
            let whole: f64 = took.iter().sum();
            if ours {
                times.with.push(whole);
                let own = plugins.iter().zip(&took).filter(|(plugin, _)| plugin["type"] == OURS);
                times.own.push(own.map(|(_, took)| took).sum());
            } else {
                times.without.push(whole);
            }
        }
        Ok(())
    }

    fn add(&self, plugins: &[Value], sandbox: &Sandbox) -> anyhow::Result<(Vec<f64>, Value)> {
        let (mut took, mut result) = (Vec::new(), Value::Null);
        for plugin in plugins {
            let begun = Instant::now();
            let output = self.call("ADD", plugin, sandbox, &result)?;
            took.push(millis(begun));
            result = serde_json::from_slice(&output).with_context(|| format!("the result of {}", plugin["type"]))?;
        }
        Ok((took, result))
    }

    fn delete(&self, plugins: &[Value], sandbox: &Sandbox, result: &Value) -> anyhow::Result<()> {
        plugins.iter().rev().try_for_each(|plugin| self.call("DEL", plugin, sandbox, result).map(drop))
    }

    fn call(&self, verb: &str, plugin: &Value, sandbox: &Sandbox, before: &Value) -> anyhow::Result<Vec<u8>> {
        let mut input = plugin.clone();
        (input["cniVersion"], input["name"]) = (self.version.clone(), self.name.clone());
        if !before.is_null() {
            input["prevResult"] = before.clone();
        }
        input["runtimeConfig"] = json!({ "portMappings": [] });
        let kind = plugin["type"].as_str().context("a plugin without a type")?;
        let mut command = Command::new(format!("/opt/cni/bin/{kind}"));
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", &sandbox.name).env("CNI_NETNS", sandbox.path());
        command.env("CNI_IFNAME", "eth0").env("CNI_PATH", "/opt/cni/bin").env("CNI_ARGS", &sandbox.arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{kind} cannot be started"))?;
        child.stdin.take().context("standard input")?.write_all(input.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let [said, erred] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
            bail!("{verb} of {kind} failed: {said} {erred}");
        }
        Ok(output.stdout)
    }
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// A pod's network namespace, as a runtime makes it.
struct Sandbox {
    name: String,
    file: File,
    arguments: String,
}

impl Sandbox {
    fn new(pod: &Pod) -> anyhow::Result<Self> {
        let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
        let namespace = format!("{PREFIX}{}", std::process::id());
        let made = Namespace::create(&namespace)?;
        let file = File::open(made.path())?;
        // The file keeps it, and nothing is left of it once this process has ended.
        Namespace::delete(&namespace)?;
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={name};\
             K8S_POD_UID={uid}"
        );
        Ok(Self { name, file, arguments })
    }

    /// A path that leads there from every mount namespace.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }
}

async fn create(bench: &Bench, node: &str, first: usize, count: usize) -> anyhow::Result<Vec<Pod>> {
    let mut pods = Vec::new();
    for number in first..first + count {
        let pod = json!({
            "metadata": {"namespace": NAMESPACE, "name": format!("p{number}"), "labels": {"app": "bench"}},
            "spec": {
                "nodeName": node,
                "nodeSelector": {"kubernetes.io/hostname": "nobody"},
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "main", "image": "nginx"}],
            },
        });
        pods.push(bench.cluster.create(&pod).await?);
    }
    Ok(pods)
}

async fn remove(bench: &Bench, pods: &[Pod]) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::namespaced(bench.cluster.client.clone(), NAMESPACE);
    for pod in pods {
        api.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await?;
    }
    Ok(())
}
