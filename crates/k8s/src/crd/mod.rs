//! The CustomResourceDefinitions of the cluster-wide policies (`policy.networking.k8s.io`), written by us: fields,
//! limits, rules and names are those of the network policy API's releases, descriptions are ours.
//!
//! One schema serves everything: it is what clusters are given, what objects are validated and pruned by where there is
//! no cluster, and what the lab explains.

mod admin;
mod cluster;
pub mod install;
mod parts;
pub(crate) mod rules;
mod schema;
pub(crate) mod shape;

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use serde_json::{Value, json};

use self::schema::Schema;
use crate::convert::Kind;

pub(crate) use self::shape::unknown_fields;
pub use self::shape::{defaults, prune};

/// The group of all these kinds.
pub const GROUP: &str = "policy.networking.k8s.io";
/// The annotation of a definition that names the release it is of.
pub const BUNDLE: &str = "policy.networking.k8s.io/bundle-version";
/// The annotation of a definition that names its channel.
pub const CHANNEL: &str = "policy.networking.k8s.io/channel";

/// The channel of a definition, which decides its fields. Both channels define the same kinds; a cluster has one of
/// them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// Stable fields.
    #[default]
    Standard,
    /// That, and peers by node and by domain name.
    Experimental,
}

impl Channel {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Standard, Self::Experimental];

    /// As annotations write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Experimental => "experimental",
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Channel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|channel| channel.name() == text);
        found.ok_or_else(|| format!("{text:?} is no channel: standard or experimental"))
    }
}

/// The parts of a definition besides its schema.
struct Definition {
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static str,
    version: &'static str,
    /// The release of the network policy API that it is of.
    bundle: &'static str,
    /// Link to the approval of the API, which API servers require for groups below `k8s.io`.
    approval: &'static str,
    columns: &'static [Column],
    schema: fn(Channel) -> Schema,
}

/// A column of `kubectl get`.
struct Column {
    name: &'static str,
    kind: &'static str,
    path: &'static str,
}

impl Column {
    const TIER: Self = Self { name: "Tier", kind: "string", path: ".spec.tier" };
    const PRIORITY: Self = Self { name: "Priority", kind: "string", path: ".spec.priority" };
    const AGE: Self = Self { name: "Age", kind: "date", path: ".metadata.creationTimestamp" };
}

/// The kinds with definitions: the current one, then those it replaces.
pub const KINDS: [Kind; 3] = [Kind::ClusterNetworkPolicy, Kind::AdminNetworkPolicy, Kind::BaselineAdminNetworkPolicy];

fn parts_of(kind: Kind) -> Option<&'static Definition> {
    match kind {
        Kind::ClusterNetworkPolicy => Some(&cluster::DEFINITION),
        Kind::AdminNetworkPolicy => Some(&admin::ADMIN),
        Kind::BaselineAdminNetworkPolicy => Some(&admin::BASELINE),
        Kind::Namespace | Kind::Node | Kind::Pod | Kind::NetworkPolicy => None,
    }
}

/// The CustomResourceDefinition of a kind, to be applied to a cluster; none for kinds every cluster has.
pub fn definition(kind: Kind, channel: Channel) -> Option<Value> {
    let parts = parts_of(kind)?;
    let columns: Vec<_> = parts
        .columns
        .iter()
        .map(|column| json!({ "name": column.name, "type": column.kind, "jsonPath": column.path }))
        .collect();
    let version = json!({
        "name": parts.version,
        "served": true,
        "storage": true,
        "additionalPrinterColumns": columns,
        "subresources": { "status": {} },
        "schema": { "openAPIV3Schema": (parts.schema)(channel).into_value() },
    });
    Some(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{GROUP}", parts.plural),
            "annotations": {
                "api-approved.kubernetes.io": parts.approval, BUNDLE: parts.bundle, CHANNEL: channel.name(),
            },
        },
        "spec": {
            "group": GROUP,
            "names": {
                "kind": parts.kind,
                "listKind": format!("{}List", parts.kind),
                "plural": parts.plural,
                "singular": parts.singular,
                "shortNames": [parts.short],
            },
            "scope": "Cluster",
            "versions": [version],
        },
    }))
}

/// The schema of a kind in a channel; none for kinds every cluster has.
pub fn schema(kind: Kind, channel: Channel) -> Option<&'static Value> {
    static ALL: LazyLock<Vec<(Kind, Channel, Value)>> = LazyLock::new(|| {
        let every = KINDS.into_iter().flat_map(|kind| Channel::ALL.map(|channel| (kind, channel)));
        every
            .filter_map(|(kind, channel)| Some((kind, channel, (parts_of(kind)?.schema)(channel).into_value())))
            .collect()
    });
    let found = ALL.iter().find(|(of, in_channel, _)| (*of, *in_channel) == (kind, channel));
    found.map(|(_, _, schema)| schema)
}
