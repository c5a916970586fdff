//! Those who wait until the policy of a pod is in the kernel.
//!
//! Whoever sets up a pod knows its addresses before the API does, and must not start it before its policy is there. So
//! the addresses come with the request, and count until the API says something newer: which pod has an address
//! ([`super::sandboxes`]).

use std::net::IpAddr;

use ringfence_api::WaitRequest;
use ringfence_model::{Name, PodKey};
use tokio::sync::oneshot;

use super::state::Core;

/// Somebody who waits.
#[derive(Debug)]
pub(super) struct Waiter {
    request: WaitRequest,
    reply: oneshot::Sender<Vec<IpAddr>>,
}

impl Core {
    /// Takes in a request; it is answered once it is true.
    pub(super) fn wait(&mut self, request: WaitRequest, reply: oneshot::Sender<Vec<IpAddr>>) {
        self.forget_quitters();
        self.occupy(&request);
        self.waiters.push(Waiter { request, reply });
        // What came with it, or just before it, is answered with the commit that carries it.
        if !self.dirty {
            self.release();
        }
    }

    /// Answers everybody whose pod is in the kernel, and whose addresses nothing is left of that earlier pods had open.
    pub(super) fn release(&mut self) {
        let mut waiting = Vec::new();
        for waiter in std::mem::take(&mut self.waiters) {
            match self.enforced(&waiter.request) {
                // Nobody is there any more to hear it if this fails.
                Ok(addresses) if self.inherits_nothing(&waiter.request) => drop(waiter.reply.send(addresses)),
                Ok(_) | Err(_) => waiting.push(waiter),
            }
        }
        self.waiters = waiting;
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
        if self.turns.is_waited_for(&key.namespace) {
            return Err(format!("policies of namespace {} are still to be planned", key.namespace));
        }
        let addresses = if request.addresses.is_empty() { &pod.addresses } else { &request.addresses };
        if addresses.is_empty() {
            return Err(format!("pod {key} has no address yet"));
        }
        for address in addresses {
            let held = self.held.endpoints.get(&address.to_canonical());
            if held.is_none_or(|endpoint| endpoint.uid != pod.uid) {
                let error = self.failure.as_ref().map(|failure| failure.error.to_string());
                return Err(error.unwrap_or_else(|| format!("address {address} is not pod {key}'s any more")));
            }
        }
        match self.exposed(addresses) {
            Some(why) => Err(why),
            None => Ok(addresses.clone()),
        }
    }

    /// Those who gave up, and what they told for pods nobody has heard of.
    fn forget_quitters(&mut self) {
        self.waiters.retain(|waiter| !waiter.reply.is_closed());
        self.forget_strangers();
    }

    /// Sandboxes of pods that neither the API knows nor anybody waits for.
    pub(super) fn forget_strangers(&mut self) {
        if !self.in_sync {
            return;
        }
        let Self { sandboxes, index, waiters, .. } = self;
        let waited = |pod: &PodKey, uid: &str| {
            waiters.iter().any(|waiter| key(&waiter.request) == *pod && waiter.request.uid == uid)
        };
        let known = |pod: &PodKey, uid: &str| index.local_pod(pod).is_some_and(|pod| *pod.uid == *uid);
        sandboxes.retain(|pod, uid| known(pod, uid) || waited(pod, uid));
    }
}

/// The pod that a request is about.
pub(super) fn key(request: &WaitRequest) -> PodKey {
    PodKey { namespace: Name::from(request.namespace.as_str()), name: Name::from(request.name.as_str()) }
}
