//! Paths of the requests that an agent answers.

/// `GET`: [`crate::Status`].
pub const STATUS: &str = "/v1/status";
/// `GET`: the plan in force, as JSON.
pub const PLAN: &str = "/v1/plan";
/// `GET`: one [`crate::FlowLine`] per line, for as long as both sides are there.
pub const FLOWS: &str = "/v1/flows";
/// `GET`: 200 while pods of this node can be served, else 503 and a [`crate::Failure`].
pub const SERVING: &str = "/v1/serving";
/// `POST` of a [`crate::WaitRequest`]: a [`crate::WaitReply`] once the policy of the pod is in the kernel.
pub const WAIT: &str = "/v1/endpoint/wait";
/// `POST` of a [`crate::WaitRequest`]: a [`crate::WaitReply`] if the policy of the pod is in the kernel now.
pub const CHECK: &str = "/v1/endpoint/check";
/// `POST` of a [`crate::ReleaseRequest`]: 200 once the pod's addresses are closed.
pub const RELEASE: &str = "/v1/endpoint/release";
/// `POST` of a [`crate::CollectRequest`]: 200 once the addresses of all sandboxes that it does not list are closed.
pub const COLLECT: &str = "/v1/endpoint/collect";
