//! One pod on its node, from the first sight of it to its deletion.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tokio::sync::{OnceCell, watch};

use super::board::Board;
use super::containers::{self, Restart};
use super::events::{self, Tone};
use super::gate::{self, Question};
use super::spec::{self, Surroundings};
use super::{Kubelet, NodeState};
use crate::container::config::ContainerDirectory;
use crate::network;

/// The newest the API said about a pod; none once it is gone from there.
pub(super) type Sight = Option<Arc<Pod>>;

/// Context of everything that deals with one pod.
#[derive(Debug)]
pub(super) struct PodContext {
    /// The kubelet.
    pub kubelet: Arc<Kubelet>,
    /// The pod's node.
    pub node: Arc<NodeState>,
    /// State of its containers.
    pub board: Board,
    first: Arc<Pod>,
    sight: watch::Receiver<Sight>,
    addresses: OnceCell<Vec<IpAddr>>,
    config_maps: OnceCell<BTreeMap<String, ConfigMap>>,
}

/// Looks after a pod until it is gone.
pub(super) async fn look_after(
    kubelet: Arc<Kubelet>,
    node: Arc<NodeState>,
    first: Arc<Pod>,
    sight: watch::Receiver<Sight>,
) {
    let pod = Arc::new(PodContext {
        kubelet,
        node,
        board: Board::default(),
        first,
        sight,
        addresses: OnceCell::new(),
        config_maps: OnceCell::new(),
    });
    let grace = tokio::select! {
        biased;
        grace = pod.deletion() => grace,
        () = pod.live() => pod.deletion().await,
    };
    pod.end(grace).await;
}

impl PodContext {
    /// The newest state of the pod.
    pub(super) fn pod(&self) -> Arc<Pod> {
        self.sight.borrow().clone().unwrap_or_else(|| Arc::clone(&self.first))
    }

    /// Unique id of the pod.
    pub(super) fn uid(&self) -> String {
        self.first.uid().unwrap_or_default()
    }

    /// The directory of one of its containers.
    pub(super) fn directory(&self, container: &str) -> ContainerDirectory {
        ContainerDirectory::of(&self.kubelet.place.pod_directory(&self.uid()), container)
    }

    /// The network namespace its containers are in.
    pub(super) fn network_namespace(&self) -> String {
        if self.on_host_network() { self.node_namespace() } else { self.kubelet.place.pod_namespace(&self.uid()) }
    }

    /// The network namespace of its node.
    pub(super) fn node_namespace(&self) -> String {
        self.kubelet.place.node_namespace(&self.node.node.name)
    }

