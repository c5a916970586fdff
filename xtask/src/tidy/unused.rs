//! Every dependency is used: a crate that its sources never name, or that no package of the workspace takes, is none.

use super::Finding;
use super::dependencies::Package;
use super::tree::Tree;

/// Findings: a package's dependency that no source of it names, and one of the workspace that no package takes.
pub(crate) fn check(tree: &Tree, packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let sources: Vec<&str> = sources(tree, &package.folder).collect();
        for dependency in &package.dependencies {
            let name = dependency.called.replace('-', "_");
            if !sources.iter().any(|text| names(text, &name)) {
                let message =
                    format!("nothing in {} names {}: remove the dependency", package.folder, dependency.called);
                findings.push(Finding::new(&package.name, None, message));
            }
        }
    }
    let taken =
        |name: &str| packages.iter().flat_map(|package| &package.dependencies).any(|taken| taken.called == name);
    let manifest = tree.get("Cargo.toml").unwrap_or_default();
    for name in of_workspace(manifest).filter(|name| !taken(name)) {
        findings.push(Finding::new("Cargo.toml", None, format!("no package takes the workspace's dependency {name}")));
    }
    findings
}

/// Sources of a package.
fn sources<'a>(tree: &'a Tree, folder: &'a str) -> impl Iterator<Item = &'a str> {
    let within = move |path: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    tree.ending(".rs").filter(move |(path, _)| within(path)).map(|(_, text)| text)
}

/// Whether a text holds a word.
fn names(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word).any(|(start, _)| {
        let (before, after) = (&text[..start], &text[start + word.len()..]);
        !before.ends_with(is_part) && !after.starts_with(is_part)
    })
}

/// Names in the table `workspace.dependencies`.
fn of_workspace(manifest: &str) -> impl Iterator<Item = &str> {
    let table = manifest.split_once("[workspace.dependencies]\n").map_or("", |(_, rest)| rest);
    let lines = table.lines().take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| line.split_once('=').map(|(name, _)| name.trim()))
}

#[cfg(test)]
mod tests {
    use super::super::dependencies::Dependency;
    use super::*;

    fn found(source: &str, manifest: &str) -> Vec<String> {
        let tree = Tree::of(&[("crates/a/src/lib.rs", source), ("Cargo.toml", manifest)]);
        let dependency = Dependency { name: "serde-json".into(), called: "serde-json".into(), in_tests: false };
        let package = Package { name: "a".into(), folder: "crates/a".into(), dependencies: vec![dependency] };
        check(&tree, &[package]).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn a_dependency_that_nothing_names_is_found() {
        assert!(found("use serde_json::Value;", "").is_empty());
        assert_eq!(found("use serde_json_lines::Value;", "").len(), 1);
        assert_eq!(found("", "").len(), 1);
    }

    #[test]
    fn a_dependency_of_the_workspace_that_no_package_takes_is_found() {
        let manifest = "[workspace.dependencies]\nserde-json = \"1\"\ninsta = \"1\"\n\n[profile.dev]\nx = 1\n";
        assert_eq!(found("serde_json", manifest), ["no package takes the workspace's dependency insta"]);
    }
}
