//! Pieces of schema that several kinds share.

use super::schema::Schema;

/// The pattern of a domain name in a rule. It keeps upstream's character class `A-z`, with all characters in it.
pub(super) const DOMAIN: &str =
    r"^(\*\.)?([a-zA-z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?$";
const CONDITION_REASON: &str = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$";
const CONDITION_TYPE: &str =
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$";

/// Every pattern of our schemas.
pub(super) const PATTERNS: [&str; 3] = [DOMAIN, CONDITION_REASON, CONDITION_TYPE];

/// A CIDR: the rule, and the message for values that break it.
pub(super) const CIDR: (&str, &str) = ("isCIDR(self)", "must be a range of addresses in CIDR notation");

/// The most CIDRs or names of one peer.
const ADDRESSES_MAX: usize = 25;

/// A whole definition's schema: `spec` and the status of policies.
pub(super) fn policy(about: &str, spec: Schema) -> Schema {
    Schema::object(about)
        .optional("apiVersion", Schema::text("Group and version of this object."))
        .optional("kind", Schema::text("Kind of this object."))
        .required("metadata", Schema::object(""))
        .required("spec", spec)
        .optional("status", status())
}

/// Pods, by namespace or by labels of their own. `namespaces` says whether their namespaces must be selected, too.
pub(super) fn pods(choice: Schema, namespaces: NamespaceSelector) -> Schema {
    let (in_namespaces, labelled) = ("Namespaces that these pods are in.", "Labels that these pods carry.");
    let pods = Schema::object("Pods with certain labels in certain namespaces.");
    let pods = match namespaces {
        NamespaceSelector::Optional => pods.optional(
            "namespaceSelector",
            selector("Namespaces that these pods are in; every namespace, if not given."),
        ),
        NamespaceSelector::Required => pods.required("namespaceSelector", selector(in_namespaces)),
    };
    let pods = pods.required("podSelector", selector(labelled));
    choice.optional("namespaces", selector("All pods of certain namespaces.")).optional("pods", pods)
}

/// Presence of `namespaceSelector` in `pods`.
#[derive(Clone, Copy)]
pub(super) enum NamespaceSelector {
    Optional,
    Required,
}

/// Blocks of addresses outside or inside the cluster.
pub(super) fn networks() -> Schema {
    let block = Schema::text("A block such as 10.0.0.0/8 or fd00::/8.").with("maxLength", 43).rule(CIDR.0, CIDR.1);
    Schema::list("Whoever has an address in one of these blocks, pods included.", block)
        .items(1..=ADDRESSES_MAX)
        .with("x-kubernetes-list-type", "set")
}

/// Nodes by label.
pub(super) fn nodes() -> Schema {
    selector("Nodes with certain labels, under any of their addresses.")
}

/// Domain names, which match the addresses that the cluster's DNS returns for them.
pub(super) fn domain_names() -> Schema {
    let name = Schema::text("A name, or *. and a name for all names below it.").with("pattern", DOMAIN);
    Schema::list("Addresses that the cluster's DNS servers give for one of these names.", name)
        .items(1..=ADDRESSES_MAX)
        .with("x-kubernetes-list-type", "set")
}

/// The name of a rule.
pub(super) fn rule_name() -> Schema {
    Schema::text("Name of the rule, for people and reports. Need not be unique.").with("maxLength", 100)
}

/// A destination port.
pub(super) fn port(about: &str) -> Schema {
    Schema::number(about, 1..=65535)
}

/// A label selector.
pub(super) fn selector(about: &str) -> Schema {
    let values = Schema::list("Values to compare with; for In and NotIn.", Schema::text(""));
    let expression = Schema::object("")
        .required("key", Schema::text("The label's key."))
        .required("operator", Schema::text("In, NotIn, Exists or DoesNotExist."))
        .optional("values", values.with("x-kubernetes-list-type", "atomic"));
    let expressions = Schema::list("Conditions that must all hold.", expression);
    Schema::object(about)
        .optional("matchExpressions", expressions.with("x-kubernetes-list-type", "atomic"))
        .optional("matchLabels", Schema::map("Labels that must all be there with these values.", Schema::text("")))
        .with("x-kubernetes-map-type", "atomic")
}

fn status() -> Schema {
    let condition = Schema::object("")
        .required("lastTransitionTime", Schema::text("When the status changed last.").with("format", "date-time"))
        .required("message", Schema::text("The reason, for people.").with("maxLength", 32768))
        .optional("observedGeneration", Schema::count("Generation of the policy that this was said of."))
        .required(
            "reason",
            Schema::text("The reason, in one word.")
                .with("maxLength", 1024)
                .with("minLength", 1)
                .with("pattern", CONDITION_REASON),
        )
        .required("status", Schema::one_of("Whether it holds.", &["True", "False", "Unknown"]))
        .required("type", Schema::text("What is said.").with("maxLength", 316).with("pattern", CONDITION_TYPE));
    let conditions = Schema::list("What implementations say about the policy.", condition)
        .with("x-kubernetes-list-type", "map")
        .with("x-kubernetes-list-map-keys", vec!["type"]);
    Schema::object("What became of the policy.").required("conditions", conditions)
}
