//! Parts of documents that a command writes.

use anyhow::bail;
use xshell::{Shell, cmd};

/// When, by which command and on what results were made, as documents say it above them.
pub(crate) fn made(sh: &Shell, command: &str, on: &str) -> anyhow::Result<String> {
    let date = cmd!(sh, "date --utc +%Y-%m-%d").quiet().read()?;
    Ok(format!("Made on {date} by `{command}` on {}.", on.trim()))
}

/// The commit that is checked out, in short; with a `+` where files that are built differ from it.
pub(crate) fn commit(sh: &Shell) -> anyhow::Result<String> {
    let commit = cmd!(sh, "git rev-parse --short HEAD").quiet().read()?;
    let changed = cmd!(sh, "git status --porcelain -- . :!*.md").quiet().read()?;
    Ok(format!("{}{}", commit.trim(), if changed.is_empty() { "" } else { "+" }))
}

/// The text between two marks of a document.
///
/// # Errors
/// A mark is missing, or the end is not after the beginning.
pub(crate) fn between<'a>(document: &'a str, (begin, end): (&str, &str)) -> anyhow::Result<&'a str> {
    let Some((_, rest)) = document.split_once(begin) else { bail!("the document lacks the mark {begin}") };
    let Some((inner, _)) = rest.split_once(end) else { bail!("the document lacks the mark {end} after {begin}") };
    Ok(inner)
}

/// The document with what is between two marks replaced. Several parts may end with the same mark.
///
/// # Errors
/// A mark is missing, or the end is not after the beginning.
pub(crate) fn replace(document: &str, (begin, end): (&str, &str), with: &str) -> anyhow::Result<String> {
    let old = between(document, (begin, end))?;
    let (head, tail) = document.split_once(&format!("{begin}{old}")).unwrap_or_default();
    let lines: Vec<&str> = with.trim().lines().map(str::trim_end).collect();
    Ok(format!("{head}{begin}\n{}\n{tail}", lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: (&str, &str) = ("<!-- a -->", "<!-- b -->");

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let new = replace("head\n<!-- a -->\nold\n<!-- b -->\ntail\n", MARKS, "one  \ntwo\n\n").unwrap();
        assert_eq!(new, "head\n<!-- a -->\none\ntwo\n<!-- b -->\ntail\n");
        assert_eq!(replace(&new, MARKS, "one\ntwo").unwrap(), new);
        assert_eq!(between(&new, MARKS).unwrap(), "\none\ntwo\n");
    }

    #[test]
    fn parts_may_end_alike() {
        let document = "<!-- other -->\n1\n<!-- b -->\n<!-- a -->\n2\n<!-- b -->\n";
        let new = replace(document, MARKS, "3").unwrap();
        assert_eq!(new, "<!-- other -->\n1\n<!-- b -->\n<!-- a -->\n3\n<!-- b -->\n");
    }

    #[test]
    fn marks_must_be_there_in_order() {
        assert!(replace("no marks", MARKS, "x").is_err());
        assert!(replace("<!-- b --> <!-- a -->", MARKS, "x").is_err());
    }
}
