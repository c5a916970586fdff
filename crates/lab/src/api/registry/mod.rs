//! Validation of stored objects: the rules of the API that hold for every kind, between requests and the store.

mod bind;
mod create;
mod delete;
mod fields;
mod meta;
mod update;

use ipnet::IpNet;
use serde_json::Value;

pub(crate) use self::bind::set_condition;
pub(crate) use self::delete::{DeleteOptions, FOREGROUND, ORPHAN, Propagation};
pub(crate) use self::fields::FieldValidation;
pub(crate) use self::meta::now;
use super::kinds::{DefaultContext, Kind};
use super::status::ApiError;
use crate::store::{Key, Object, Objects, Scope, Store};

/// The store and the rules of what goes into it.
pub(crate) struct Registry {
    pub(crate) store: Store,
    pub(crate) service_ranges: Vec<IpNet>,
}

/// Options of a write.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteOptions {
    /// Say what would happen, and store nothing.
    pub(crate) dry_run: bool,
    /// Treatment of unknown fields.
    pub(crate) validation: FieldValidation,
}

/// A write that was done.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) object: Object,
    /// True if the object is new.
    pub(crate) created: bool,
    /// Warnings for the writer.
    pub(crate) warnings: Vec<String>,
}

/// An object by kind, namespace (empty for objects of the cluster) and name.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) kind: &'static Kind,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

impl Target<'_> {
    fn key(&self) -> Key {
        Key::new(self.kind.stored, self.namespace, self.name)
    }

    fn not_found(&self) -> ApiError {
        ApiError::not_found(self.kind, self.name)
    }
}

impl Registry {
    /// One object.
    pub(crate) fn get(&self, target: Target<'_>) -> Result<Object, ApiError> {
        self.store.get(&target.key()).ok_or_else(|| target.not_found())
    }

    /// All objects of a kind, in one namespace or (with none) in all.
    pub(crate) fn list(&self, kind: &'static Kind, namespace: Option<&str>) -> Vec<Object> {
        self.store.list(&Scope { resource: Some(kind.stored), namespace: namespace.map(str::to_owned) }).0
    }

    /// Defaults and validates what is about to be stored.
    fn admit(&self, kind: &Kind, value: &mut Value, old: Option<&Value>, objects: &Objects) -> Result<(), ApiError> {
        let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let context = DefaultContext { objects, service_ranges: &self.service_ranges, old };
        (kind.default)(value, &context);
        (kind.allocate)(value, &context).map_err(|cause| ApiError::invalid(kind, &name, vec![cause]))?;
        validate(kind, value, old)
    }
}

fn validate(kind: &Kind, value: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let causes = super::validation::object(kind, value, old);
    let name = value["metadata"]["name"].as_str().unwrap_or_default();
    if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind, name, causes)) }
}
