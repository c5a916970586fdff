//! The kubelet of all the lab's nodes: an ordinary client of the API that runs pods as namespaces and processes.

mod attach;
mod beside_agent;
mod board;
mod containers;
mod events;
mod gate;
mod logs;
pub mod node;
mod pod;
mod probe;
mod runtime;
mod spec;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt as _};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::addressing::Families;
use crate::network::{Allocations, Node};
use crate::place::Place;
pub use runtime::Runtime;

/// Annotation of pods the kubelet only shows and does not run.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// State of the kubelet.
#[derive(Clone)]
pub struct Kubelet {
    /// The API.
    pub client: Client,
    /// The lab.
    pub place: Place,
    /// Its IP families.
    pub families: Families,
    /// True if each node has an agent that must agree before a pod starts.
    pub guarded: bool,
    /// Its nodes, by name.
    pub nodes: BTreeMap<String, Arc<NodeState>>,
}

impl std::fmt::Debug for Kubelet {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Kubelet").field("place", &self.place).finish_non_exhaustive()
    }
}

/// State of a node.
#[derive(Debug)]
pub struct NodeState {
    /// The node.
    pub node: Node,
    /// Addresses of its pods.
    pub allocations: Mutex<Allocations>,
}

impl Kubelet {
    /// The kubelet of these nodes, with their addresses as they were left.
    pub fn new(
        client: Client,
        place: Place,
        families: Families,
        guarded: bool,
        nodes: &[Node],
    ) -> std::io::Result<Self> {
        let mut states = BTreeMap::new();
        for node in nodes {
            let allocations = Mutex::new(Allocations::load(&place, &node.name, node.pod_ranges.clone())?);
            states.insert(node.name.clone(), Arc::new(NodeState { node: node.clone(), allocations }));
        }
        Ok(Self { client, place, families, guarded, nodes: states })
    }

    /// Follows the API's pods for ever, looking after each that is on one of the nodes.
    pub async fn run(self: Arc<Self>, runtime: Arc<Runtime>) {
        let pods: Api<Pod> = Api::all(self.client.clone());
        let mut events = watcher::watcher(pods, watcher::Config::default()).default_backoff().boxed();
        let mut keeper = Keeper { kubelet: self, runtime, kept: HashMap::new(), listed: HashSet::new() };
        loop {
            match events.try_next().await {
                Ok(Some(event)) => keeper.handle(event),
                Ok(None) => return,
                Err(error) => tracing::warn!(%error, "watch of pods interrupted"),
            }
        }
    }
}

/// The pods that are looked after.
struct Keeper {
    kubelet: Arc<Kubelet>,
    runtime: Arc<Runtime>,
    kept: HashMap<String, watch::Sender<pod::Sight>>,
    listed: HashSet<String>,
}

impl Keeper {
    fn handle(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.insert(pod.uid().unwrap_or_default());
                self.apply(pod);
            }
            Event::InitDone => {
                let gone: Vec<String> = self.kept.keys().filter(|uid| !self.listed.contains(*uid)).cloned().collect();
                for uid in gone {
                    self.remove(&uid);
                }
                self.clear_leftovers();
            }
            Event::Apply(pod) => self.apply(pod),
            Event::Delete(pod) => self.remove(&pod.uid().unwrap_or_default()),
        }
    }

    fn apply(&mut self, pod: Pod) {
        let Some(uid) = pod.uid() else { return };
        let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        let Some(node) = self.kubelet.nodes.get(&node_name) else { return };
        let pod = Arc::new(pod);
        self.runtime.remember(&pod);
        if pod.annotations().contains_key(MIRROR) {
            return;
        }
        if let Some(known) = self.kept.get(&uid) {
            known.send_replace(Some(pod));
            return;
        }
        let (sender, receiver) = watch::channel(Some(Arc::clone(&pod)));
        tokio::spawn(pod::look_after(Arc::clone(&self.kubelet), Arc::clone(node), pod, receiver));
        self.kept.insert(uid, sender);
    }

    fn remove(&mut self, uid: &str) {
        self.runtime.forget(uid);
        if let Some(known) = self.kept.remove(uid) {
            known.send_replace(None);
        }
    }

    /// Ends what runs for pods the API does not know any more: it was deleted while no kubelet looked.
    fn clear_leftovers(&self) {
        let Ok(entries) = std::fs::read_dir(self.kubelet.place.pods_directory()) else { return };
        for entry in entries.flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if !self.kept.contains_key(&uid) {
                tokio::spawn(clear(Arc::clone(&self.kubelet), uid));
            }
        }
        for node in self.kubelet.nodes.values() {
            let holders = node.allocations.lock().holders();
            for uid in holders.into_iter().filter(|uid| !self.kept.contains_key(uid)) {
                let released = node.allocations.lock().release(&uid);
                if let Err(error) = released {
                    tracing::warn!(%error, "address not given back");
                }
            }
        }
    }
}

/// Ends and removes what is left of a pod.
async fn clear(kubelet: Arc<Kubelet>, uid: String) {
    let directory = kubelet.place.pod_directory(&uid);
    let containers = std::fs::read_dir(directory.join("containers"));
    for entry in containers.into_iter().flatten().flatten() {
        let container = crate::container::config::ContainerDirectory::at(entry.path());
        let name = entry.file_name().to_string_lossy().into_owned();
        containers::end(&container, &name, std::time::Duration::ZERO).await;
    }
    for node in kubelet.nodes.keys() {
        let (place, node, uid) = (kubelet.place.clone(), node.clone(), uid.clone());
        let detached = tokio::task::spawn_blocking(move || crate::network::detach(&place, &node, &uid)).await;
        if let Ok(Err(error)) = detached {
            tracing::warn!(%error, "network of a deleted pod not taken away");
        }
    }
    if let Err(error) = std::fs::remove_dir_all(&directory) {
        tracing::debug!(%error, "directory of a deleted pod not removed");
    }
}
