//! The resource that a path names.

use crate::api::kinds::{self, Kind, Subresource};
use crate::api::status::ApiError;

/// A path of the API.
pub(super) enum Path {
    Health,
    Version,
    Root,
    /// `/api`
    Core,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group(String),
    /// `/api/v1` or `/apis/GROUP/VERSION`
    GroupVersion {
        group: String,
        version: String,
    },
    /// `/openapi/v3`
    OpenApi,
    /// `/openapi/v3/NAME`
    OpenApiGroup(String),
    /// A question about what one may do or who one is.
    Review {
        group: String,
        resource: String,
    },
    Resource(ResourcePath),
    /// A part of an object that Kubernetes has and this API has not.
    NotServed {
        kind: &'static Kind,
        part: String,
    },
    Unknown,
}

/// A collection or an object, or a part of one.
pub(super) struct ResourcePath {
    pub(super) kind: &'static Kind,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<Subresource>,
}

impl ResourcePath {
    /// The namespace, empty where there is none.
    pub(super) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    /// The namespace a collection is changed in, empty for objects of the cluster. Objects of namespaces can be listed
    /// over all of them, but not created or deleted.
    pub(super) fn one_namespace(&self) -> Result<&str, ApiError> {
        if self.kind.namespaced && self.namespace.is_none() {
            return Err(ApiError::method_not_allowed());
        }
        Ok(self.namespace())
    }

    /// The object's name, empty for a collection.
    pub(super) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// The object.
    pub(super) fn target(&self) -> crate::api::registry::Target<'_> {
        crate::api::registry::Target { kind: self.kind, namespace: self.namespace(), name: self.name() }
    }
}

impl Path {
    pub(super) fn parse(path: &str) -> Self {
        let segments: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        match *segments.as_slice() {
            [] => Self::Root,
            ["healthz" | "readyz" | "livez", ..] => Self::Health,
            ["version"] => Self::Version,
            ["api"] => Self::Core,
            ["apis"] => Self::Groups,
            ["apis", group] => Self::Group(group.to_owned()),
            ["api", version] => Self::GroupVersion { group: String::new(), version: version.to_owned() },
            ["apis", group, version] => Self::GroupVersion { group: group.to_owned(), version: version.to_owned() },
            ["openapi", "v3"] => Self::OpenApi,
            ["openapi", "v3", ref name @ ..] => Self::OpenApiGroup(name.join("/")),
            ["apis", group @ ("authorization.k8s.io" | "authentication.k8s.io"), "v1", resource] => {
                Self::Review { group: group.to_owned(), resource: resource.to_owned() }
            }
            ["api", version, ref rest @ ..] => resource("", version, rest),
            ["apis", group, version, ref rest @ ..] => resource(group, version, rest),
            _ => Self::Unknown,
        }
    }
}

fn resource(group: &str, version: &str, segments: &[&str]) -> Path {
    let (namespace, rest) = match *segments {
        // `namespaces/NAME/PART` is a part of the namespace itself.
        ["namespaces", _, "status" | "finalize"] => (None, segments),
        ["namespaces", namespace, _, ..] => (Some(namespace.to_owned()), &segments[2..]),
        _ => (None, segments),
    };
    let (plural, name, part) = match *rest {
        [plural] => (plural, None, None),
        [plural, name] => (plural, Some(name), None),
        [plural, name, part] => (plural, Some(name), Some(part)),
        _ => return Path::Unknown,
    };
    let Some(kind) = kinds::find(group, version, plural) else { return Path::Unknown };
    let subresource = match part {
        None => None,
        Some(part) => match kind.subresources.iter().find(|subresource| subresource.describe().name == part) {
            Some(subresource) => Some(*subresource),
            None => return Path::NotServed { kind, part: part.to_owned() },
        },
    };
    // Objects in namespaces are only found there; lists go over all.
    if kind.namespaced != namespace.is_some() && (namespace.is_some() || name.is_some()) {
        return Path::Unknown;
    }
    Path::Resource(ResourcePath { kind, namespace, name: name.map(str::to_owned), subresource })
}
