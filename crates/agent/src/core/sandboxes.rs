//! Which pod of this node has which address.
//!
//! The API learns a pod's addresses late, and late that they are its own no more, while the network plugin gives an
//! address to another pod at once. So what the plugin says (`ADD`, `DEL`, `GC`) goes first:
//!
//! * a pod has the addresses of its newest sandbox until the API says something it has not said before;
//! * a sandbox that is gone has none, whatever the API says;
//! * an address belongs to the pod it was given to last, whoever else the API says has it.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use ringfence_model::{Name, Object, ObjectKey, Pod, PodKey};
use tokio::sync::oneshot;

use super::state::Core;
use super::waiting::key;
use crate::api::{CollectRequest, ReleaseRequest, WaitRequest};

/// Most of what the API said that is remembered as old, per pod: as many sandboxes may fail in a row before a late
/// report about the first is taken for news.
const OUTDATED: usize = 16;

/// What network plugins told about the pods of this node.
#[derive(Debug, Default)]
pub(super) struct Sandboxes {
    newest: HashMap<PodKey, Sandbox>,
    /// Whom an address was given to last.
    owners: HashMap<IpAddr, (PodKey, Name)>,
    /// What the API says about addresses of this node's pods.
    api: HashMap<PodKey, Vec<IpAddr>>,
}

/// The newest sandbox of a pod.
#[derive(Debug)]
struct Sandbox {
    /// Of the pod.
    uid: Name,
    /// Its id; none if whoever told has no ids.
    container: Option<String>,
    /// The network it is connected to.
    network: Option<String>,
    addresses: Vec<IpAddr>,
    /// It is gone.
    released: bool,
    /// What the API said before it was there, or says of sandboxes before it.
    outdated: VecDeque<Vec<IpAddr>>,
    /// Whatever the API says first was said before it was there.
    first: bool,
}

impl Sandbox {
    fn new(request: &WaitRequest) -> Self {
        Self {
            uid: Name::from(request.uid.as_str()),
            container: request.container.clone(),
            network: request.network.clone(),
            addresses: request.addresses.iter().map(IpAddr::to_canonical).collect(),
            released: false,
            outdated: VecDeque::new(),
            first: true,
        }
    }

    fn outdate(&mut self, said: Vec<IpAddr>) {
        if !self.outdated.contains(&said) {
            self.outdated.push_back(said);
        }
        if self.outdated.len() > OUTDATED {
            self.outdated.pop_front();
        }
    }

    /// Whether its addresses are newer than what the API says.
    fn outlives(&mut self, said: &Vec<IpAddr>) -> bool {
        if std::mem::take(&mut self.first) {
            self.outdate(said.clone());
        }
        !self.addresses.is_empty() && self.outdated.contains(said)
    }
}

impl Sandboxes {
    /// Takes note of a sandbox that an agent before this one was told of. What the API says already counts more, unless
    /// the sandbox is so `recent` that the API may not have heard of it.
    pub(super) fn restore(&mut self, request: &WaitRequest, recent: bool) {
        let mut sandbox = Sandbox::new(request);
        sandbox.first = recent;
        sandbox.outdate(Vec::new());
        self.settle(key(request), sandbox, recent);
    }

    /// Takes note of a pod's newest sandbox. Returns the other pods that lose an address to it.
    fn settle(&mut self, key: PodKey, sandbox: Sandbox, given: bool) -> Vec<PodKey> {
        let mut losers = Vec::new();
        for address in sandbox.addresses.iter().filter(|_| given) {
            let owner = (key.clone(), Name::clone(&sandbox.uid));
            self.owners.insert(*address, owner);
            let claims = self.api.iter().filter(|(pod, said)| **pod != key && said.contains(address));
            let holders = self.newest.iter().filter(|(pod, other)| **pod != key && other.addresses.contains(address));
            losers.extend(claims.map(|(pod, _)| pod.clone()).chain(holders.map(|(pod, _)| pod.clone())));
        }
        self.newest.insert(key, sandbox);
        losers.sort_unstable();
        losers.dedup();
        losers
    }

    /// Gives a pod of this node the addresses it has in place of those the API says.
    pub(super) fn correct(&mut self, pod: &mut Pod) {
        self.api.insert(pod.key.clone(), pod.addresses.clone());
        if let Some(sandbox) = self.newest.get_mut(&pod.key).filter(|sandbox| sandbox.uid == pod.uid) {
            if sandbox.released {
                pod.addresses.clear();
            } else if sandbox.outlives(&pod.addresses) {
                pod.addresses.clone_from(&sandbox.addresses);
            }
        }
        let Self { owners, .. } = self;
        pod.addresses.retain(|address| owners.get(address).is_none_or(|(key, uid)| *key == pod.key && *uid == pod.uid));
    }

