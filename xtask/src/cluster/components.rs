//! The control plane, and requests to it.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::addresses::{API_PORT, Addresses, REGISTRY_PORT};
use super::process::{eventually, output, start};
use super::programs::Programs;
use super::{Local, pki};

/// How long a component may take to come up.
pub(super) const START_TIMEOUT: Duration = Duration::from_mins(2);
/// Where etcd listens, in the control plane's namespace.
const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEERS: &str = "http://127.0.0.1:2380";

impl Local {
    fn component(&self, name: &str, program: &Path, flags: &[String]) -> anyhow::Result<()> {
        let mut command = self.command(program);
        command.args(flags);
        start(&self.directory, name, &command)
    }

    fn pki(&self, name: &str) -> String {
        pki::file(self, name).display().to_string()
    }
}

/// Starts registry, etcd, API server, controller manager and scheduler.
pub(super) fn start_control_plane(cluster: &Local, programs: &Programs, addresses: &Addresses) -> anyhow::Result<()> {
    let listen = format!("[::]:{REGISTRY_PORT}");
    let layout = programs.layout().display().to_string();
    cluster.component("registry", &programs.path("registry"), &[listen, layout])?;
    cluster.component("etcd", Path::new("etcd"), &etcd(cluster))?;
    cluster.component("apiserver", &programs.path("kube-apiserver"), &api_server(cluster, addresses))?;
    eventually(&cluster.directory, "the API server", START_TIMEOUT, || {
        output(kubectl(cluster, programs).args(["get", "--raw", "/readyz"]))
    })?;
    let manager = controller_manager(cluster, addresses);
    cluster.component("controller-manager", &programs.path("kube-controller-manager"), &manager)?;
    cluster.component("scheduler", &programs.path("kube-scheduler"), &with_kubeconfig(cluster, "scheduler"))
}

fn etcd(cluster: &Local) -> Vec<String> {
    vec![
        format!("--data-dir={}", cluster.directory.join("etcd").display()),
        format!("--listen-client-urls={ETCD}"),
        format!("--advertise-client-urls={ETCD}"),
        format!("--listen-peer-urls={ETCD_PEERS}"),
        format!("--initial-advertise-peer-urls={ETCD_PEERS}"),
        format!("--initial-cluster=default={ETCD_PEERS}"),
        // Nothing of it is to survive the machine.
        "--unsafe-no-fsync".into(),
    ]
}

fn api_server(cluster: &Local, addresses: &Addresses) -> Vec<String> {
    let pki = |name: &str| cluster.pki(name);
    vec![
        format!("--etcd-servers={ETCD}"),
        format!("--advertise-address={}", addresses.control_plane()[0]),
        format!("--bind-address={}", addresses.any()),
        format!("--secure-port={API_PORT}"),
        format!("--service-cluster-ip-range={}", addresses.services()),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--allow-privileged=true".into(),
        format!("--client-ca-file={}", pki("ca.crt")),
        format!("--tls-cert-file={}", pki("apiserver.crt")),
        format!("--tls-private-key-file={}", pki("apiserver.key")),
        format!("--kubelet-client-certificate={}", pki("admin.crt")),
        format!("--kubelet-client-key={}", pki("admin.key")),
        "--kubelet-preferred-address-types=InternalIP".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!("--service-account-key-file={}", pki("sa.pub")),
        format!("--service-account-signing-key-file={}", pki("sa.key")),
    ]
}

fn controller_manager(cluster: &Local, addresses: &Addresses) -> Vec<String> {
    let mut flags = with_kubeconfig(cluster, "controller-manager");
    flags.extend([
        "--allocate-node-cidrs=true".into(),
        format!("--cluster-cidr={}", addresses.pods()),
        format!("--service-cluster-ip-range={}", addresses.services()),
        format!("--root-ca-file={}", cluster.pki("ca.crt")),
        format!("--service-account-private-key-file={}", cluster.pki("sa.key")),
        "--use-service-account-credentials=true".into(),
    ]);
    flags
}

/// There is one of each, which need not be elected.
fn with_kubeconfig(cluster: &Local, name: &str) -> Vec<String> {
    let kubeconfig = cluster.directory.join(format!("{name}.kubeconfig"));
    vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        "--bind-address=127.0.0.1".into(),
        "--leader-elect=false".into(),
    ]
}

/// `kubectl` for the cluster, as its administrator.
pub(super) fn kubectl(cluster: &Local, programs: &Programs) -> Command {
    let mut command = cluster.command(programs.path("kubectl"));
    command.env("KUBECONFIG", cluster.kubeconfig());
    command
}

/// Applies manifests.
pub(super) fn apply(cluster: &Local, programs: &Programs, manifests: &str) -> anyhow::Result<()> {
    let mut command = kubectl(cluster, programs);
    let mut child = command.args(["apply", "--filename=-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    child.stdin.take().context("kubectl has no input")?.write_all(manifests.as_bytes())?;
    ensure!(child.wait()?.success(), "the manifests cannot be applied");
    Ok(())
}

/// Waits until pods can run: nodes are ready, cluster DNS answers.
pub(super) fn await_ready(cluster: &Local, programs: &Programs, services: bool) -> anyhow::Result<()> {
    let wait = |words: &[&str]| output(kubectl(cluster, programs).args(words).arg("--timeout=2s")).map(drop);
    eventually(&cluster.directory, "a node", START_TIMEOUT, || {
        wait(&["wait", "--for=condition=Ready", "nodes", "--all"])
    })?;
    if !services {
        // Without Services, CoreDNS does not reach the API server.
        return Ok(());
    }
    eventually(&cluster.directory, "cluster DNS", START_TIMEOUT, || {
        wait(&["--namespace=kube-system", "rollout", "status", "deployment/coredns"])
    })
}
