//! Parts of documents that a command writes.

use anyhow::bail;

/// The document with what is between two marks replaced.
///
/// # Errors
/// A mark is missing, or they are in the wrong order.
pub(crate) fn replace(document: &str, (begin, end): (&str, &str), with: &str) -> anyhow::Result<String> {
    let (Some(from), Some(to)) = (document.find(begin), document.find(end)) else {
        bail!("the document lacks the marks {begin} and {end}");
    };
    if to < from {
        bail!("the marks {begin} and {end} are in the wrong order");
    }
    let lines: Vec<&str> = with.trim().lines().map(str::trim_end).collect();
    Ok(format!("{}{begin}\n{}\n{}", &document[..from], lines.join("\n"), &document[to..]))
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
    }

    #[test]
    fn marks_must_be_there_in_order() {
        assert!(replace("no marks", MARKS, "x").is_err());
        assert!(replace("<!-- b --> <!-- a -->", MARKS, "x").is_err());
    }
}
