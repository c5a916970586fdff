//! The pod of each address of this node.
//!
//! The API learns a pod's addresses late, and late that they are its own no more, and what it says of pods of other
//! nodes is theirs to say. So what the network plugin of this node says (`ADD`, `DEL`, `GC`) decides:
//!
//! * a pod has the addresses of its newest sandbox, whatever the API says; what it says of a pod of which no sandbox is
//!   known counts;
//! * a sandbox that is gone has none;
//! * an address belongs to the pod it was given to last, whoever else the API says has it;
//! * an address of a sandbox is closed while no pod is known to have it: its pod's object may be gone or say that the
//!   pod has ended, and still something may run.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ringfence_api::{CollectRequest, ReleaseRequest, WaitRequest};
use ringfence_model::{Name, Object, ObjectKey, Pod, PodKey};
use tokio::sync::oneshot;

use super::state::Core;
use super::waiting::key;

/// One incarnation of a pod: a successor may have its name.
type Life = (PodKey, Name);

/// Most sandboxes of pods that the API does not know (any more). Their runtime says when they are gone; this is for one
/// that never does.
const STRANGERS: usize = 4096;

/// Reports of network plugins about the pods of this node.
#[derive(Debug, Default)]
pub(super) struct Sandboxes {
    newest: HashMap<Life, Sandbox>,
    /// Whom an address was given to last.
    owners: HashMap<IpAddr, Life>,
    /// Addresses of this node's pods, as the API says.
    api: HashMap<PodKey, Vec<IpAddr>>,
    /// The ranges of nodes say nothing about the addresses of pods: the network plugin takes others.
    pub(super) ranges_ignored: bool,
}

/// The newest sandbox of a pod.
#[derive(Debug)]
struct Sandbox {
    /// Its id; none if whoever told has no ids.
    container: Option<String>,
    /// The network it is connected to.
    network: Option<String>,
    addresses: Vec<IpAddr>,
    /// It is gone.
    released: bool,
    /// It was read in what an earlier time left behind: what the API says counts more.
    old: bool,
}

impl Sandbox {
    fn new(request: &WaitRequest) -> Self {
        Self {
            container: request.container.clone(),
            network: request.network.clone(),
            addresses: request.addresses.iter().map(IpAddr::to_canonical).collect(),
            released: false,
            old: false,
        }
    }

    /// One of which nothing is known but that it must be gone.
    fn gone() -> Self {
        Self { container: None, network: None, addresses: Vec::new(), released: true, old: false }
    }
}

/// The incarnation that a request is about.
fn life(request: &WaitRequest) -> Life {
    (key(request), Name::from(request.uid.as_str()))
}

impl Sandboxes {
    /// Takes note of a sandbox that an agent before this one was told of. What the API says counts more, unless the
    /// sandbox is so `recent` that the API may not have heard of it.
    pub(super) fn restore(&mut self, request: &WaitRequest, recent: bool) {
        let sandbox = Sandbox { old: !recent, ..Sandbox::new(request) };
        self.settle(life(request), sandbox);
    }

    /// Takes note of a pod's newest sandbox. Returns the other pods that lose an address to it.
    fn settle(&mut self, life: Life, sandbox: Sandbox) -> Vec<PodKey> {
        let mut losers = Vec::new();
        for address in sandbox.addresses.iter().filter(|_| !sandbox.old) {
            self.owners.insert(*address, life.clone());
            let others = self.newest.iter_mut().filter(|(other, _)| **other != life);
            for ((pod, _), holder) in others.filter(|(_, other)| other.addresses.contains(address)) {
                holder.released = true;
                losers.push(pod.clone());
            }
            let claims = self.api.iter().filter(|(pod, said)| **pod != life.0 && said.contains(address));
            losers.extend(claims.map(|(pod, _)| pod.clone()));
        }
        self.newest.insert(life, sandbox);
        losers.sort_unstable();
        losers.dedup();
        losers
    }

