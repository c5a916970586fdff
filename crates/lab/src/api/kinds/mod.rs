//! The kinds as data: everything the generic code needs to know of one, in one place.

mod apps;
mod cluster;
mod coordination;
mod core;
pub(crate) mod definition;
mod discovery;
mod event;
mod networking;
mod pod;
mod policy;
mod service;

use std::borrow::Cow;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::ListMerge::{By, Set};
use super::columns::Column;
use super::status::Cause;
use crate::store::Objects;

/// Context of defaulting besides the object.
pub(crate) struct DefaultContext<'a> {
    /// All objects.
    pub(crate) objects: &'a Objects,
    /// Ranges Service addresses are taken from; the first is of the family of single-stack Services.
    pub(crate) service_ranges: &'a [ipnet::IpNet],
    /// The object before an update.
    pub(crate) old: Option<&'a Value>,
}

/// Fills in what the writer left out.
pub(crate) type Defaulting = fn(&mut Value, &DefaultContext<'_>);
/// Gives the object what there is only once.
pub(crate) type Allocation = fn(&mut Value, &DefaultContext<'_>) -> Result<(), Cause>;
/// Finds what is wrong with having become an object from the one before.
pub(crate) type UpdateValidation = fn(&Value, &Value) -> Vec<Cause>;
/// Reads an object as its type and writes it again: drops what the type does not have, fails on what does not fit.
pub(crate) type Normalisation = fn(Value) -> Result<Value, String>;

/// Subresource of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subresource {
    Status,
    Scale,
    Finalize,
    Attach,
    Binding,
    Eviction,
    Exec,
    Log,
}

/// The group of evictions. Clients look for it before they evict: without it `kubectl drain` deletes, and waits for the
/// end of what it deleted for a trial only.
pub(crate) const EVICTIONS: &str = "policy";

impl Subresource {
    /// Its name, verbs and, where it is not its object's, the kind it speaks.
    pub(crate) fn describe(self) -> Description {
        const OBJECT: &[&str] = &["get", "patch", "update"];
        let (name, verbs, speaks) = match self {
            Self::Status => ("status", OBJECT, None),
            Self::Scale => ("scale", OBJECT, Some(("autoscaling", "v1", "Scale"))),
            Self::Finalize => ("finalize", &["update"] as &[_], None),
            Self::Binding => ("binding", &["create"] as &[_], Some(("", "v1", "Binding"))),
            Self::Eviction => ("eviction", &["create"] as &[_], Some((EVICTIONS, "v1", "Eviction"))),
            Self::Attach => ("attach", &["create", "get"] as &[_], Some(("", "v1", "PodAttachOptions"))),
            Self::Exec => ("exec", &["create", "get"] as &[_], Some(("", "v1", "PodExecOptions"))),
            Self::Log => ("log", &["get"] as &[_], None),
        };
        Description { name, verbs, speaks }
    }
}

/// A subresource as discovery tells of it.
pub(crate) struct Description {
    pub(crate) name: &'static str,
    pub(crate) verbs: &'static [&'static str],
    /// Group, version and kind.
    pub(crate) speaks: Option<(&'static str, &'static str, &'static str)>,
}

/// Storage of a kind that is a view of another: pairs of (member here, member in the store).
pub(crate) type Renames = &'static [(&'static str, &'static str)];

/// Identity of the members of a list when it is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListMerge {
    /// They are objects with this key.
    By(&'static str),
    /// They are ports, with this key for their number: patches tell them apart by it alone, as upstream's do, and who
    /// applies them by protocol too.
    Port(&'static str),
    /// They are plain values.
    Set,
}

/// A kind of object.
#[expect(clippy::struct_field_names, reason = "a row of a table, as the API names it")]
pub(crate) struct Kind {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) short: &'static [&'static str],
    pub(crate) categories: &'static [&'static str],
    pub(crate) namespaced: bool,
    pub(crate) subresources: &'static [Subresource],
    /// As errors name it: `plural` or `plural.group`.
    pub(crate) resource: &'static str,
    /// The collection it is stored in.
    pub(crate) stored: &'static str,
    /// Names of its members in the store, if it is a view.
    pub(crate) renames: Renames,
    /// True if `metadata.generation` counts changes of its specification.
    pub(crate) generation: bool,
    /// True if deleting waits for someone to finish the object off.
    pub(crate) graceful: bool,
    pub(crate) columns: &'static [Column],
    pub(crate) row: fn(&Value) -> Vec<Value>,
    pub(crate) default: Defaulting,
    pub(crate) allocate: Allocation,
    pub(crate) validate_update: UpdateValidation,
    pub(crate) normalise: Normalisation,
    /// The schema of a kind that clusters know by definition; none for kinds every cluster has.
    pub(crate) schema: fn() -> Option<&'static Value>,
    /// Lists that strategic merge patches merge, by the end of their path, with how their members are told apart.
    pub(crate) merge_keys: &'static [&'static [(&'static str, ListMerge)]],
    /// Fields that field selectors may name besides name and namespace.
    pub(crate) fields: &'static [&'static str],
}

