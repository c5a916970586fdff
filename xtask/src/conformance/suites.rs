//! The suites there are, as values.

use std::path::PathBuf;

/// Folder of the Go modules.
pub(super) const FOLDER: &str = "xtask/conformance";

/// One version of the upstream's suite.
pub(super) struct Suite {
    /// Its name here: its folder, its report.
    pub(super) name: &'static str,
    /// The kinds it is about.
    pub(super) kinds: &'static str,
    /// The version of the module that `go.mod` asks for.
    pub(super) version: &'static str,
    /// Features that it tries besides the standard ones.
    pub(super) features: &'static [&'static str],
    /// Tests that need SCTP.
    pub(super) sctp: &'static [&'static str],
}

impl Suite {
    /// Folder of its module.
    pub(super) fn folder(&self) -> PathBuf {
        PathBuf::from(FOLDER).join(self.name)
    }
}

/// All of them.
pub(super) const SUITES: &[Suite] = &[
    Suite {
        name: "cluster",
        kinds: "ClusterNetworkPolicy",
        version: "v0.2.0",
        features: &["ClusterNetworkPolicyNamedPorts", "ClusterNetworkPolicyEgressNodePeers"],
        sctp: &[
            "CNPAdminTierEgressInlineCIDRPeers",
            "CNPAdminTierEgressNodePeers",
            "CNPAdminTierEgressSCTP",
            "CNPAdminTierGress",
            "CNPAdminTierIngressSCTP",
            "CNPBaselineTierEgressInlineCIDRPeers",
            "CNPBaselineTierEgressNodePeers",
            "CNPBaselineTierEgressSCTP",
            "CNPBaselineTierGress",
            "CNPBaselineTierIngressSCTP",
        ],
    },
    Suite {
        name: "admin",
        kinds: "AdminNetworkPolicy and BaselineAdminNetworkPolicy",
        version: "v0.1.7",
        features: &[
            "AdminNetworkPolicyNamedPorts",
            "AdminNetworkPolicyEgressNodePeers",
            "BaselineAdminNetworkPolicyNamedPorts",
            "BaselineAdminNetworkPolicyEgressNodePeers",
        ],
        sctp: &[
            "AdminNetworkPolicyEgressInlineCIDRPeers",
            "AdminNetworkPolicyEgressNodePeers",
            "AdminNetworkPolicyEgressSCTP",
            "AdminNetworkPolicyGress",
            "AdminNetworkPolicyIngressSCTP",
            "BaselineAdminNetworkPolicyEgressInlineCIDRPeers",
            "BaselineAdminNetworkPolicyEgressNodePeers",
            "BaselineAdminNetworkPolicyEgressSCTP",
            "BaselineAdminNetworkPolicyGress",
            "BaselineAdminNetworkPolicyIngressSCTP",
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modules_ask_for_the_versions_named_here() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for suite in SUITES {
            let asked = std::fs::read_to_string(root.join(suite.folder()).join("go.mod")).unwrap();
            let line = format!("sigs.k8s.io/network-policy-api {}\n", suite.version);
            assert!(asked.contains(&line), "{} asks for another version", suite.name);
        }
    }
}
