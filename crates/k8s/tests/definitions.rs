//! Our definitions of the cluster-wide policies, held against those of the network policy API's releases.
//!
//! Fetches the releases with `go mod download`, so it needs Go, and the module cache or a way to fill it.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use ringfence_k8s::convert::Kind;
use ringfence_k8s::crd::{Channel, KINDS, definition};
use serde_json::Value;

/// The folder of a release of the network policy API, or why there is none.
fn release(version: &str) -> Result<PathBuf, String> {
    let folder = tempfile::tempdir().unwrap();
    let module = format!("sigs.k8s.io/network-policy-api@{version}");
    let output = Command::new("go").args(["mod", "download", "-json", &module]).current_dir(&folder).output();
    let output = output.map_err(|error| format!("go cannot be run: {error}"))?;
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    match answer["Dir"].as_str() {
        Some(folder) => Ok(PathBuf::from(folder)),
        None => Err(format!("{module} cannot be had: {}{}", answer["Error"], String::from_utf8_lossy(&output.stderr))),
    }
}

fn upstream(folder: &Path, kind: Kind, channel: Channel) -> Value {
    let file = format!("policy.networking.k8s.io_{}.yaml", kind.resource().plural);
    let path = folder.join("config/crd").join(channel.name()).join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap()
}

/// Every leaf of a definition by its path; what is a set is sorted, what is prose (descriptions, messages) is left out.
fn leaves(value: &Value, path: &str, leaves_of: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                // A description is text; a field may be called so, too, and would be a schema.
                let prose = (name == "description" || name == "message") && value.is_string();
                if !prose && !value.is_null() {
                    leaves(value, &format!("{path}/{name}"), leaves_of);
                }
            }
        }
        Value::Array(items) if items.iter().all(Value::is_string) => {
            let mut items: Vec<_> = items.iter().map(Value::to_string).collect();
            items.sort();
            leaves_of.insert(path.to_owned(), items.join(" "));
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                leaves(item, &format!("{path}/{i}"), leaves_of);
            }
        }
        leaf => {
            leaves_of.insert(path.to_owned(), leaf.to_string());
        }
    }
}

fn flat(mut definition: Value) -> BTreeMap<String, String> {
    // Empty leavings of a generator.
    definition.as_object_mut().unwrap().remove("status");
    let mut flat = BTreeMap::new();
    leaves(&definition, "", &mut flat);
    flat
}

#[test]
fn they_are_those_of_the_releases() {
    let mut compared = 0;
    for kind in KINDS {
        let version = if kind == Kind::ClusterNetworkPolicy { "v0.2.0" } else { "v0.1.7" };
        let folder = match release(version) {
            Ok(folder) => folder,
            Err(reason) => {
                println!("skipped: {}", reason.trim());
                return;
            }
        };
        for channel in Channel::ALL {
            let (ours, theirs) = (definition(kind, channel).unwrap(), upstream(&folder, kind, channel));
            let (ours, theirs) = (flat(ours), flat(theirs));
            let only = |one: &BTreeMap<String, String>, other: &BTreeMap<String, String>| {
                let differing = one.iter().filter(|(path, leaf)| other.get(*path) != Some(leaf));
                differing.map(|(path, leaf)| format!("  {path}: {leaf}")).collect::<Vec<_>>().join("\n")
            };
            let (here, there) = (only(&ours, &theirs), only(&theirs, &ours));
            assert!(ours == theirs, "{kind:?} {channel}: only ours\n{here}\nonly of {version}\n{there}");
            compared += ours.len();
        }
    }
    assert!(compared > 1500, "{compared} leaves");
}

/// Our own descriptions differ from upstream's.
#[test]
fn every_field_is_described_in_our_words() {
    fn walk(schema: &Value, path: &str, missing: &mut Vec<String>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if field["description"].as_str().is_none_or(|text| text.is_empty() || text.len() > 120)
                && name != "metadata"
            {
                missing.push(path.clone());
            }
            walk(field, &path, missing);
            walk(&field["items"], &path, missing);
        }
    }
    for kind in KINDS {
        let definition = definition(kind, Channel::Experimental).unwrap();
        let mut missing = Vec::new();
        walk(&definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"], "", &mut missing);
        assert_eq!(missing, Vec::<String>::new());
    }
}
