//! An object of any kind as the API sent it.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{ApiResource, DynamicResourceScope};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::convert;
use crate::json::{at, text};

/// The JSON of an object, whole. Reading it cannot fail, so that one strange object never breaks a list or a watch.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    pub(super) value: Value,
    meta: ObjectMeta,
}

impl Raw {
    pub(super) fn resource(resource: convert::Resource) -> ApiResource {
        ApiResource {
            group: resource.group.to_owned(),
            version: resource.version.to_owned(),
            api_version: resource.api_version(),
            kind: resource.kind.to_owned(),
            plural: resource.plural.to_owned(),
        }
    }

    /// `metadata.resourceVersion`; empty if there is none.
    pub(super) fn version(&self) -> &str {
        text(at(&self.value, &["metadata", "resourceVersion"]))
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { value: Value::deserialize(deserializer)?, meta: ObjectMeta::default() })
    }
}

/// What `kube` needs to find the kind. It never looks at the metadata of listed or watched objects.
impl kube::Resource for Raw {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.kind)
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.group)
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.version)
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.plural)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}
