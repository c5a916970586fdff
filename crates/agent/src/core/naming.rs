//! Events as flows: pods, nodes and Services for addresses, policies and rules for causes.

use std::net::IpAddr;

use ringfence_api::{Explanation, Flow, FlowEnd, ReasonCode};
use ringfence_datapath::{DropReason, Event, EventVerdict};
use ringfence_engine::RuleId;
use ringfence_model::{PodKey, Protocol, Reason};

use super::state::Core;
use crate::flows::{self, Resolved};

impl Core {
    /// The flows of events.
    pub(super) fn resolve(&mut self, events: &[Event]) -> Resolved {
        let time = jiff::Timestamp::now().to_string();
        let flows = events.iter().map(|event| self.flow(event, &time)).collect();
        Resolved { flows, events_lost: self.setup.enforcer.events_lost() }
    }

    fn flow(&self, event: &Event, time: &str) -> Flow {
        let protocol = event.protocol;
        let mut source = self.flow_end(protocol, event.source, event.source_port);
        let destination = self.flow_end(protocol, event.destination, event.destination_port);
        if event.from_node && !event.reply {
            source.node = Some(self.setup.node.to_string());
        }
        let explanation = match event.verdict {
            EventVerdict::Allowed(cause) | EventVerdict::Denied(DropReason::Policy { rule_id: cause, .. }) => {
                self.explain(cause)
            }
            EventVerdict::Denied(drop) => drop.code().into(),
        };
        let how = (event.direction, protocol.to_string());
        Flow::new(time, flows::verdict(event), how, (source, destination), explanation, event.repeated)
    }

    fn flow_end(&self, protocol: Protocol, address: IpAddr, port: u16) -> FlowEnd {
        let pod = self.pod_at(address);
        let node = if pod.is_none() { self.index.node_at(address) } else { None };
        let service = if pod.is_none() && node.is_none() { self.index.service_at(address) } else { None };
        FlowEnd {
            address,
            port: protocol.has_ports().then_some(port),
            namespace: pod.map(|pod| pod.namespace.to_string()),
            pod: pod.map(|pod| pod.name.to_string()),
            node: node.map(ToString::to_string),
            service: service.map(|(namespace, name)| format!("{namespace}/{name}")),
        }
    }

    fn pod_at(&self, address: IpAddr) -> Option<&PodKey> {
        let held = self.held.endpoints.get(&address).map(|endpoint| &endpoint.pod);
        held.or_else(|| self.index.claimants(address).last())
    }

    fn explain(&self, cause: RuleId) -> Explanation {
        match self.held.rules.get(&cause).or_else(|| self.retired.get(&cause)) {
            Some(reason) => reason.into(),
            None if cause == RuleId::DEFAULT => (&Reason::Default).into(),
            None if !self.ready => ReasonCode::EarlierPolicy.into(),
            None => {
                let message = format!("decided by cause {:016x}, which is not in force any more", cause.0);
                Explanation { message, ..ReasonCode::Superseded.into() }
            }
        }
    }
}
