//! What the documents name is there.

use clap::CommandFactory as _;

use super::Finding;
use super::tree::Tree;

/// First parts of paths that a document can only mean as paths of this repository.
const TOPS: &[&str] = &["crates/", "xtask/", "docs/", ".ci/", ".cargo/", "deploy/"];

/// Findings: a link, a path or a chore in a Markdown file that does not exist.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let chores: Vec<String> = crate::Chore::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
    let mut findings = Vec::new();
    for (path, text) in tree.ending(".md") {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (number, line) in (1..).zip(text.lines()) {
            for gone in links(line).into_iter().filter(|link| !leads(tree, folder, link)) {
                findings.push(Finding::new(path, Some(number), format!("the link to {gone} leads nowhere")));
            }
            for gone in paths(line).filter(|path| !tree.holds(path)) {
                findings.push(Finding::new(path, Some(number), format!("there is no {gone}")));
            }
            for chore in chores_named(line).filter(|chore| !chores.iter().any(|known| known == chore)) {
                findings.push(Finding::new(path, Some(number), format!("there is no chore {chore}")));
            }
        }
    }
    findings
}

/// Targets of `[text](target)` within the repository.
fn links(line: &str) -> Vec<&str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let targets = targets.map(|target| target.split('#').next().unwrap_or(target));
    targets.filter(|target| !target.is_empty() && !target.contains(':') && !target.contains(' ')).collect()
}

fn leads(tree: &Tree, folder: &str, link: &str) -> bool {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.is_empty() || tree.holds(&parts.join("/"))
}

/// Paths in back-quotes.
fn paths(line: &str) -> impl Iterator<Item = &str> {
    let quoted = line.split('`').skip(1).step_by(2);
    let plain = |text: &&str| TOPS.iter().any(|top| text.starts_with(top)) && !text.contains([' ', '*', '{', '<', '…']);
    quoted.filter(plain)
}

/// Words after `cargo xtask`.
fn chores_named(line: &str) -> impl Iterator<Item = &str> {
    let after = line.split("cargo xtask ").skip(1);
    let name =
        |rest: &'_ str| rest.find(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit()).unwrap_or(rest.len());
    after.map(move |rest| &rest[..name(rest)]).filter(|chore| !chore.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn finds(text: &str, expected: &[&str]) {
        let tree = Tree::of(&[("docs/a.md", text), ("README.md", ""), ("crates/model/src/lib.rs", "")]);
        let found: Vec<String> = check(&tree).into_iter().map(|finding| finding.message).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn links_lead_somewhere() {
        finds("[a](../README.md#x) [b](https://example.org/x) [c](#here) [d](a.md)", &[]);
        finds("see [it](b.md)", &["the link to b.md leads nowhere"]);
    }

    #[test]
    fn paths_exist() {
        finds("`crates/model` and `crates/model/src/lib.rs`, `crates/*`, `made/up`", &[]);
        finds("`crates/gone`", &["there is no crates/gone"]);
    }

    #[test]
    fn chores_exist() {
        finds("run `cargo xtask tidy` and cargo xtask test --cases 3, `cargo xtask <chore>`", &[]);
        finds("`cargo xtask dance`", &["there is no chore dance"]);
    }
}