    /// Takes note that the sandbox of a pod must be gone, for its address was given to another.
    fn lose(&mut self, key: &PodKey, uid: &Name) {
        let unknown = || Sandbox {
            uid: Name::clone(uid),
            container: None,
            network: None,
            addresses: Vec::new(),
            released: true,
            outdated: VecDeque::new(),
            first: false,
        };
        self.newest.entry(key.clone()).or_insert_with(unknown).released = true;
    }

    /// Forgets a pod.
    pub(super) fn forget(&mut self, key: &PodKey) {
        self.newest.remove(key);
        self.api.remove(key);
        self.owners.retain(|_, (owner, _)| owner != key);
    }

    /// Forgets the pods that are not wanted.
    pub(super) fn retain(&mut self, wanted: impl Fn(&PodKey) -> bool) {
        let gone: Vec<_> = self.newest.keys().filter(|pod| !wanted(pod)).cloned().collect();
        for pod in &gone {
            self.forget(pod);
        }
    }

    /// Takes note that the sandboxes are gone which a condition names. Returns their pods.
    fn leave(&mut self, gone: impl Fn(&PodKey, &Sandbox) -> bool) -> Vec<PodKey> {
        let leaving = self.newest.iter_mut().filter(|(key, sandbox)| !sandbox.released && gone(key, sandbox));
        let released = leaving.map(|(key, sandbox)| {
            sandbox.released = true;
            key.clone()
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
        let key = key(request);
        let mut sandbox = Sandbox::new(request);
        let before = self.sandboxes.newest.remove(&key).filter(|before| before.uid == sandbox.uid);
        if let Some(said) = self.sandboxes.api.get(&key).filter(|_| self.index.local_pod(&key).is_some()) {
            sandbox.outdate(said.clone());
            sandbox.first = false;
        }
        if let Some(before) = before {
            before.outdated.into_iter().for_each(|said| sandbox.outdate(said));
            // Late news of the sandbox before it.
            if before.addresses != sandbox.addresses {
                sandbox.outdate(before.addresses);
            }
        }
        for loser in self.sandboxes.settle(key.clone(), sandbox, true) {
            tracing::info!(pod = %loser, to = %key, "an address was given to another pod: its sandbox is gone");
            if let Some(pod) = self.index.local_pod(&loser) {
                self.sandboxes.lose(&loser, &pod.uid);
            }
            self.replan(&loser);
        }
        self.replan(&key);
    }

    /// Closes the addresses of a pod whose sandbox is gone; answered when they are. One that is not the pod's newest is
    /// passed over: runtimes tidy up late.
    pub(super) fn close(&mut self, request: &ReleaseRequest, reply: oneshot::Sender<()>) {
        let key = PodKey { namespace: request.namespace.as_str().into(), name: request.name.as_str().into() };
        let gone = self.sandboxes.leave(|pod, sandbox| {
            *pod == key && *sandbox.uid == *request.uid && sandbox.container.as_deref() == Some(&request.container)
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

    fn close_all(&mut self, pods: &[PodKey], reply: oneshot::Sender<()>) {
        let replanned = pods.iter().filter(|pod| self.replan(pod)).count();
        if replanned > 0 {
            self.closing.push(reply);
        } else {
            // Nobody is there any more to hear it if this fails.
            let _ = reply.send(());
        }
    }

    /// Answers everybody who waits until addresses are closed.
    pub(super) fn closed(&mut self) {
        for reply in std::mem::take(&mut self.closing) {
            // Nobody is there any more to hear it if this fails.
            let _ = reply.send(());
        }
    }

    /// Plans a pod again as the API knows it, with what was told of its sandboxes since. False if it is not known.
    fn replan(&mut self, key: &PodKey) -> bool {
        let Some(mut pod) = self.index.local_pod(key).cloned() else { return false };
        if let Some(said) = self.sandboxes.api.get(key) {
            pod.addresses.clone_from(said);
        }
        self.put(Object::Pod(pod));
        true
    }

    /// Corrects what the API says about a pod of this node; forgets what was told of a pod of another.
    pub(super) fn correct(&mut self, pod: &mut Pod) {
        if pod.node.as_ref() == Some(&self.setup.node) {
            self.sandboxes.correct(pod);
        } else {
            self.sandboxes.api.remove(&pod.key);
        }
    }

    /// Forgets what was told of an object that is gone.
    pub(super) fn vacate(&mut self, key: &ObjectKey) {
        if let ObjectKey::Pod(key) = key {
            self.sandboxes.forget(key);
        }
    }
}
