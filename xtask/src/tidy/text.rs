//! White space, and lines that fit a screen.

use std::ffi::OsStr;
use std::path::Path;

use super::Finding;
use super::tree::Tree;

/// Ends of the names of files that are looked at.
const TEXT: &[&str] = &[".rs", ".md", ".toml", ".c", ".h", ".yaml", ".yml", ".sh", ".json", "/run", "Dockerfile"];

/// Columns of a line of code, comments included. What cannot be formatted (texts, macros) the formatter leaves longer.
const COLUMNS: usize = 120;
/// Columns up to the next of which a tab goes.
const TAB: usize = 8;

/// Findings: trailing white space, a tab in Rust, no line break at the end, more than one, lines of code that are too
/// long.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.iter().filter(|(path, _)| TEXT.iter().any(|end| path.ends_with(end))) {
        let extension = Path::new(path).extension().and_then(OsStr::to_str);
        let rust = extension == Some("rs");
        let code = matches!(extension, Some("rs" | "c" | "h"));
        for (number, line) in (1..).zip(text.split('\n')) {
            if line.ends_with([' ', '\t', '\r']) {
                findings.push(Finding::new(path, Some(number), "trailing white space"));
            }
            if code && columns(line) > COLUMNS {
                findings.push(Finding::new(path, Some(number), format!("more than {COLUMNS} columns")));
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

fn columns(line: &str) -> usize {
    line.chars().fold(0, |column, char| if char == '\t' { (column / TAB + 1) * TAB } else { column + 1 })
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

    #[test]
    fn lines_of_code_have_120_columns() {
        let line = |columns: usize| format!("{}\n", "ä".repeat(columns));
        for path in ["a.rs", "a.c", "a.h"] {
            finds(path, &line(120), &[]);
            finds(path, &line(121), &["more than 120 columns"]);
        }
        finds("a.md", &line(121), &[]);
        finds("a.c", &format!("\t{}", line(112)), &[]);
        finds("a.c", &format!("x\t{}", line(113)), &["more than 120 columns"]);
    }
}
