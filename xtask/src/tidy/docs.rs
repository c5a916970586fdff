//! Checks that things which documents name exist.

use clap::CommandFactory as _;

use super::Finding;
use super::tree::Tree;

/// First parts of paths that a document can only mean as paths of this repository.
const TOPS: &[&str] = &["crates/", "xtask/", "docs/", ".ci/", ".cargo/", "deploy/"];

/// A name of more words than this is a test's.
const TEST_WORDS: usize = 4;

/// Findings: a link, a path, a test or a chore in a Markdown file that does not exist.
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
            for test in tests_named(line).filter(|test| !is_function(tree, test)) {
                findings.push(Finding::new(path, Some(number), format!("there is no test {test}")));
            }
            for file in files_named(line).filter(|file| !is_file(tree, file)) {
                findings.push(Finding::new(path, Some(number), format!("there is no file {file}")));
            }
            for chore in chores_named(line).filter(|chore| !chores.iter().any(|known| known == chore)) {
                findings.push(Finding::new(path, Some(number), format!("there is no chore {chore}")));
            }
        }
    }
    findings.extend(workflows(tree, &chores));
    findings
}

/// Findings: a workflow runs a chore or a script that does not exist.
fn workflows(tree: &Tree, chores: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.ending(".yml").filter(|(path, _)| path.starts_with(".github/workflows/")) {
        for (number, line) in (1..).zip(text.lines()) {
            for chore in chores_named(line).filter(|chore| !chores.iter().any(|known| known == chore)) {
                findings.push(Finding::new(path, Some(number), format!("there is no chore {chore}")));
            }
            for script in line.split_whitespace().filter(|word| word.starts_with(".ci/") && !tree.holds(word)) {
                findings.push(Finding::new(path, Some(number), format!("there is no {script}")));
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

/// The words in back-quotes.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Paths in back-quotes.
fn paths(line: &str) -> impl Iterator<Item = &str> {
    let plain = |text: &&str| TOPS.iter().any(|top| text.starts_with(top)) && !text.contains([' ', '*', '{', '<', '…']);
    quoted(line).filter(plain)
}

/// Tests in back-quotes: nothing else has a name of so many words.
fn tests_named(line: &str) -> impl Iterator<Item = &str> {
    let names = quoted(line).filter_map(|text| text.rsplit("::").next());
    names.filter(|name| {
        !name.starts_with("ringfence_")
            && name.split('_').count() > TEST_WORDS
            && name.split('_').all(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase()))
    })
}

fn is_function(tree: &Tree, name: &str) -> bool {
    let head = format!("fn {name}(");
    tree.ending(".rs").any(|(_, text)| text.contains(&head))
}

/// Files of Rust in back-quotes, by name or by the end of their path.
fn files_named(line: &str) -> impl Iterator<Item = &str> {
    let named = |text: &str| text.strip_suffix(".rs").is_some_and(|name| !name.is_empty());
    quoted(line).filter(move |text| named(text) && !text.contains([' ', '*', '{', '<', '…']))
}

fn is_file(tree: &Tree, file: &str) -> bool {
    let end = format!("/{file}");
    tree.ending(".rs").any(|(path, _)| path == file || path.ends_with(&end))
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
        let tree = Tree::of(&[
            ("docs/a.md", text),
            ("README.md", ""),
            ("crates/model/src/lib.rs", "fn it_is_there_and_passes() {}"),
        ]);
        let found: Vec<String> = check(&tree).into_iter().map(|finding| finding.message).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn tests_and_files_are_there() {
        finds(
            "`what_is_closed_stays_closed` `lib.rs` `src/lib.rs` `ringfence_repairs_total`",
            &["there is no test what_is_closed_stays_closed"],
        );
        finds("(test: `other.rs`) `model::tests::it_is_there_and_passes`", &["there is no file other.rs"]);
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
    fn workflows_run_what_exists() {
        let workflow = "- run: cargo xtask tidy\n- run: .ci/run\n- run: cargo xtask dance\n- run: sudo .ci/walk\n";
        let tree = Tree::of(&[(".github/workflows/ci.yml", workflow), (".ci/run", "")]);
        let found: Vec<String> = check(&tree).iter().map(ToString::to_string).collect();
        let expected =
            [".github/workflows/ci.yml:3: there is no chore dance", ".github/workflows/ci.yml:4: there is no .ci/walk"];
        assert_eq!(found, expected);
    }

    #[test]
    fn chores_exist() {
        finds("run `cargo xtask tidy` and cargo xtask test --cases 3, `cargo xtask <chore>`", &[]);
        finds("`cargo xtask dance`", &["there is no chore dance"]);
    }
}
