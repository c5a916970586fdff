//! Directory and namespaces of a lab, so that several labs can exist side by side.

use std::path::{Path, PathBuf};

/// Directory of a lab by default.
pub const DEFAULT_DIRECTORY: &str = "/run/ringfence-lab";

/// The directory of one lab and the prefix of its namespaces, which follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    root: PathBuf,
    prefix: String,
}

impl Place {
    /// The lab in that directory; relative paths are taken from the working directory.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let root = std::path::absolute(&root).unwrap_or(root);
        // No prefix may be the beginning of another: `down` removes what begins with it.
        let prefix = if root == Path::new(DEFAULT_DIRECTORY) {
            "ringfence-lab-".to_owned()
        } else {
            format!("rflab{:08x}-", fnv1a(root.to_string_lossy().as_bytes()))
        };
        Self { root, prefix }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Prefix of the names of the lab's namespaces.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Name of the namespace of the fabric that joins the nodes.
    pub fn fabric_namespace(&self) -> String {
        format!("{}fabric", self.prefix)
    }

    /// Name of a node's namespace.
    pub fn node_namespace(&self, node: &str) -> String {
        format!("{}{node}", self.prefix)
    }

    /// Name of a pod's namespace.
    pub fn pod_namespace(&self, uid: &str) -> String {
        format!("{}pod-{}", self.prefix, short(uid))
    }

    /// Options of `lab up`, and the process that serves it.
    pub fn state_file(&self) -> PathBuf {
        self.root.join("lab.json")
    }

    /// Exists while the lab is ready for use.
    pub fn ready_file(&self) -> PathBuf {
        self.root.join("ready")
    }

    /// Log of the process that serves the lab.
    pub fn log_file(&self) -> PathBuf {
        self.root.join("serve.log")
    }

    /// For kubectl on the host.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// For whoever talks to the API from inside the lab's network.
    pub fn inner_kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig-inside")
    }

    /// Directory of the API server.
    pub fn api_directory(&self) -> PathBuf {
        self.root.join("api")
    }

    /// Mount point of the lab's BPF file system: all pins go with the mount.
    pub fn bpf_mount(&self) -> PathBuf {
        self.root.join("bpf")
    }

    /// This program, where containers can be given it: its own path may lead elsewhere after an upgrade.
    pub fn program(&self) -> PathBuf {
        self.root.join("program")
    }

    /// The agent's program: the agents that are started later are of the same version as the lab.
    pub fn agent_program(&self) -> PathBuf {
        self.root.join("agent-program")
    }

    /// State of one node: its addresses in use, its agent's socket and log.
    pub fn node_directory(&self, node: &str) -> PathBuf {
        self.root.join("nodes").join(node)
    }

    /// State of one pod: its network, its containers and their logs.
    pub fn pod_directory(&self, uid: &str) -> PathBuf {
        self.pods_directory().join(uid)
    }

    /// Parent of the pods' directories.
    pub fn pods_directory(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// Socket of a node's agent.
    pub fn agent_socket(&self, node: &str) -> PathBuf {
        self.node_directory(node).join("agent.sock")
    }

    /// Log of a node's agent.
    pub fn agent_log(&self, node: &str) -> PathBuf {
        self.node_directory(node).join("agent.log")
    }
}

/// Eight hexadecimal digits that stand for a longer identity, in names that must be short.
pub fn short(identity: &str) -> String {
    format!("{:08x}", fnv1a(identity.as_bytes()))
}

/// FNV-1a, folded to 32 bits: stable across versions, unlike the standard library's hashers.
fn fnv1a(bytes: &[u8]) -> u32 {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    (hash >> 32) as u32 ^ (hash & 0xffff_ffff) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labs_in_different_directories_share_no_prefix() {
        let places = [Place::at(DEFAULT_DIRECTORY), Place::at("/run/a"), Place::at("/run/b")];
        for (index, place) in places.iter().enumerate() {
            for other in places.iter().skip(index + 1) {
                assert!(!place.prefix().starts_with(other.prefix()) && !other.prefix().starts_with(place.prefix()));
            }
        }
        assert_eq!(Place::at("/run/a"), Place::at("/run/a"));
    }

    #[test]
    fn names_of_namespaces_fit_into_file_names() {
        let place = Place::at("/some/very/long/directory/name".repeat(20));
        assert!(place.pod_namespace("6a7f9b1e-5f0e-4b07-9d2d-2f6c1f0e4f11").len() < 64);
    }
}
