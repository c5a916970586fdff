//! Ringfence on a cluster: put there, looked after, tried, and taken away.
//!
//! ```text
//! survey ─► what is there, and whether policy can be enforced on it
//! manifest ─► the objects, as the Helm chart renders them
//! change ─► install, upgrade, uninstall            speaks to the API
//! agents ─► the agents, asked on demand            speaks to the API, which runs `ringfence-agent` beside the agent
//! status, wait ─► what all agents say, put together
//! verify ─► a matrix of policies against pods of its own
//! ```
#![forbid(unsafe_code)]

pub mod agents;
pub mod change;
pub mod connect;
pub mod exec;
pub mod interrupt;
pub mod manifest;
pub mod objects;
pub mod rollout;
pub mod status;
pub mod survey;
mod unready;
pub mod verify;
pub mod wait;

/// Label, and its value, of the pods of agents in every cluster, the lab's too.
pub const AGENT_LABEL: &str = "k8s-app=ringfence";

/// Hears how something that takes time is getting on: one line at a time, for people.
pub trait Progress: Send + Sync {
    /// Says something.
    fn say(&self, line: &str);
}

impl<F: Fn(&str) + Send + Sync> Progress for F {
    fn say(&self, line: &str) {
        self(line);
    }
}
