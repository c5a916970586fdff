//! A node: a network namespace and a mount namespace in which containerd, kubelet and kube-proxy run.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::addresses::Addresses;
use super::components::{START_TIMEOUT, kubectl};
use super::images::{REGISTRIES, SANDBOX};
use super::process::{POLL_INTERVAL, eventually, ip, output, start};
use super::programs::{self, Programs};
use super::{Cni, Local, Proxy, Shape, control_groups, network, pki};

/// Where Debian has the standard network plugins.
const PLUGINS: &str = "/usr/lib/cni";
/// Directories of the machine that each node has for itself: below the node's directory, and where the node sees it.
const OWN: [(&str, &str); 8] = [
    ("cni", "/etc/cni"),
    ("cni", "/opt/cni"),
    ("cni-state", "/var/lib/cni"),
    ("kubelet", "/var/lib/kubelet"),
    ("logs", "/var/log/pods"),
    ("netns", "/run/netns"),
    ("run-ringfence", "/run/ringfence"),
    ("log-links", "/var/log/containers"),
];

/// A node of a cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'a> {
    pub(super) cluster: &'a Local,
    /// From 1.
    pub(super) number: u8,
}

impl Node<'_> {
    /// What it is called in the API; also its network namespace and its link at the bridge.
    pub(super) fn name(&self) -> String {
        format!("{}-n{}", self.cluster.name, self.number)
    }

    /// Its directory: `enter`, which runs a command there, and what it has for itself.
    pub(crate) fn directory(&self) -> PathBuf {
        self.cluster.directory.join(format!("n{}", self.number))
    }

    /// The socket of its container runtime.
    pub(super) fn socket(&self) -> PathBuf {
        self.directory().join("containerd.sock")
    }

    fn write(&self, file: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.directory().join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// A command that runs on it.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(self.directory().join("enter"));
        command.arg(program);
        command
    }

    /// Makes it and starts all that runs on it.
    pub(super) fn start(&self, programs: &Programs, addresses: &Addresses, shape: &Shape) -> anyhow::Result<()> {
        let Self { cluster, number } = *self;
        self.make_directories()?;
        network::join(self, addresses)?;
        self.make_mounts()?;
        control_groups::make(&self.name())?;
        let own = addresses.node(number);
        let names = std::iter::once(format!("DNS:{}", self.name())).chain(own.iter().map(|ip| format!("IP:{ip}")));
        let (identity, subject) =
            (format!("kubelet-{number}"), format!("/O=system:nodes/CN=system:node:{}", self.name()));
        pki::issue(cluster, &identity, &subject, &names.collect::<Vec<_>>())?;
        pki::kubeconfig(cluster, addresses, &identity)?;
        self.start_runtime(addresses)?;
        self.load(&programs.images())?;
        self.start_kubelet(programs, addresses)?;
        let ranges = eventually(&cluster.directory, &self.name(), START_TIMEOUT, || {
            let ranges = self.pod_ranges()?;
            ensure!(!ranges.is_empty(), "it has no pod range yet");
            Ok(ranges)
        })?;
        self.configure_plugin(shape.cni.unwrap_or(Cni::Bridge), &ranges)?;
        match shape.proxy.unwrap_or(Proxy::Iptables) {
            Proxy::None => Ok(()),
            Proxy::Iptables => self.start_proxy(programs, addresses, "iptables"),
            Proxy::Nftables => self.start_proxy(programs, addresses, "nftables"),
        }
    }

    fn make_directories(&self) -> anyhow::Result<()> {
        let directory = self.directory();
        let own = OWN.iter().map(|(own, _)| *own);
        for part in own.chain(["cni/net.d", "cni/bin", "containerd/root", "containerd/state", "registries"]) {
            fs::create_dir_all(directory.join(part)).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        for plugin in fs::read_dir(PLUGINS).with_context(|| format!("no network plugins in {PLUGINS}"))? {
            let plugin = plugin?;
            fs::copy(plugin.path(), directory.join("cni/bin").join(plugin.file_name()))?;
        }
        Ok(())
    }

    /// The mount namespace, held by a file, and the program that enters both namespaces.
    fn make_mounts(&self) -> anyhow::Result<()> {
        let directory = self.directory();
        let (held, shown) = (self.write("mnt", "")?, directory.display());
        // A file can hold a mount namespace only below a mount that does not propagate.
        output(Command::new("mount").arg("--bind").arg(&directory).arg(&directory))?;
        output(Command::new("mount").arg("--make-private").arg(&directory))?;
        let hold = format!("--mount={}", held.display());
        output(Command::new("unshare").args([&hold, "--propagation", "private", "true"]))?;
        let enter = format!("#!/bin/sh\nexec nsenter --net=/run/netns/{} {hold} -- \"$@\"\n", self.name());
        let enter = self.write("enter", &enter)?;
        fs::set_permissions(&enter, fs::Permissions::from_mode(0o755))?;
        // Containers may pass mounts on to their node, as on any machine with systemd.
        let mut script = "mount --make-rshared /\nmount -t bpf bpf /sys/fs/bpf\n".to_owned();
        for (own, seen) in OWN {
            let _ = write!(script, "mkdir -p {seen}\nmount --bind {shown}/{own} {seen}\n");
        }
        output(self.command("sh").arg("-ec").arg(script)).map(drop)
    }

    fn start_runtime(&self, addresses: &Addresses) -> anyhow::Result<()> {
        for registry in REGISTRIES {
            let folder = self.directory().join("registries").join(registry);
            fs::create_dir_all(&folder)?;
            let mirror = addresses.registry();
            let hosts = format!("[host.\"{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
            fs::write(folder.join("hosts.toml"), hosts)?;
        }
        let text = include_str!("../../cluster/containerd.toml");
        let text = text.replace("DIRECTORY", &self.directory().display().to_string()).replace("SANDBOX", SANDBOX);
        let file = self.write("containerd.toml", &text)?;
        let mut command = self.command("containerd");
        command.arg("--config").arg(file);
        start(&self.cluster.directory, &format!("containerd-{}", self.number), &command)?;
        eventually(&self.cluster.directory, "containerd", START_TIMEOUT, || self.ctr(&["version"], &[])).map(drop)
    }

    fn ctr(&self, words: &[&str], files: &[&Path]) -> anyhow::Result<String> {
        let mut command = Command::new("ctr");
        output(command.arg("--address").arg(self.socket()).args(["--namespace", "k8s.io"]).args(words).args(files))
    }

    /// Puts the images of an archive on it.
    pub(super) fn load(&self, archive: &Path) -> anyhow::Result<()> {
        self.ctr(&["images", "import", "--platform", platform()], &[archive])
            .with_context(|| format!("the images of {} do not get onto {}", archive.display(), self.name()))
            .map(drop)
    }

    fn start_kubelet(&self, programs: &Programs, addresses: &Addresses) -> anyhow::Result<()> {
        let Self { cluster, number } = *self;
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": false}, "webhook": {"enabled": true},
                "x509": {"clientCAFile": pki::file(cluster, "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": pki::file(cluster, &format!("kubelet-{number}.crt")),
            "tlsPrivateKeyFile": pki::file(cluster, &format!("kubelet-{number}.key")),
            "containerRuntimeEndpoint": format!("unix://{}", self.socket().display()),
            "clusterDNS": [addresses.dns()], "clusterDomain": "cluster.local",
            // Pods resolve through cluster DNS only.
            "resolvConf": "",
            "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{}", self.name()),
            "enforceNodeAllocatable": ["none"], "failCgroupV1": false, "failSwapOn": false,
            "maxPods": 250,
            // Nodes share one disk, of which none of them may take the pods of another for its own.
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
        });
        let file = self.write("kubelet.json", &serde_json::to_string_pretty(&config)?)?;
        let mut command = self.command(programs.path("kubelet"));
        command.arg(format!("--config={}", file.display()));
        command
            .arg(format!("--kubeconfig={}", cluster.directory.join(format!("kubelet-{number}.kubeconfig")).display()));
        command.arg(format!("--hostname-override={}", self.name()));
        command.arg(format!("--node-ip={}", addresses.node(number).join(",")));
        start(&cluster.directory, &format!("kubelet-{number}"), &command)
    }

    fn start_proxy(&self, programs: &Programs, addresses: &Addresses, mode: &str) -> anyhow::Result<()> {
        let directory = &self.cluster.directory;
        let mut command = self.command(programs.path("kube-proxy"));
        command.arg(format!("--kubeconfig={}", directory.join("kube-proxy.kubeconfig").display()));
        command.arg(format!("--proxy-mode={mode}")).arg(format!("--hostname-override={}", self.name()));
        command.arg(format!("--cluster-cidr={}", addresses.pods()));
        // Limits of connection tracking are the machine's, not a namespace's.
        command.args(["--conntrack-max-per-core=0", "--conntrack-min=0"]);
        command.args(["--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s"]);
        start(directory, &format!("kube-proxy-{}", self.number), &command)
    }

    /// The ranges that the controller manager gave it.
    pub(super) fn pod_ranges(&self) -> anyhow::Result<Vec<String>> {
        let path = "--output=jsonpath={.spec.podCIDRs[*]}";
        let text = output(kubectl(self.cluster, &programs::find()?).args(["get", "node", &self.name(), path]))?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    }

    /// Gives pods a network by one of the standard plugins.
    fn configure_plugin(&self, cni: Cni, ranges: &[String]) -> anyhow::Result<()> {
        let mut plugin = match cni {
            Cni::None => return Ok(()),
            Cni::Bridge => json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true}),
            Cni::Ptp => json!({"type": "ptp"}),
        };
        let everywhere = |range: &String| json!({"dst": if range.contains(':') { "::/0" } else { "0.0.0.0/0" }});
        plugin["ipam"] = json!({
            "type": "host-local",
            "ranges": ranges.iter().map(|range| json!([{"subnet": range}])).collect::<Vec<_>>(),
            "routes": ranges.iter().map(everywhere).collect::<Vec<_>>(),
        });
        let name = plugin["type"].as_str().unwrap_or_default().to_owned();
        let ports = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        let list = json!({"cniVersion": "1.0.0", "name": name, "plugins": [plugin, ports]});
        self.write(&format!("cni/net.d/10-{name}.conflist"), &serde_json::to_string_pretty(&list)?).map(drop)
    }

    /// Kills what runs in its pods and the shims beside them, until nothing is left.
    pub(super) fn end_pods(&self) {
        let socket = self.socket().display().to_string();
        while control_groups::kill_all(&self.name(), &socket) {
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Removes it. Nothing may run on it any more.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        let directory = self.directory();
        // What is mounted in its namespace goes with it.
        for place in [directory.join("mnt"), directory] {
            if output(Command::new("mountpoint").arg("--quiet").arg(&place)).is_ok() {
                output(Command::new("umount").arg("--lazy").arg(&place))?;
            }
        }
        control_groups::remove(&self.name())?;
        network::remove_namespace(&self.name())?;
        // The other end of the link may take a moment to go.
        let _ = ip(&format!("-n {} link delete {}", self.cluster.name, self.name()));
        Ok(())
    }
}

/// This machine's platform as images name it.
fn platform() -> &'static str {
    if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" }
}