    /// Its first address.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.addresses.get()?.first().copied()
    }

    /// The image a container names now.
    pub(super) fn image_of(&self, container: &str) -> Option<String> {
        let pod = self.pod();
        let spec = pod.spec.as_ref()?;
        let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
        all.find(|candidate| candidate.name == container)?.image.clone()
    }

    /// Completes when the API said something new about the pod.
    pub(super) async fn spec_changed(&self) {
        if self.sight.clone().changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Tells an event.
    pub(super) async fn tell(&self, tone: Tone, reason: &str, message: &str) {
        events::tell(&self.kubelet.client, &self.node.node.name, &self.pod(), tone, reason, message).await;
    }

    /// Settings that its containers share.
    pub(super) fn surroundings(&self) -> Surroundings {
        let node = &self.node.node;
        let hostname = if self.on_host_network() { node.name.clone() } else { self.hostname() };
        Surroundings {
            hostname,
            addresses: self.addresses.get().cloned().unwrap_or_default(),
            node: (node.name.clone(), node.addresses.first().map(ToString::to_string).unwrap_or_default()),
            dns: self.kubelet.families.dns(),
            api: self.kubelet.families.api_service().first().map(|address| (*address, 443)),
            program: self.kubelet.place.program(),
            volumes: self.kubelet.place.pod_directory(&self.uid()).join("volumes"),
            config_maps: self.config_maps.get().cloned().unwrap_or_default(),
        }
    }

    fn hostname(&self) -> String {
        let named = self.first.spec.as_ref().and_then(|spec| spec.hostname.clone());
        // Host names have at most 63 bytes, pods' names more.
        let name = named.filter(|name| !name.is_empty()).unwrap_or_else(|| self.first.name_any());
        name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
    }

    fn on_host_network(&self) -> bool {
        self.first.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)
    }

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.kubelet.client.clone(), &self.first.namespace().unwrap_or_default())
    }

    /// Completes when the pod is to be deleted, with how long its containers may take.
    async fn deletion(&self) -> Duration {
        let mut sight = self.sight.clone();
        loop {
            let seen = sight.borrow_and_update().clone();
            match seen {
                // Gone from the API without a grace period.
                None => return Duration::ZERO,
                Some(pod) if pod.metadata.deletion_timestamp.is_some() => {
                    let seconds = pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
                    return Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
                }
                Some(_) => {}
            }
            if sight.changed().await.is_err() {
                return Duration::ZERO;
            }
        }
    }

    /// Brings the pod up and keeps it running. Comes back when all its containers have ended for good.
    async fn live(self: &Arc<Self>) {
        if is_terminal(&self.first) {
            self.leave_network().await;
            return;
        }
        let telling = self.keep_telling();
        let living = async {
            self.prepare().await;
            self.run_all().await;
            self.board.set_terminal();
            self.tell_until_heard().await;
        };
        tokio::select! {
            () = telling => {}
            () = living => {}
        }
        self.leave_network().await;
    }

    /// Network, volumes and the agent's word that the pod's policy is in force; tries until all is there.
    async fn prepare(self: &Arc<Self>) {
        let mut pause = Duration::from_millis(100);
        let mut told = String::new();
        while let Err(message) = self.try_prepare().await {
            if told != message {
                tracing::warn!(pod = self.first.name_any(), message, "pod cannot start yet");
                self.tell(Tone::Warning, "FailedCreatePodSandBox", &message).await;
                told = message;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    async fn try_prepare(&self) -> Result<(), String> {
        let maps = self.config_maps.get_or_try_init(|| self.load_config_maps()).await?;
        let directory = self.kubelet.place.pod_directory(&self.uid());
        std::fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        spec::fill_volumes(&self.first, &directory.join("volumes"), maps)?;
        if self.on_host_network() {
            let addresses = self.node.node.addresses.clone();
            self.addresses.get_or_init(|| async { addresses.clone() }).await;
            self.board.set_addresses(&addresses);
            return Ok(());
        }
        let addresses = self.addresses.get_or_try_init(|| self.join_network()).await?;
        self.board.set_addresses(addresses);
        // The address must be known to the API, and so to every agent, before the first packet.
        self.tell_status().await?;
        self.wait_for_agent(addresses).await
    }

    async fn load_config_maps(&self) -> Result<BTreeMap<String, ConfigMap>, String> {
        let api: Api<ConfigMap> =
            Api::namespaced(self.kubelet.client.clone(), &self.first.namespace().unwrap_or_default());
        let mut maps = BTreeMap::new();
        for name in spec::needed_config_maps(&self.first) {
            if let Some(map) = api.get_opt(&name).await.map_err(|error| error.to_string())? {
                maps.insert(name, map);
            }
        }
        Ok(maps)
    }

    async fn join_network(&self) -> Result<Vec<IpAddr>, String> {
        let uid = self.uid();
        let allocated = self.node.allocations.lock().allocate(&uid).map_err(|error| error.to_string())?;
        let addresses = allocated.ok_or("no addresses left on this node")?;
        let (place, node, wanted) = (self.kubelet.place.clone(), self.node.node.clone(), addresses.clone());
        tokio::task::spawn_blocking(move || network::attach(&place, &node, &uid, &wanted))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("failed to set up the pod's network: {error}"))?;
        Ok(addresses)
    }

    async fn wait_for_agent(&self, addresses: &[IpAddr]) -> Result<(), String> {
        if !self.kubelet.guarded {
            return Ok(());
        }
        let question = Question {
            namespace: self.first.namespace().unwrap_or_default(),
            name: self.first.name_any(),
            uid: self.uid(),
            addresses: addresses.to_vec(),
        };
        gate::endpoint_ready(&self.kubelet.place.agent_socket(&self.node.node.name), &question)
            .await
            .map_err(|error| format!("waiting for the pod's policy to be in force: {error}"))
    }

    /// Init containers one after the other, then all others at once.
    async fn run_all(self: &Arc<Self>) {
        let Some(spec) = &self.first.spec else { return };
        let mut sidecars = Vec::new();
        for container in spec.init_containers.iter().flatten() {
            if container.restart_policy.as_deref() == Some("Always") {
                sidecars.push(self.start_sidecar(container).await);
                continue;
            }
            let restart = if Restart::of(&self.first) == Restart::Never { Restart::Never } else { Restart::OnFailure };
            let exit = containers::run(self, container, restart).await;
            if exit.code != 0 {
                // The others never run: the pod has failed.
                return;
            }
            self.board.update(&container.name, |entry| entry.ready = true);
        }
        self.board.set_initialised();
        let restart = Restart::of(&self.first);
        join_all(spec.containers.iter().map(|container| containers::run(self, container, restart))).await;
        for (name, task) in sidecars.into_iter().rev() {
            task.abort();
            containers::stop(self, &name, Duration::from_secs(10)).await;
        }
    }

    /// Starts an init container that stays, and waits until it has started.
    async fn start_sidecar(self: &Arc<Self>, container: &Container) -> (String, AbortOnDrop) {
        let (pod, own) = (Arc::clone(self), container.clone());
        let task = tokio::spawn(async move {
            containers::run(&pod, &own, Restart::Always).await;
        });
        self.board.until(&container.name, |entry| entry.started).await;
        (container.name.clone(), AbortOnDrop(task))
    }

    /// Tells the API the pod's status whenever it changed.
    async fn keep_telling(&self) {
        loop {
            self.board.changed().await;
            self.tell_until_heard().await;
        }
    }

    async fn tell_until_heard(&self) {
        let mut pause = Duration::from_millis(100);
        while let Err(error) = self.tell_status().await {
            tracing::info!(pod = self.first.name_any(), error, "status not told yet");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    async fn tell_status(&self) -> Result<(), String> {
        let pod = self.pod();
        let status = self.board.status(&pod, &self.node.node.addresses);
        // The uid makes sure that a later pod of the same name does not get this status.
        let patch = json!({"metadata": {"uid": self.uid()}, "status": status});
        let name = self.first.name_any();
        match self.api().patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => Ok(()),
            // Gone, or replaced by another of the same name: nobody is left to tell.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(_) if self.sight.borrow().is_none() => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Ends the containers, takes the network away and lets the API forget the pod.
    async fn end(&self, grace: Duration) {
        let spec = self.first.spec.as_ref();
        let mains = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
        let inits = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
        for group in [mains, inits] {
            let stops = group.iter().map(|container| containers::stop(self, &container.name, grace));
            join_all(stops).await;
        }
        self.leave_network().await;
        self.forget().await;
        let directory = self.kubelet.place.pod_directory(&self.uid());
        if let Err(error) = std::fs::remove_dir_all(&directory) {
            tracing::debug!(%error, directory = %directory.display(), "pod directory not removed");
        }
    }

    async fn leave_network(&self) {
        if self.on_host_network() {
            return;
        }
        let (place, node, uid) = (self.kubelet.place.clone(), self.node.node.name.clone(), self.uid());
        let left = tokio::task::spawn_blocking(move || network::detach(&place, &node, &uid)).await;
        match left {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, pod = self.first.name_any(), "network not taken away"),
            Err(error) => tracing::warn!(%error, "network not taken away"),
        }
        let released = self.node.allocations.lock().release(&self.uid());
        if let Err(error) = released {
            tracing::warn!(%error, "address not given back");
        }
    }

    async fn forget(&self) {
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(self.uid()), resource_version: None }),
            ..DeleteParams::default()
        };
        let name = self.first.name_any();
        let mut pause = Duration::from_millis(100);
        loop {
            if self.sight.borrow().is_none() {
                return;
            }
            match self.api().delete(&name, &parameters).await {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if status.code == 404 => return,
                Err(error) => tracing::debug!(%error, pod = name, "pod not deleted from the API"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }
}

/// A task that does not outlive its handle.
#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl AbortOnDrop {
    fn abort(&self) {
        self.0.abort();
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// True if a pod has ended for good.
pub(super) fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}
