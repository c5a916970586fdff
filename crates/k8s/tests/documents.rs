//! The policies of the documents are valid, and mean something.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::Path;

use ringfence_k8s::convert::Kind;
use ringfence_k8s::{strict, validate};
use serde_json::Value;

/// The content of fenced YAML blocks.
fn blocks(document: &str) -> Vec<&str> {
    let after = document.split("```yaml\n").skip(1);
    after.map(|rest| rest.split_once("\n```").unwrap().0).collect()
}

#[test]
fn cluster_policies() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cluster-policy.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut names = Vec::new();
    for block in blocks(&text) {
        for policy in block.split("\n---\n") {
            let policy: Value = serde_saphyr::from_str(policy).unwrap_or_else(|error| panic!("{error}:\n{policy}"));
            assert_eq!(validate::object(&policy), Some(Vec::new()), "{policy}");
            assert_eq!(strict::check(&policy), Some(Vec::new()), "{policy}");
            let (_, diagnostics) = Kind::ClusterNetworkPolicy.convert(&policy);
            assert_eq!(diagnostics, Vec::new(), "{policy}");
            names.push(policy["metadata"]["name"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(names, ["guard-rails", "tenants", "delegated", "build-machines"]);
}
