//! Patches: four ways to say how an object is to change.

mod apply;
mod strategic;

use serde_json::Value;

use super::json;
use super::kinds::Kind;
use super::status::ApiError;

/// A patch that has been read.
pub(crate) enum Patch {
    /// Operations, RFC 6902.
    Json(json_patch::Patch),
    /// Members to set and to remove, RFC 7396.
    Merge(Value),
    /// As a merge patch, but lists are merged by the keys of their members.
    Strategic(Value),
    /// The fields the writer wants, who owns them from then on.
    Apply(Value),
}

const MEDIA_TYPES: &str = "application/json-patch+json, application/merge-patch+json, \
                           application/strategic-merge-patch+json, application/apply-patch+yaml";

const WITHOUT_STRATEGIC: &str =
    "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";

impl Patch {
    /// Reads a patch of a media type.
    pub(crate) fn read(
        media_type: &str,
        bytes: &[u8],
        parse: impl Fn(&[u8]) -> Result<Value, ApiError>,
    ) -> Result<Self, ApiError> {
        match media_type {
            "application/json-patch+json" => {
                let patch = serde_json::from_slice(bytes);
                patch
                    .map(Self::Json)
                    .map_err(|error| ApiError::bad_request(format!("the patch cannot be read: {error}")))
            }
            "application/merge-patch+json" => parse(bytes).map(Self::Merge),
            "application/strategic-merge-patch+json" => parse(bytes).map(Self::Strategic),
            "application/apply-patch+yaml" | "application/apply-patch+json" => parse(bytes).map(Self::Apply),
            _ => Err(ApiError::unsupported_media_type(MEDIA_TYPES)),
        }
    }

    /// True if it creates what is not there.
    pub(crate) fn is_apply(&self) -> bool {
        matches!(self, Self::Apply(_))
    }

    /// The object after the patch.
    pub(crate) fn apply(&self, kind: &Kind, old: &Value, manager: &str) -> Result<Value, ApiError> {
        let mut new = old.clone();
        // A patch that says no version is made for the object as it is.
        json::remove(json::object(&mut new, "metadata"), "resourceVersion");
        match self {
            Self::Json(patch) => {
                json_patch::patch(&mut new, patch).map_err(|error| ApiError::inapplicable(&error.to_string()))?;
            }
            Self::Merge(patch) => json_patch::merge(&mut new, patch),
            // How to merge is known of the kinds every cluster has.
            Self::Strategic(_) if (kind.schema)().is_some() => {
                return Err(ApiError::unsupported_media_type(WITHOUT_STRATEGIC));
            }
            Self::Strategic(patch) => strategic::merge(kind, &mut new, patch, "")?,
            Self::Apply(wanted) => apply::apply(kind, &mut new, wanted, manager)?,
        }
        Ok(new)
    }
}
