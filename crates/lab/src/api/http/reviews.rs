//! Questions about rights and identity. Whoever has the lab's certificate may do everything.

use axum::Json;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::body;
use crate::api::status::ApiError;

/// The kinds of questions: group, plural, kind.
pub(crate) const REVIEWS: &[(&str, &str, &str)] = &[
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
];

pub(super) async fn create(group: &str, resource: &str, request: Request) -> Result<Response, ApiError> {
    let known = REVIEWS.iter().find(|(of, plural, _)| *of == group && *plural == resource);
    let Some((_, _, kind)) = known else { return Err(ApiError::unknown_path()) };
    if request.method() != Method::POST {
        return Err(ApiError::method_not_allowed());
    }
    let mut review = body::object(request).await?.unwrap_or_else(|| json!({}));
    if !review.is_object() {
        return Err(ApiError::bad_request("the body of the request must be an object"));
    }
    review["apiVersion"] = format!("{group}/v1").into();
    review["kind"] = (*kind).into();
    review["status"] = status(kind);
    Ok((StatusCode::CREATED, Json(review)).into_response())
}

fn status(kind: &str) -> Value {
    match kind {
        "SelfSubjectReview" => {
            json!({ "userInfo": { "username": "ringfence-admin", "groups": ["system:masters",
                "system:authenticated"] } })
        }
        "SelfSubjectRulesReview" => json!({
            "resourceRules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }],
            "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }],
            "incomplete": false,
        }),
        _ => json!({ "allowed": true, "reason": "the lab's certificate may do everything" }),
    }
}
