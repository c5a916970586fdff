//! Objects in the form the client asked for: whole, as a table, or only their metadata.

use http::HeaderMap;
use http::header::ACCEPT;
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

/// What a row of a table carries of its object.
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
    pub(super) fn object(self, kind: &Kind, object: Value) -> Value {
        match self {
            Self::Whole => object,
            Self::Table(include) => {
                let meta = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
                table(kind, include, &meta, std::iter::once(object))
            }
            Self::Metadata => metadata(object),
        }
    }

    /// A list of objects.
    pub(super) fn list(self, kind: &Kind, meta: &Value, objects: impl Iterator<Item = Value>) -> Value {
        match self {
            Self::Whole => json!({
                "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(),
                "metadata": meta, "items": objects.collect::<Vec<_>>(),
            }),
            Self::Table(include) => table(kind, include, meta, objects),
            Self::Metadata => json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": meta, "items": objects.map(metadata).collect::<Vec<_>>(),
            }),
        }
    }
}

fn metadata(mut object: Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"].take() })
}

fn table(kind: &Kind, include: Include, meta: &Value, objects: impl Iterator<Item = Value>) -> Value {
    let columns: Vec<_> = kind
        .columns
        .iter()
        .map(|column| {
            json!({ "name": column.name, "type": "string", "format": column.format, "description": column.name, "priority": column.priority })
        })
        .collect();
    let rows: Vec<_> = objects
        .map(|object| {
            let cells = (kind.row)(&object);
            match include {
                Include::Nothing => json!({ "cells": cells }),
                Include::Metadata => json!({ "cells": cells, "object": metadata(object) }),
                Include::Object => json!({ "cells": cells, "object": object }),
            }
        })
        .collect();
    json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": columns, "rows": rows })
}
