//! Tokens that say where the next page of a list begins.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::api::status::ApiError;
use crate::store::Key;

/// Continuation of a list: after a key, at the revision of its first page.
#[derive(Serialize, Deserialize)]
pub(super) struct Token {
    pub(super) revision: u64,
    namespace: String,
    name: String,
}

impl Token {
    pub(super) fn after(key: &Key, revision: u64) -> Self {
        Self { revision, namespace: key.namespace.clone(), name: key.name.clone() }
    }

    pub(super) fn key(&self, resource: &'static str) -> Key {
        Key::new(resource, &self.namespace, &self.name)
    }

    pub(super) fn write(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    pub(super) fn read(text: &str) -> Result<Self, ApiError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let token = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        token.ok_or_else(|| ApiError::bad_request("continue key is not valid"))
    }
}