    /// Gives a pod of this node the addresses it has in place of those the API says.
    pub(super) fn correct(&mut self, pod: &mut Pod) {
        self.api.insert(pod.key.clone(), pod.addresses.clone());
        let life = (pod.key.clone(), Name::clone(&pod.uid));
        let Self { newest, owners, .. } = self;
        match newest.get(&life) {
            Some(sandbox) if sandbox.released => pod.addresses.clear(),
            Some(sandbox) if sandbox.old && !pod.addresses.is_empty() => {}
            Some(sandbox) if !sandbox.addresses.is_empty() => pod.addresses.clone_from(&sandbox.addresses),
            Some(_) | None => {}
        }
        let said = pod.addresses.len();
        pod.addresses.retain(|address| owners.get(address).is_none_or(|owner| *owner == life));
        if pod.addresses.len() < said {
            // Somebody was given what it had, so that its own sandbox must be gone: it has addresses again with the
            // next.
            newest.entry(life).or_insert_with(Sandbox::gone);
            pod.addresses.clear();
        }
    }

    /// The addresses that sandboxes have.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let there = self.newest.values().filter(|sandbox| !sandbox.released);
        there.flat_map(|sandbox| sandbox.addresses.iter().copied())
    }

    /// The object of a pod is gone. What is not gone is its sandbox, until somebody says so.
    fn forget(&mut self, life: &Life) {
        self.api.remove(&life.0);
        if self.newest.get(life).is_none_or(|sandbox| sandbox.released) {
            self.remove(life);
        }
    }

    fn remove(&mut self, life: &Life) {
        self.newest.remove(life);
        self.owners.retain(|_, owner| owner != life);
    }

    /// Forgets sandboxes that are gone of pods that are not known, and as many of the others as are too many.
    pub(super) fn retain(&mut self, known: impl Fn(&PodKey, &str) -> bool) {
        let strangers = self.newest.iter().filter(|((pod, uid), _)| !known(pod, uid));
        let mut strangers: Vec<_> = strangers.map(|(life, sandbox)| (!sandbox.released, life.clone())).collect();
        strangers.sort_unstable();
        let there = strangers.partition_point(|(there, _)| !there);
        for (_, life) in strangers.iter().take(there.max(strangers.len().saturating_sub(STRANGERS))) {
            self.remove(life);
        }
    }

    /// Takes note that the sandboxes are gone which a condition names. Returns their pods, and the addresses they had.
    fn leave(&mut self, gone: impl Fn(&Life, &Sandbox) -> bool) -> Vec<(PodKey, Vec<IpAddr>)> {
        let leaving = self.newest.iter_mut().filter(|(life, sandbox)| !sandbox.released && gone(life, sandbox));
        let released = leaving.map(|((pod, _), sandbox)| {
            sandbox.released = true;
            (pod.clone(), sandbox.addresses.clone())
        });
        released.collect()
    }
}

impl Core {
    /// Takes note of the sandbox that a request tells of, and plans everybody anew to whom it makes a difference.
    pub(super) fn occupy(&mut self, request: &WaitRequest) {
        if request.addresses.is_empty() && request.container.is_none() {
            return;
        }
        let life = life(request);
        for loser in self.sandboxes.settle(life.clone(), Sandbox::new(request)) {
            tracing::info!(pod = %loser, to = %life.0, "an address was given to another pod");
            self.replan(&loser);
        }
        self.replan(&life.0);
        // Closed at least, if nobody knows the pod yet.
        self.dirty = true;
    }

    /// Closes the addresses of a pod whose sandbox is gone; answered when they are. One that is not the pod's newest is
    /// passed over: runtimes tidy up late.
    pub(super) fn close(&mut self, request: &ReleaseRequest, reply: oneshot::Sender<()>) {
        let key = PodKey { namespace: request.namespace.as_str().into(), name: request.name.as_str().into() };
        let gone = self.sandboxes.leave(|(pod, uid), sandbox| {
            *pod == key && **uid == *request.uid && sandbox.container.as_deref() == Some(&request.container)
        });
        self.close_all(&gone, reply);
    }

