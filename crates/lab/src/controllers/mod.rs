//! What makes objects true: the controllers, each woken by the changes it looks at.

mod bootstrap;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use crate::api::registry::Registry;

/// Makes the objects every cluster has and starts the controllers.
pub(crate) fn start(
    registry: &Arc<Registry>,
    endpoint: Option<SocketAddr>,
    _authority: &str,
    _stop: &CancellationToken,
) {
    bootstrap::run(registry, endpoint);
}

/// The first usable address of a range of Services: that of the API itself.
pub(crate) fn first_address(range: &IpNet) -> Option<IpAddr> {
    match range {
        IpNet::V4(range) => range.hosts().next().map(IpAddr::V4),
        IpNet::V6(range) => range.hosts().nth(1).map(IpAddr::V6),
    }
}
