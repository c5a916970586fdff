//! AdminNetworkPolicy and BaselineAdminNetworkPolicy, `v1alpha1` of bundle v0.1.7: what ClusterNetworkPolicy replaces.

use super::parts::{self, NamespaceSelector};
use super::schema::Schema;
use super::{Channel, Column, Definition};

/// Most rules of one direction, peers of one rule, and ports of one rule.
const MAX: usize = 100;

const APPROVAL: &str = "https://github.com/kubernetes-sigs/network-policy-api/pull/300";

/// The rule about names of ports, which only pods have.
pub(super) const NAMED_PORTS: (&str, &str) = (
    "!(self.to.exists(peer, has(peer.networks) || has(peer.nodes) || has(peer.domainNames)) && has(self.ports) && \
     self.ports.exists(port, has(port.namedPort)))",
    super::cluster::NAMED_PORTS.1,
);

/// The same for the kind that has no domain names.
pub(super) const BASELINE_NAMED_PORTS: (&str, &str) = (
    "!(self.to.exists(peer, has(peer.networks) || has(peer.nodes)) && has(self.ports) && self.ports.exists(port, \
     has(port.namedPort)))",
    "only pods have named ports: a rule to networks or nodes cannot name one",
);

/// The rule about the name of the only one.
pub(super) const ONLY: (&str, &str) =
    ("self.metadata.name == 'default'", "a cluster has one of them, named \"default\"");

pub(super) const ADMIN: Definition = Definition {
    kind: "AdminNetworkPolicy",
    plural: "adminnetworkpolicies",
    singular: "adminnetworkpolicy",
    short: "anp",
    version: "v1alpha1",
    bundle: "v0.1.7",
    approval: APPROVAL,
    columns: &[Column::PRIORITY, Column::AGE],
    schema: |channel| schema(Tier::Admin, channel),
};

pub(super) const BASELINE: Definition = Definition {
    kind: "BaselineAdminNetworkPolicy",
    plural: "baselineadminnetworkpolicies",
    singular: "baselineadminnetworkpolicy",
    short: "banp",
    columns: &[Column::AGE],
    schema: |channel| schema(Tier::Baseline, channel),
    ..ADMIN
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tier {
    Admin,
    Baseline,
}

fn schema(tier: Tier, channel: Channel) -> Schema {
    let subject = parts::pods(
        Schema::choice("The pods that the policy is about. Pods in their node's network are never among them."),
        NamespaceSelector::Required,
    );
    let ingress = Schema::list("Rules for what comes to these pods, in order.", ingress_rule(tier, channel));
    let egress = Schema::list("Rules for what these pods send, in order.", egress_rule(tier, channel));
    let spec = Schema::object("What is to be enforced.");
    let spec = match tier {
        Tier::Admin => spec.required("priority", Schema::number("Order: the smaller number comes first.", 0..=1000)),
        Tier::Baseline => spec,
    };
    let spec = spec
        .required("subject", subject)
        .optional("ingress", ingress.items(0..=MAX))
        .optional("egress", egress.items(0..=MAX));
    match tier {
        Tier::Admin => parts::policy("Rules for the whole cluster, before those of NetworkPolicies.", spec),
        Tier::Baseline => parts::policy("Rules for pods that no NetworkPolicy isolates.", spec).rule(ONLY.0, ONLY.1),
    }
}

fn rule(tier: Tier, channel: Channel, about: &str) -> Schema {
    let action = match tier {
        Tier::Admin => {
            Schema::one_of("Allow and Deny decide; Pass leaves the decision to others.", &["Allow", "Deny", "Pass"])
        }
        Tier::Baseline => Schema::one_of("What to do.", &["Allow", "Deny"]),
    };
    let ports = Schema::list("Protocols and ports; everything, if not given.", port(channel)).items(1..=MAX);
    Schema::object(about).optional("name", parts::rule_name()).required("action", action).optional("ports", ports)
}

fn ingress_rule(tier: Tier, channel: Channel) -> Schema {
    let peer = parts::pods(Schema::choice("A group of pods."), NamespaceSelector::Required);
    rule(tier, channel, "What to do with connections from certain peers.")
        .required("from", Schema::list("Where the connection comes from: any of these.", peer).items(1..=MAX))
}

fn egress_rule(tier: Tier, channel: Channel) -> Schema {
    let experimental = channel == Channel::Experimental;
    let peer = parts::pods(Schema::choice("A group of pods, nodes or addresses."), NamespaceSelector::Required)
        .optional("networks", parts::networks())
        .optional_if(experimental, "nodes", parts::nodes)
        .optional_if(experimental && tier == Tier::Admin, "domainNames", parts::domain_names);
    let rule = rule(tier, channel, "What to do with connections to certain peers.")
        .required("to", Schema::list("Where the connection goes to: any of these.", peer).items(1..=MAX));
    match (experimental, tier) {
        (false, _) => rule,
        (true, Tier::Admin) => rule.rule(NAMED_PORTS.0, NAMED_PORTS.1),
        (true, Tier::Baseline) => rule.rule(BASELINE_NAMED_PORTS.0, BASELINE_NAMED_PORTS.1),
    }
}

fn port(channel: Channel) -> Schema {
    let protocol = || Schema::text("TCP, UDP or SCTP.").with("default", "TCP");
    let number =
        Schema::object("One port.").required("protocol", protocol()).required("port", parts::port("The port."));
    let range = Schema::object("A range of ports, with both ends.")
        .optional("protocol", protocol())
        .required("start", parts::port("First port."))
        .required("end", parts::port("Last port."));
    Schema::choice("A port, by number or name, or several.")
        .optional("portNumber", number)
        .optional("portRange", range)
        .optional_if(channel == Channel::Experimental, "namedPort", || {
            Schema::text("Name of a port of the containers of the destination.")
        })
}