    /// The same for all sandboxes of a network but some.
    pub(super) fn collect(&mut self, request: &CollectRequest, reply: oneshot::Sender<()>) {
        let gone = self.sandboxes.leave(|_, sandbox| {
            let listed = sandbox.container.as_ref().is_none_or(|container| request.containers.contains(container));
            sandbox.network.as_ref() == Some(&request.network) && !listed
        });
        self.close_all(&gone, reply);
    }

    fn close_all(&mut self, left: &[(PodKey, Vec<IpAddr>)], reply: oneshot::Sender<()>) {
        for (pod, addresses) in left {
            self.replan(pod);
            self.inheritance.leave(addresses);
        }
        self.dirty |= !left.is_empty();
        self.forget_strangers();
        let known = left.iter().any(|(pod, _)| self.index.local_pod(pod).is_some());
        if known || (self.in_sync && !left.is_empty()) {
            self.closing.push(reply);
        } else {
            // Nobody is there any more to hear it if this fails.
            let _ = reply.send(());
        }
    }

    /// Answers everybody who waits until addresses are closed.
    pub(super) fn closed(&mut self) {
        self.clear_inheritance();
        for reply in std::mem::take(&mut self.closing) {
            // Nobody is there any more to hear it if this fails.
            let _ = reply.send(());
        }
    }

    /// Plans a pod again as the API knows it, with what was told of its sandboxes since.
    fn replan(&mut self, key: &PodKey) {
        let Some(mut pod) = self.index.local_pod(key).cloned() else { return };
        if let Some(said) = self.sandboxes.api.get(key) {
            pod.addresses.clone_from(said);
        }
        self.put(Object::Pod(pod));
    }

    /// Corrects what the API says about a pod of this node; forgets what was told of a pod of another, and of one that
    /// had its name before.
    pub(super) fn correct(&mut self, pod: &mut Pod) {
        let before = self.index.local_pod(&pod.key).map(|before| Name::clone(&before.uid));
        if let Some(uid) = before.filter(|uid| *uid != pod.uid) {
            self.sandboxes.forget(&(pod.key.clone(), uid));
        }
        if pod.node.as_ref() == Some(&self.setup.node) {
            self.sandboxes.correct(pod);
        } else {
            self.sandboxes.api.remove(&pod.key);
        }
    }

    /// Forgets what was told of an object that is gone; not of another that has its name.
    pub(super) fn vacate(&mut self, key: &ObjectKey) {
        if let ObjectKey::Pod(key) = key
            && let Some(pod) = self.index.local_pod(key)
        {
            let life = (key.clone(), Name::clone(&pod.uid));
            self.sandboxes.forget(&life);
        }
    }

    /// The ranges of nodes say who can have an address, unless the network plugin takes its addresses elsewhere: this
    /// node has pods outside of its range of a family, and none inside.
    pub(super) fn heed_ranges(&mut self) {
        let ranges = self.index.ranges().unwrap_or_default();
        let mut outside = false;
        for address in self.sandboxes.addresses().chain(self.index.local_addresses()) {
            let mut of_family = ranges.iter().filter(|range| range.addr().is_ipv4() == address.is_ipv4()).peekable();
            if of_family.peek().is_some() {
                if of_family.any(|range| range.contains(&address)) {
                    outside = false;
                    break;
                }
                outside = true;
            }
        }
        if std::mem::replace(&mut self.sandboxes.ranges_ignored, outside) != outside {
            tracing::info!(ignored = outside, "whether the ranges of nodes say who can have an address");
            let nodes: Vec<_> = self.index.nodes().cloned().collect();
            for node in nodes {
                self.plan(Object::Node(node));
            }
        }
    }

    /// Addresses of this node that have to be closed while no pod has them: those of its sandboxes, and of pods of
    /// which it is not known what policies select them. Not the node's own.
    pub(super) fn guards(&self) -> BTreeSet<IpAddr> {
        let unguarded = self.ending.unguarded().flat_map(|namespace| self.index.local_pods_of(namespace));
        let unguarded = unguarded.flat_map(|pod| pod.addresses);
        let homeless = self.index.homeless().flat_map(|pod| pod.addresses.iter().copied()).chain(unguarded);
        self.sandboxes.addresses().chain(homeless).filter(|address| !self.index.is_own(*address)).collect()
    }
}
