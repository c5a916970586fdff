//! ClusterNetworkPolicy, `v1alpha2` of bundle v0.2.0.

use super::parts::{self, NamespaceSelector};
use super::schema::Schema;
use super::{Channel, Column, Definition};

/// Most rules of one direction, peers of one rule, and ports of one rule.
const MAX: usize = 25;

/// The rule about ports of a range.
pub(super) const ASCENDING: (&str, &str) = ("self.start < self.end", "start must be less than end");

/// The rule about names of ports, which only pods have.
pub(super) const NAMED_PORTS: (&str, &str) = (
    "!(self.to.exists(peer, has(peer.networks) || has(peer.nodes) || has(peer.domainNames)) && has(self.protocols) && \
     self.protocols.exists(protocol, has(protocol.destinationNamedPort)))",
    "only pods have named ports: a rule to networks, nodes or domainNames cannot name one",
);

pub(super) const DEFINITION: Definition = Definition {
    kind: "ClusterNetworkPolicy",
    plural: "clusternetworkpolicies",
    singular: "clusternetworkpolicy",
    short: "cnp",
    version: "v1alpha2",
    bundle: "v0.2.0",
    approval: "https://github.com/kubernetes-sigs/network-policy-api/pull/347",
    columns: &[Column::TIER, Column::PRIORITY, Column::AGE],
    schema,
};

fn schema(channel: Channel) -> Schema {
    let subject = parts::pods(
        Schema::choice("The pods that the policy is about. Pods in their node's network are never among them."),
        NamespaceSelector::Optional,
    );
    let spec = Schema::object("What is to be enforced.")
        .required(
            "tier",
            Schema::one_of(
                "Admin comes before NetworkPolicies, Baseline after them: for pods that no NetworkPolicy isolates.",
                &["Admin", "Baseline"],
            ),
        )
        .required("priority", Schema::number("Order within the tier: the smaller number comes first.", 0..=1000))
        .required("subject", subject)
        .optional("ingress", rules("Rules for what comes to these pods, in order.", ingress_rule()))
        .optional("egress", rules("Rules for what these pods send, in order.", egress_rule(channel)));
    parts::policy("Rules for the whole cluster, before or after those of NetworkPolicies.", spec)
}

fn rules(about: &str, rule: Schema) -> Schema {
    Schema::list(about, rule).items(0..=MAX)
}

fn rule(about: &str) -> Schema {
    let action = Schema::one_of(
        "Accept and Deny decide; Pass leaves the decision to the next tier.",
        &["Accept", "Deny", "Pass"],
    );
    let protocols = Schema::list("Protocols and ports; everything, if not given.", protocol()).items(1..=MAX);
    Schema::object(about)
        .optional("name", parts::rule_name())
        .required("action", action)
        .optional("protocols", protocols)
}

fn ingress_rule() -> Schema {
    let peer = parts::pods(Schema::choice("A group of pods."), NamespaceSelector::Optional);
    rule("What to do with connections from certain peers.")
        .required("from", Schema::list("Where the connection comes from: any of these.", peer).items(1..=MAX))
}

fn egress_rule(channel: Channel) -> Schema {
    let experimental = channel == Channel::Experimental;
    let peer = parts::pods(Schema::choice("A group of pods, nodes or addresses."), NamespaceSelector::Optional)
        .optional("networks", parts::networks())
        .optional_if(experimental, "nodes", parts::nodes)
        .optional_if(experimental, "domainNames", parts::domain_names);
    let rule = rule("What to do with connections to certain peers.")
        .required("to", Schema::list("Where the connection goes to: any of these.", peer).items(1..=MAX));
    if experimental { rule.rule(NAMED_PORTS.0, NAMED_PORTS.1) } else { rule }
}

fn protocol() -> Schema {
    let transport = |name: &str| {
        Schema::object(&format!("A port of {name}, or several."))
            .with("minProperties", 1)
            .optional("destinationPort", destination_port())
    };
    Schema::choice("A protocol with ports, or a port by name.")
        .optional("tcp", transport("TCP"))
        .optional("udp", transport("UDP"))
        .optional("sctp", transport("SCTP"))
        .optional("destinationNamedPort", Schema::text("Name of a port of the containers of the destination."))
}

fn destination_port() -> Schema {
    let range = Schema::object("A range of ports, with both ends.")
        .required("start", parts::port("First port."))
        .required("end", parts::port("Last port: greater than the first."))
        .rule(ASCENDING.0, ASCENDING.1);
    Schema::choice("One port or a range.").optional("number", parts::port("The port.")).optional("range", range)
}
