//! Objects in the form the client asked for: whole, as a table, or only their metadata.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::ACCEPT;
use serde::Serialize;
use serde_json::{Value, json};

use super::query::Query;
use crate::api::kinds::Kind;
use crate::api::status::ApiError;

/// A form objects are shown in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Whole,
    Table(Include),
    Metadata,
}

/// Part of the object that a row of a table carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Include {
    Nothing,
    Metadata,
    Object,
}

impl Form {
    /// The first form of the `Accept` header that is known here.
    pub(super) fn of(headers: &HeaderMap, query: Option<&Query>) -> Result<Self, ApiError> {
        let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
        let include = match query.and_then(|query| query.get("includeObject")) {
            Some("None") => Include::Nothing,
            Some("Object") => Include::Object,
            _ => Include::Metadata,
        };
        let known = accept.split(',').find_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            if !matches!(parts.next(), Some("application/json" | "application/*" | "*/*" | "")) {
                return None;
            }
            match parts.find_map(|part| part.strip_prefix("as=")) {
                None => Some(Self::Whole),
                Some("Table") => Some(Self::Table(include)),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(Self::Metadata),
                Some(_) => None,
            }
        });
        known.ok_or_else(|| ApiError::not_acceptable("application/json"))
    }

    /// One object.
    pub(super) fn object<'a>(self, kind: &Kind, object: &'a Value) -> Cow<'a, Value> {
        match self {
            Self::Whole => Cow::Borrowed(object),
            Self::Table(include) => {
                let meta = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
                Cow::Owned(table(kind, include, &meta, std::iter::once(object)))
            }
            Self::Metadata => Cow::Owned(metadata(object)),
        }
    }

    /// A list of objects.
    pub(super) fn list<'a>(self, kind: &Kind, meta: Value, objects: &'a [Cow<'a, Value>]) -> List<'a> {
        let all = objects.iter().map(AsRef::as_ref);
        match self {
            Self::Whole => List::Whole {
                kind: format!("{}List", kind.kind),
                api_version: kind.api_version(),
                metadata: meta,
                items: objects,
            },
            Self::Table(include) => List::Other(table(kind, include, &meta, all)),
            Self::Metadata => List::Other(json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": meta, "items": all.map(metadata).collect::<Vec<_>>(),
            })),
        }
    }
}

/// A list as it is sent; the objects are not copied for it.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum List<'a> {
    Whole {
        kind: String,
        #[serde(rename = "apiVersion")]
        api_version: String,
        metadata: Value,
        items: &'a [Cow<'a, Value>],
    },
    Other(Value),
}

fn metadata(object: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"] })
}

/// A table of objects.
pub(super) fn table<'a>(
    kind: &Kind,
    include: Include,
    meta: &Value,
    objects: impl Iterator<Item = &'a Value>,
) -> Value {
    let columns: Vec<_> = kind
        .columns
        .iter()
        .map(|column| {
            json!({ "name": column.name, "type": "string", "format": column.format, "description": column.name,
                "priority": column.priority })
        })
        .collect();
    let rows: Vec<_> = objects
        .map(|object| {
            let cells = (kind.row)(object);
            match include {
                Include::Nothing => json!({ "cells": cells }),
                Include::Metadata => json!({ "cells": cells, "object": metadata(object) }),
                Include::Object => json!({ "cells": cells, "object": object }),
            }
        })
        .collect();
    json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": columns,
        "rows": rows })
}
