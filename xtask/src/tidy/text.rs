//! White space.

use std::path::Path;

use super::Finding;
use super::tree::Tree;

/// Ends of the names of files that are looked at.
const TEXT: &[&str] = &[".rs", ".md", ".toml", ".c", ".h", ".yaml", ".yml", ".sh", ".json", "/run", "Dockerfile"];

/// Findings: trailing white space, a tab in Rust, no line break at the end, more than one.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.iter().filter(|(path, _)| TEXT.iter().any(|end| path.ends_with(end))) {
        let rust = Path::new(path).extension().is_some_and(|extension| extension == "rs");
        for (number, line) in (1..).zip(text.split('\n')) {
            if line.ends_with([' ', '\t', '\r']) {
                findings.push(Finding::new(path, Some(number), "trailing white space"));
            }
            if rust && line.contains('\t') {
                findings.push(Finding::new(path, Some(number), "a tab"));
            }
        }
        if !text.is_empty() && !text.ends_with('\n') {
            findings.push(Finding::new(path, None, "no line break at the end"));
        }
        if text.ends_with("\n\n") {
            findings.push(Finding::new(path, None, "empty lines at the end"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn finds(path: &str, text: &str, expected: &[&str]) {
        let found: Vec<String> = check(&Tree::of(&[(path, text)])).into_iter().map(|finding| finding.message).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn white_space_is_found() {
        finds("a.rs", "a\n\nb\n", &[]);
        finds("a.rs", "a \n", &["trailing white space"]);
        finds("a.md", "a\t\n", &["trailing white space"]);
        finds("a.rs", "\ta\n", &["a tab"]);
        finds("a.c", "\ta\n", &[]);
        finds("a.toml", "a", &["no line break at the end"]);
        finds("a.toml", "a\n\n", &["empty lines at the end"]);
        finds("a.bin", "a \n\n", &[]);
    }
}
