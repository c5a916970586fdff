//! Those who wait until the policy of a pod is in the kernel.
//!
//! Whoever sets up a pod knows its addresses before the API does, and must not start it before its policy is there. So
//! the addresses come with the request, and count until the API says something newer.

use std::net::IpAddr;

use ringfence_model::{Name, Object, Pod, PodKey};
use tokio::sync::oneshot;

use super::state::Core;
use crate::api::{ReleaseRequest, WaitRequest};

/// Somebody who waits.
#[derive(Debug)]
pub(super) struct Waiter {
    request: WaitRequest,
    reply: oneshot::Sender<Vec<IpAddr>>,
}

/// Addresses a pod was given, which the API does not know yet.
#[derive(Debug)]
pub(super) struct Announced {
    uid: Name,
    addresses: Vec<IpAddr>,
    /// What the API said at the time: once it says something else, it knows better.
    superseded: Option<Vec<IpAddr>>,
}

/// The newest sandbox of a pod.
#[derive(Debug)]
pub(super) struct Sandbox {
    uid: Name,
    container: String,
    /// Once it is gone: the addresses the API says the pod has, which are its own no more.
    released: Option<Vec<IpAddr>>,
}

impl Core {
    /// Gives a pod the addresses announced for it, as long as the API does not know them, and takes those of a sandbox
    /// that is gone.
    pub(super) fn announce(&mut self, pod: &mut Pod) {
        let sandbox = self.sandboxes.get_mut(&pod.key).filter(|sandbox| sandbox.uid == pod.uid);
        if let Some(released) = sandbox.and_then(|sandbox| sandbox.released.as_mut()) {
            *released = std::mem::take(&mut pod.addresses);
            return;
        }
        let Some(announced) = self.announced.get_mut(&pod.key) else { return };
        let superseded = announced.superseded.get_or_insert_with(|| pod.addresses.clone());
        if announced.uid == pod.uid && *superseded == pod.addresses {
            pod.addresses.clone_from(&announced.addresses);
        } else {
            self.announced.remove(&pod.key);
        }
    }

    /// Takes in a request; it is answered once it is true.
    pub(super) fn wait(&mut self, request: WaitRequest, reply: oneshot::Sender<Vec<IpAddr>>) {
        self.forget_quitters();
        let key = key(&request);
        let mut known = self.index.local_pod(&key).cloned();
        if let Some(released) = self.enter(&key, &request)
            && let Some(mut pod) = known.take()
        {
            pod.addresses = released;
            self.put(Object::Pod(pod));
            known = self.index.local_pod(&key).cloned();
        }
        if !request.addresses.is_empty() && known.as_ref().is_none_or(|pod| pod.addresses != request.addresses) {
            let uid = Name::from(request.uid.as_str());
            let addresses = request.addresses.iter().map(IpAddr::to_canonical).collect();
            let earlier = self.announced.remove(&key).filter(|earlier| earlier.uid == uid);
            let superseded = earlier.and_then(|earlier| earlier.superseded).or_else(|| known.map(|pod| pod.addresses));
            self.announced.insert(key.clone(), Announced { uid, addresses, superseded });
            self.replan(&key);
        }
        self.waiters.push(Waiter { request, reply });
        self.release();
    }

    /// Takes note of a pod's newest sandbox. Returns what the API said of its addresses, if the one before was gone.
    fn enter(&mut self, key: &PodKey, request: &WaitRequest) -> Option<Vec<IpAddr>> {
        let uid = Name::from(request.uid.as_str());
        let container = request.container.clone()?;
        let sandbox = Sandbox { uid: Name::clone(&uid), container, released: None };
        self.sandboxes.insert(key.clone(), sandbox).filter(|before| before.uid == uid)?.released
    }

    /// Closes the addresses of a pod whose sandbox is gone; answered when they are.
    pub(super) fn close(&mut self, request: &ReleaseRequest, reply: oneshot::Sender<()>) {
        self.closing.push(reply);
        match self.leave(request) {
            Some(pod) => self.put(Object::Pod(pod)),
            None => self.closed(),
        }
    }

