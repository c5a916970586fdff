//! Query parameters and what they mean for all requests.

use http::Uri;

use super::super::kinds::Kind;
use super::super::registry::{FieldValidation, WriteOptions};
use super::super::status::ApiError;
use crate::store::selector::{FieldSelector, LabelSelector};

/// The parameters of a request, in order.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Those of a request. What cannot be read is refused: a selector that is dropped would select everything.
    pub(super) fn of(uri: &Uri) -> Result<Self, ApiError> {
        let parsed = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
        parsed.map(|query| Self(query.0)).map_err(|error| ApiError::bad_request(error.to_string()))
    }

    /// The first value of a parameter, if it is not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// All values of a parameter.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// True if a parameter is there and not false.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.all(name).next().is_some_and(|value| !matches!(value, "false" | "0" | "False" | "FALSE" | "f"))
    }

    /// A whole number.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let bad = |value: &str| ApiError::bad_request(format!("{name}: {value:?} is not a whole number"));
        self.get(name).map(|value| value.parse().map_err(|_error| bad(value))).transpose()
    }

    /// Filter of the objects asked for.
    pub(super) fn filter(&self, kind: &Kind) -> Result<Filter, ApiError> {
        let labels = LabelSelector::parse(self.get("labelSelector").unwrap_or_default());
        let fields = FieldSelector::parse(self.get("fieldSelector").unwrap_or_default(), kind.fields);
        Ok(Filter { labels: labels.map_err(ApiError::bad_request)?, fields: fields.map_err(ApiError::bad_request)? })
    }

    /// Options of a write.
    pub(super) fn write_options(&self) -> Result<WriteOptions, ApiError> {
        let validation = match self.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Strict") => FieldValidation::Strict,
            Some("Ignore") => FieldValidation::Ignore,
            Some(other) => {
                return Err(ApiError::bad_request(format!("fieldValidation: {other:?} is not Ignore, Warn or Strict")));
            }
        };
        Ok(WriteOptions { dry_run: self.dry_run()?, validation })
    }

    /// True if nothing is to be stored.
    pub(super) fn dry_run(&self) -> Result<bool, ApiError> {
        match self.get("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(ApiError::bad_request(format!("dryRun: {other:?} is not All"))),
        }
    }
}

/// A filter by labels and fields.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) labels: LabelSelector,
    pub(super) fields: FieldSelector,
}

impl Filter {
    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// True if an object, as its kind shows it, is asked for.
    pub(super) fn matches(&self, object: &serde_json::Value) -> bool {
        self.labels.matches(object) && self.fields.matches(object)
    }
}
