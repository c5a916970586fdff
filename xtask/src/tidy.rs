//! `tidy`: the rules of the code base that no compiler checks.
//!
//! Each check is a function of plain values (files, dependencies) to findings, so that it can be shown to fail.

mod code;
mod dependencies;
mod docs;
mod modules;
mod source;
mod text;
mod tree;
mod unused;

use std::fmt;
use std::process::ExitCode;

use xshell::Shell;

use tree::Tree;

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// The file, or the crate.
    pub(crate) place: String,
    /// Line in the file, if one is to blame.
    pub(crate) line: Option<usize>,
    /// The problem, and advice.
    pub(crate) message: String,
}

impl Finding {
    fn new(place: &str, line: Option<usize>, message: impl Into<String>) -> Self {
        Self { place: place.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.place, self.message),
            None => write!(f, "{}: {}", self.place, self.message),
        }
    }
}

/// Prints every finding; fails if there is one.
pub(crate) fn run(sh: &Shell) -> anyhow::Result<ExitCode> {
    let tree = Tree::read(sh)?;
    let workspace = dependencies::Workspace::read(sh)?;
    let mut findings = dependencies::check(&workspace.packages);
    findings.extend(dependencies::unused(&workspace.packages));
    findings.extend(modules::check(&tree, &workspace.roots));
    findings.extend(source::check(&tree, &workspace.roots));
    findings.extend(text::check(&tree));
    findings.extend(docs::check(&tree));
    findings.extend(unused::check(&tree, &workspace.packages));
    findings.sort();
    findings.dedup();
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy: {} files, all well", tree.len());
        return Ok(ExitCode::SUCCESS);
    }
    println!("tidy: {} findings", findings.len());
    Ok(ExitCode::FAILURE)
}