    /// Takes note that a sandbox is gone. Returns the pod as the API knows it, if the sandbox was its newest.
    fn leave(&mut self, request: &ReleaseRequest) -> Option<Pod> {
        let key = PodKey { namespace: request.namespace.as_str().into(), name: request.name.as_str().into() };
        let sandbox = self.sandboxes.get_mut(&key)?;
        let newest = *sandbox.uid == *request.uid && sandbox.container == request.container;
        if !newest || sandbox.released.is_some() {
            return None;
        }
        sandbox.released = Some(Vec::new());
        let mut pod = self.index.local_pod(&key)?.clone();
        if let Some(api) = self.announced.remove(&key).and_then(|announced| announced.superseded) {
            pod.addresses = api;
        }
        Some(pod)
    }

    /// Plans a pod again as the API knows it, with what was announced for it since.
    fn replan(&mut self, key: &PodKey) {
        let Some(mut pod) = self.index.local_pod(key).cloned() else { return };
        if let Some(api) = self.announced.get(key).and_then(|announced| announced.superseded.clone()) {
            pod.addresses = api;
        }
        self.put(Object::Pod(pod));
    }

    /// Answers everybody whose pod is in the kernel.
    pub(super) fn release(&mut self) {
        let mut waiting = Vec::new();
        for waiter in std::mem::take(&mut self.waiters) {
            match self.enforced(&waiter.request) {
                // Nobody is there any more to hear it if this fails.
                Ok(addresses) => drop(waiter.reply.send(addresses)),
                Err(_) => waiting.push(waiter),
            }
        }
        self.waiters = waiting;
    }

    /// Answers everybody who waits until addresses are closed.
    pub(super) fn closed(&mut self) {
        for reply in std::mem::take(&mut self.closing) {
            // Nobody is there any more to hear it if this fails.
            let _ = reply.send(());
        }
    }

    /// The addresses of a pod, all of which are in the kernel, or why not.
    pub(super) fn enforced(&self, request: &WaitRequest) -> Result<Vec<IpAddr>, String> {
        if !self.ready {
            return Err("the agent is not in sync with the API yet".into());
        }
        let key = key(request);
        let Some(pod) = self.index.local_pod(&key).filter(|pod| *pod.uid == *request.uid) else {
            return Err(format!("no pod {key} with uid {} is bound to this node", request.uid));
        };
        if pod.host_network {
            return Ok(Vec::new());
        }
        if !pod.is_endpoint() {
            return Err(format!("pod {key} has ended"));
        }
        if self.index.is_homeless(pod) {
            return Err(format!("the Namespace object of pod {key} is not known yet"));
        }
        let addresses = if request.addresses.is_empty() { &pod.addresses } else { &request.addresses };
        if addresses.is_empty() {
            return Err(format!("pod {key} has no address yet"));
        }
        for address in addresses {
            let held = self.held.endpoints.get(&address.to_canonical());
            if held.is_none_or(|endpoint| endpoint.uid != pod.uid) {
                let error = self.failure.as_ref().map(|failure| failure.error.to_string());
                return Err(error.unwrap_or_else(|| format!("address {address} of pod {key} belongs to a newer pod")));
            }
        }
        Ok(addresses.clone())
    }

    /// Those who gave up, and what they told for pods nobody has heard of.
    fn forget_quitters(&mut self) {
        self.waiters.retain(|waiter| !waiter.reply.is_closed());
        let Self { announced, sandboxes, index, waiters, .. } = self;
        let known =
            |pod: &PodKey| index.local_pod(pod).is_some() || waiters.iter().any(|waiter| key(&waiter.request) == *pod);
        announced.retain(|pod, _| known(pod));
        sandboxes.retain(|pod, _| known(pod));
    }
}

fn key(request: &WaitRequest) -> PodKey {
    PodKey { namespace: Name::from(request.namespace.as_str()), name: Name::from(request.name.as_str()) }
}
