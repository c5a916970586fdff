//! The lab's network: a fabric that joins the nodes, nodes that route for their pods, pods on links of their own.
//!
//! ```text
//!           fabric (bridge br0, 10.89.0.1: the API)
//!           n1 │                       │ n2
//!         eth0 │ 10.89.0.11       eth0 │ 10.89.0.12
//!      node-1 (10.245.1.0/24)     node-2 (10.245.2.0/24)
//!    veth… │        │ veth…
//!     eth0 │ /32    │ eth0 /32, default route via 169.254.1.1 (fe80::1)
//!        pod       pod
//! ```
//!
//! Everything is in namespaces of the lab. All steps may be repeated: what is there already is kept, so that a lab
//! whose serving process died is taken over as it stands.

mod allocation;
mod fabric;
mod pod;

pub use allocation::{Allocations, PodAddresses};
pub use fabric::{Node, set_up};
pub use pod::{attach, detach};

use ringfence_netns::{Error, Namespace, Result};

/// Treats "exists already" as done.
fn kept(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.is_already_there() => Ok(()),
        other => other,
    }
}

/// Opens a namespace or makes it. What has the name but is no namespace (the machine was restarted) is replaced.
fn namespace(name: &str) -> Result<Namespace> {
    match Namespace::open(name) {
        Ok(namespace) => Ok(namespace),
        Err(error) if error.is_not_found() => Namespace::create(name),
        Err(error) if is_leftover(&error) => {
            Namespace::delete(name)?;
            Namespace::create(name)
        }
        Err(error) => Err(error),
    }
}

fn is_leftover(error: &Error) -> bool {
    error.cause.kind() == std::io::ErrorKind::InvalidData
}
