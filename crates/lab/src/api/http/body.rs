//! Bodies of requests.

use axum::body::to_bytes;
use axum::extract::Request;
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::Value;

use crate::api::protobuf;
use crate::api::status::ApiError;

/// As large as the API's own store would take, with room.
const LIMIT: usize = 3 * 1024 * 1024;

/// The media type of a body, without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// The bytes of a body.
pub(super) async fn bytes(request: Request) -> Result<Bytes, ApiError> {
    let read = to_bytes(request.into_body(), LIMIT).await;
    read.map_err(|error| ApiError::bad_request(format!("the body of the request cannot be read: {error}")))
}

/// An object, in JSON, YAML or protobuf; none for an empty body.
pub(super) async fn object(request: Request) -> Result<Option<Value>, ApiError> {
    let media_type = media_type(request.headers()).to_owned();
    let bytes = bytes(request).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let value = match media_type.as_str() {
        "" | "application/json" | "*/*" => parse(&bytes, false),
        "application/yaml" => parse(&bytes, true),
        protobuf::MEDIA_TYPE => protobuf::decode(&bytes).map_err(undecodable),
        _ => Err(ApiError::unsupported_media_type(
            "application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    };
    value.map(Some)
}

fn undecodable(detail: impl std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!("the body of the request cannot be decoded: {detail}"))
}

/// Reads JSON, or YAML if it may be that.
pub(super) fn parse(bytes: &[u8], yaml: bool) -> Result<Value, ApiError> {
    match serde_json::from_slice(bytes) {
        Ok(value) => Ok(value),
        Err(_) if yaml => {
            let text = std::str::from_utf8(bytes).map_err(|error| undecodable(error.to_string()))?;
            serde_saphyr::from_str(text).map_err(|error| undecodable(error.to_string()))
        }
        Err(error) => Err(undecodable(error.to_string())),
    }
}
