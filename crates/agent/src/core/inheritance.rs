//! An address that is given to another pod inherits no connection.
//!
//! Connection tracking knows addresses, not pods. Where something is let through because it was open before (while
//! connections drain, and where addresses of domain names linger), a packet of what an earlier pod had open would pass.
//! So connection tracking is made to forget, by a thread of its own ([`crate::forget`]): when a sandbox is gone and its
//! addresses are closed, so that nothing can come after that; else before `ADD` is answered, when the policy of the new
//! pod is in the kernel already.

use std::collections::HashMap;
use std::net::IpAddr;

use ringfence_api::Connections;
use ringfence_api::WaitRequest;
use ringfence_model::Name;

use super::state::Core;
use crate::forget::Given;

/// Addresses whose connections are known to be forgotten.
#[derive(Debug, Default)]
pub(super) struct Inheritance {
    /// Addresses that are about to be closed.
    left: Vec<IpAddr>,
    /// Addresses of which connections are forgotten (true) or about to be, and whose they are; of nobody's, an empty
    /// id.
    forgotten: HashMap<Given, bool>,
}

impl Inheritance {
    /// The pod that had these addresses is gone.
    pub(super) fn leave(&mut self, addresses: &[IpAddr]) {
        self.left.extend(addresses);
    }
}

fn nobody(address: IpAddr) -> Given {
    (address, Name::from(""))
}

impl Core {
    /// True if anything is let through because it was open before.
    fn spares_open(&self) -> bool {
        self.setup.connections == Connections::Drain || !self.index.domains().is_empty()
    }

    /// True if an address is closed as long as no pod has it.
    fn is_closed(&self, address: IpAddr) -> bool {
        !self.held.endpoints.contains_key(&address) && self.held.closed_cidrs.iter().any(|gate| gate.contains(&address))
    }

    /// The addresses of sandboxes that are gone are closed.
    pub(super) fn clear_inheritance(&mut self) {
        let mut left = std::mem::take(&mut self.inheritance.left);
        left.retain(|address| self.spares_open() && self.is_closed(*address));
        for address in left {
            if let Some(forget) = &self.setup.forget
                && forget.send(nobody(address)).is_ok()
            {
                self.inheritance.forgotten.insert(nobody(address), false);
            }
        }
    }

    /// True if no connection is known that another pod had under the addresses of a request; if one may be, connection
    /// tracking is made to forget.
    pub(super) fn inherits_nothing(&mut self, request: &WaitRequest) -> bool {
        if !self.spares_open() || request.container.is_none() {
            return true;
        }
        let Some(forget) = &self.setup.forget else { return true };
        let known = &mut self.inheritance.forgotten;
        let mut done = true;
        for address in request.addresses.iter().map(IpAddr::to_canonical) {
            let given = (address, Name::from(request.uid.as_str()));
            if known.remove(&nobody(address)) == Some(true) {
                known.insert(given.clone(), true);
            }
            if let Some(forgotten) = known.get(&given) {
                done &= *forgotten;
            } else if forget.send(given.clone()).is_ok() {
                known.insert(given, false);
                done = false;
            }
        }
        done
    }

    /// The connections that were known of an address are forgotten, or not: then somebody has to ask again.
    pub(super) fn forgotten(&mut self, given: &Given, done: bool) {
        if !done {
            self.inheritance.forgotten.remove(given);
            return;
        }
        if let Some(forgotten) = self.inheritance.forgotten.get_mut(given) {
            *forgotten = true;
        }
        let mut known = std::mem::take(&mut self.inheritance.forgotten);
        let has = |(address, uid): &Given| match self.held.endpoints.get(address) {
            Some(endpoint) => endpoint.uid == *uid,
            None => uid.is_empty() && self.is_closed(*address),
        };
        known.retain(|given, done| !*done || has(given));
        self.inheritance.forgotten = known;
        if !self.dirty {
            self.release();
        }
    }
}