impl Kind {
    /// `version` or `group/version`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    pub(crate) fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    /// Merging of a list by a patch: none if it is replaced as a whole.
    pub(crate) fn merge_key(&self, path: &str) -> Option<ListMerge> {
        let ends = |end: &str| path == end || path.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'));
        self.merge_keys.iter().copied().flatten().find(|(end, _)| ends(end)).map(|(_, key)| *key)
    }

    /// The object as it is stored.
    pub(crate) fn to_stored(&self, mut object: Value) -> Value {
        if !self.renames.is_empty() {
            object["apiVersion"] = "v1".into();
            rename(&mut object, self.renames.iter().copied());
        }
        object
    }

    /// A stored object as this kind shows it.
    pub(crate) fn shown<'a>(&self, stored: &'a Value) -> Cow<'a, Value> {
        if self.renames.is_empty() {
            return Cow::Borrowed(stored);
        }
        let mut object = stored.clone();
        object["apiVersion"] = self.api_version().into();
        rename(&mut object, self.renames.iter().map(|(here, there)| (*there, *here)));
        Cow::Owned(object)
    }
}

fn rename<'a>(object: &mut Value, names: impl Iterator<Item = (&'a str, &'a str)>) {
    for (from, to) in names {
        if let Some(value) = super::json::remove(object, from) {
            object[to] = value;
        }
    }
}

/// Lists of the metadata of every object.
pub(crate) const META_LISTS: &[(&str, ListMerge)] =
    &[("metadata.ownerReferences", By("uid")), ("metadata.finalizers", Set)];

/// Defaults of most kinds; the rest is given where the kind is.
const BASE: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short: &[],
    categories: &[],
    namespaced: true,
    subresources: &[],
    resource: "",
    stored: "",
    renames: &[],
    generation: false,
    graceful: false,
    columns: super::columns::NAME_AGE,
    row: super::columns::name_age,
    default: |_, _| {},
    allocate: |_, _| Ok(()),
    validate_update: |_, _| Vec::new(),
    normalise: Ok,
    schema: || None,
    merge_keys: &[META_LISTS],
    fields: &[],
};

/// All kinds, in the order `kubectl api-resources` lists them within a group.
pub(crate) static KINDS: &[Kind] = &[
    core::CONFIG_MAP,
    event::EVENT,
    cluster::NAMESPACE,
    cluster::NODE,
    pod::POD,
    core::SERVICE_ACCOUNT,
    service::SERVICE,
    apps::DEPLOYMENT,
    apps::REPLICA_SET,
    apps::STATEFUL_SET,
    coordination::LEASE,
    discovery::ENDPOINT_SLICE,
    event::EVENT_VIEW,
    networking::NETWORK_POLICY,
    definition::CUSTOM_RESOURCE_DEFINITION,
    policy::CLUSTER_NETWORK_POLICY,
    policy::ADMIN_NETWORK_POLICY,
    policy::BASELINE_ADMIN_NETWORK_POLICY,
];

/// The kind with this plural in a group and version.
pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}

/// The kind that a collection of the store holds.
pub(crate) fn stored_in(collection: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.stored == collection && kind.renames.is_empty())
}

/// The kind of an object by its `apiVersion` and `kind`.
pub(crate) fn named(api_version: &str, name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.kind == name && kind.api_version() == api_version)
}

/// [`Normalisation`] by a type of the Kubernetes API.
fn typed<T: Serialize + DeserializeOwned>(mut value: Value) -> Result<Value, String> {
    quantities(&mut value);
    let object: T = serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        if path == "." { error.inner().to_string() } else { format!("{path}: {}", error.inner()) }
    })?;
    serde_json::to_value(object).map_err(|error| error.to_string())
}

/// Quantities may be written as numbers; they are kept as text.
fn quantities(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                if ["limits", "requests", "capacity", "allocatable"].contains(&key.as_str())
                    && let Value::Object(quantities) = member
                {
                    for quantity in quantities.values_mut().filter(|quantity| quantity.is_number()) {
                        *quantity = Value::String(quantity.to_string());
                    }
                } else {
                    quantities(member);
                }
            }
        }
        Value::Array(members) => members.iter_mut().for_each(quantities),
        _ => {}
    }
}
