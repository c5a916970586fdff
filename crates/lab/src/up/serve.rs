//! The process that serves a lab: API, kubelets, Services, agents.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod, Service};
use kube::api::{Api, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use ringfence_netns::Namespace;
use serde_json::json;

use super::state::{Options, State};
use super::{about, down};
use crate::addressing::API_PORT;
use crate::agents::{self, AGENT_PROGRAM, AgentState};
use crate::api::Server;
use crate::image;
use crate::kubelet::{self, Kubelet, Runtime};
use crate::network::{self, Node};
use crate::place::Place;
use crate::process::Process;
use crate::service;

/// Port of the API on the host unless it is in use.
const PREFERRED_PORT: u16 = 6443;
/// Version of the nodes' kubelets: the API they speak.
const KUBELET_VERSION: &str = "v1.34.0";

/// Serves a lab until the process is ended. To be called by `up`, in a process of its own.
pub fn serve(place: &Place, options: &Options) -> anyhow::Result<()> {
    // A session of its own: closing the terminal does not end the lab.
    let _leader_already = nix::unistd::setsid();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build()?;
    runtime.block_on(run(place, options))
}

async fn run(place: &Place, options: &Options) -> anyhow::Result<()> {
    let steps = Steps::new(place)?;
    let families = options.families;
    let nodes: Vec<Node> = (1..=options.nodes).map(|number| Node::new(number, families)).collect();

    steps.tell("network")?;
    network::set_up(place, families, &nodes)?;
    mount_bpf(&place.bpf_mount())?;
    let program = std::env::current_exe().context("the path of this program is not known")?;
    mount_program(&program, &place.program())?;
    if options.agents {
        mount_program(&program.with_file_name(AGENT_PROGRAM), &place.agent_program())?;
    }

    steps.tell("API")?;
    let inside = families.fabric().first().map(|net| SocketAddr::new(net.addr(), API_PORT)).context("no address")?;
    let (listeners, port) = listen(place, options)?;
    let streams = Arc::new(Runtime::new(place.clone(), inside));
    let server = Server::start(crate::api::Config {
        listeners,
        dir: Some(place.api_directory()),
        names: families.fabric().iter().map(|net| net.addr().to_string()).collect(),
        service_ranges: families.service_ranges(),
        endpoint: Some(inside),
        runtime: Arc::clone(&streams) as Arc<_>,
    })?;
    let url = format!("https://127.0.0.1:{port}");
    write_private(&place.kubeconfig(), &server.kubeconfig(&url))?;
    write_private(&place.inner_kubeconfig(), &server.kubeconfig(&format!("https://{inside}")))?;
    State { options: options.clone(), process: Process::current()?, api_url: Some(url) }.save(place)?;
    let client = client(&place.kubeconfig()).await?;

    steps.tell(&format!("nodes: {}", names(&nodes)))?;
    for node in &nodes {
        tokio::spawn(kubelet::node::keep_registered(client.clone(), node.clone(), KUBELET_VERSION.to_owned()));
    }
    wait_for("nodes", || all_registered(&client, nodes.len())).await?;
    let mut agents = Vec::new();
    if options.agents {
        for node in &nodes {
            agents.push((node.name.clone(), agents::run(place, &client, &Arc::new(node.clone()))));
        }
    }
    let networks = nodes.iter().map(|node| service::NodeNetwork {
        namespace: place.node_namespace(&node.name),
        addresses: node.addresses.clone(),
    });
    tokio::spawn(service::run(client.clone(), families, networks.collect()));
    let kubelet = Arc::new(Kubelet::new(client.clone(), place.clone(), families, options.agents, &nodes)?);
    tokio::spawn(kubelet.run(streams));

    for (node, state) in &mut agents {
        steps.tell(&format!("agent of {node}"))?;
        await_agent(place, node, state).await?;
    }
    steps.tell("DNS")?;
    deploy_dns(&client, options).await?;
    wait_for("DNS", || dns_ready(&client)).await?;
    std::fs::write(place.ready_file(), "").map_err(about(&place.ready_file()))?;
    tracing::info!("ready");
    ended().await?;
    drop(server);
    Ok(())
}

/// Completes when the process is asked to end.
async fn ended() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Progress that `up` shows.
struct Steps(std::path::PathBuf);

impl Steps {
    fn new(place: &Place) -> anyhow::Result<Self> {
        let path = place.root().join("steps");
        std::fs::write(&path, "").map_err(about(&path))?;
        Ok(Self(path))
    }

    fn tell(&self, step: &str) -> anyhow::Result<()> {
        use std::io::Write as _;
        tracing::info!(step);
        let mut file = std::fs::File::options().append(true).open(&self.0).map_err(about(&self.0))?;
        writeln!(file, "starting {step}").map_err(about(&self.0))
    }
}

fn names(nodes: &[Node]) -> String {
    nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// A BPF file system of the lab's own: unmounting it removes every pin.
fn mount_bpf(path: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(path).map_err(about(path))?;
    if down::is_mounted(path)? {
        return Ok(());
    }
    mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .with_context(|| format!("cannot mount a BPF file system on {}", path.display()))
}

/// Shows a program at a path of the lab's, which leads to it even after its file was replaced by another.
fn mount_program(program: &Path, path: &Path) -> anyhow::Result<()> {
    if down::is_mounted(path)? {
        umount2(path, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {}", path.display()))?;
    }
    std::fs::write(path, "").map_err(about(path))?;
    mount(Some(program), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot show {} at {}", program.display(), path.display()))
}

/// Listeners for the API: on the host's loopback, and inside the fabric.
fn listen(place: &Place, options: &Options) -> anyhow::Result<(Vec<TcpListener>, u16)> {
    let earlier = State::load(place)?.and_then(|state| state.api_url);
    let earlier = earlier.and_then(|url| url.rsplit_once(':')?.1.parse::<u16>().ok());
    // A port that was asked for is taken or refused; else any will do, the one that clients know first.
    let any = || earlier.into_iter().chain([PREFERRED_PORT, 0]).collect();
    let wanted: Vec<u16> = options.api_port.map_or_else(any, |port| vec![port]);
    let outside = wanted.into_iter().find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
    let outside = outside.context("no port of 127.0.0.1 is free for the API")?;
    let port = outside.local_addr()?.port();
    let fabric = Namespace::open(&place.fabric_namespace())?;
    let mut listeners = vec![outside];
    for address in options.families.fabric() {
        let address = SocketAddr::new(address.addr(), API_PORT);
        let bound = fabric.run(|| TcpListener::bind(address))?;
        listeners.push(bound.with_context(|| format!("cannot listen on {address} inside the lab's fabric"))?);
    }
    Ok((listeners, port))
}

/// Writes a file only root can read: it holds a key.
fn write_private(path: &Path, content: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    crate::files::replace(path, content.as_bytes()).map_err(about(path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(about(path))
}

/// A client like any other, over TLS.
pub(super) async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    let read = Kubeconfig::read_from(kubeconfig).with_context(|| kubeconfig.display().to_string())?;
    let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    config.proxy_url = None;
    Ok(Client::try_from(config)?)
}

/// Asks until the answer is yes. An error that says more than "not yet" is told in the log.
async fn wait_for<F: Future<Output = anyhow::Result<bool>>>(what: &str, ask: impl Fn() -> F) -> anyhow::Result<()> {
    loop {
        match ask().await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, what, "not there yet"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn all_registered(client: &Client, count: usize) -> anyhow::Result<bool> {
    let nodes = Api::<NodeObject>::all(client.clone()).list(&ListParams::default()).await?;
    let ready = |node: &&NodeObject| node.status.as_ref().is_some_and(|status| status.addresses.is_some());
    Ok(nodes.items.iter().filter(ready).count() >= count)
}

/// Waits for an agent's first word that it is ready; one that ends again and again will not get there.
async fn await_agent(
    place: &Place,
    node: &str,
    state: &mut tokio::sync::watch::Receiver<AgentState>,
) -> anyhow::Result<()> {
    loop {
        let now = *state.borrow_and_update();
        if now.ready {
            return Ok(());
        }
        if now.restarts >= 5 {
            let log = place.agent_log(node);
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(6)..).unwrap_or_default().join("\n");
            bail!("the agent of {node} does not stay up; the end of {}:\n{tail}", log.display());
        }
        state.changed().await?;
    }
}

/// The cluster's DNS: a Deployment of the lab's own image and its Service.
async fn deploy_dns(client: &Client, options: &Options) -> anyhow::Result<()> {
    let labels = json!({"k8s-app": "kube-dns"});
    let probe = json!({"tcpSocket": {"port": 53}, "periodSeconds": 5});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "coredns", "namespace": "kube-system", "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "dnsPolicy": "Default",
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "coredns", "image": image::DNS, "readinessProbe": probe,
                    "ports": [
                        {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                        {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
                    ],
                }],
            }},
        },
    });
    let addresses: Vec<String> = options.families.dns().iter().map(ToString::to_string).collect();
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
        "spec": {
            "selector": labels,
            "clusterIP": addresses.first(),
            "clusterIPs": addresses,
            "ipFamilyPolicy": if addresses.len() > 1 { "RequireDualStack" } else { "SingleStack" },
            "ports": [
                {"name": "dns", "port": 53, "targetPort": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "targetPort": 53, "protocol": "TCP"},
            ],
        },
    });
    let services: Api<Service> = Api::namespaced(client.clone(), "kube-system");
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "kube-system");
    existing(services.create(&PostParams::default(), &serde_json::from_value(service)?).await.map(drop))?;
    existing(deployments.create(&PostParams::default(), &serde_json::from_value(deployment)?).await.map(drop))?;
    Ok(())
}

/// Treats "exists already" as done.
fn existing(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => other,
    }
}

async fn dns_ready(client: &Client) -> anyhow::Result<bool> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "kube-system");
    let list = pods.list(&ListParams::default().labels("k8s-app=kube-dns")).await?;
    Ok(list.items.iter().any(|pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut conditions = conditions.filter(|condition| condition.type_ == "Ready");
        pod.metadata.deletion_timestamp.is_none() && conditions.any(|condition| condition.status == "True")
    }))
}
