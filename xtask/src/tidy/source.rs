//! Rules for every Rust file.

use std::collections::BTreeMap;

use super::Finding;
use super::code::code_only;
use super::tree::Tree;

/// The one crate that may use `unsafe`.
const UNSAFE: &str = "ringfence-datapath";

/// Findings: a module without a first `//!` line; `unsafe` outside the one crate that may; the root of another crate
/// that does not forbid it.
pub(crate) fn check(tree: &Tree, roots: &BTreeMap<String, String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.ending(".rs") {
        if !text.lines().next().is_some_and(|first| first.starts_with("//! ")) {
            findings.push(Finding::new(path, Some(1), "the first line must say what the module is for, after `//!`"));
        }
        if may_be_unsafe(path, roots) {
            continue;
        }
        for (number, line) in (1..).zip(code_only(text).lines()) {
            let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if words.into_iter().any(|word| word == "unsafe") {
                findings.push(Finding::new(path, Some(number), format!("`unsafe` is for {UNSAFE} alone")));
            }
        }
        let root = path.ends_with("/src/lib.rs") || path.ends_with("/src/main.rs");
        if root && !code_only(text).contains("#![forbid(unsafe_code)]") {
            findings.push(Finding::new(path, None, "the root of a crate must say `#![forbid(unsafe_code)]`"));
        }
    }
    findings
}

/// True if a file is in the folder of the package that may.
fn may_be_unsafe(path: &str, roots: &BTreeMap<String, String>) -> bool {
    let folder = |root: &str| root.split_once("/src/").map(|(folder, _)| format!("{folder}/"));
    roots
        .iter()
        .any(|(root, package)| package == UNSAFE && folder(root).is_some_and(|folder| path.starts_with(&folder)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let roots = [("crates/datapath/src/lib.rs", UNSAFE), ("crates/model/src/lib.rs", "ringfence-model")];
        let roots = roots.map(|(k, v)| (k.to_owned(), v.to_owned()));
        check(&Tree::of(&[(path, text)]), &BTreeMap::from(roots)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn modules_say_what_they_are_for() {
        assert_eq!(findings("crates/model/src/a.rs", "//! Names.\n"), [""; 0]);
        assert_eq!(findings("crates/model/src/a.rs", "\n//! Names.\n").len(), 1);
        assert_eq!(findings("crates/model/src/a.rs", "//!\n").len(), 1);
        assert_eq!(findings("crates/model/src/a.rs", "").len(), 1);
    }

    #[test]
    fn unsafe_is_for_the_datapath() {
        let text = "//! X.\nfn f() { unsafe { g() } }\n";
        assert_eq!(findings("crates/datapath/src/a.rs", text), [""; 0]);
        assert_eq!(findings("crates/datapath/tests/a.rs", text), [""; 0]);
        let found = findings("crates/model/src/a.rs", text);
        assert_eq!(found, ["crates/model/src/a.rs:2: `unsafe` is for ringfence-datapath alone"]);
        assert_eq!(findings("crates/model/src/a.rs", "//! X.\n// unsafe\nconst A: &str = \"unsafe\";\n"), [""; 0]);
    }

    #[test]
    fn roots_forbid_unsafe() {
        assert_eq!(findings("crates/model/src/lib.rs", "//! X.\n#![forbid(unsafe_code)]\n"), [""; 0]);
        assert_eq!(findings("crates/model/src/lib.rs", "//! X.\n").len(), 1);
    }
}
