//! Results on standard output: lines, tables as kubectl prints them, JSON, YAML.

use std::io::{self, Write as _};

use anyhow::Context as _;
use serde::Serialize;

use crate::exit::Code;

/// Prints one line.
pub fn line(text: &str) -> anyhow::Result<Code> {
    writeln!(io::stdout(), "{text}")?;
    Ok(Code::Ok)
}

/// Prints a line for people on standard error, beside the result.
#[expect(clippy::print_stderr, reason = "the one place where remarks are printed")]
pub fn remark(line: &str) {
    eprintln!("{line}");
}

/// Prints text as it is.
pub fn text(text: &str) -> anyhow::Result<()> {
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// Prints a value as JSON.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    text(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Prints a value as YAML.
pub fn yaml(value: &impl Serialize) -> anyhow::Result<()> {
    text(&serde_saphyr::to_string(value).context("cannot write YAML")?)
}

/// Rows below a heading, columns three spaces apart, no space at the end of a line.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heading[column].chars().count()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    let heading = heading.map(str::to_owned);
    for row in std::iter::once(&heading).chain(rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        out += cells.collect::<Vec<_>>().join("   ").trim_end();
        out.push('\n');
    }
    out
}

/// A value, or a placeholder where there is none.
pub fn or_none(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "<none>".into(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_with_text() {
        let rows = [["kube-system".to_owned(), String::new()], ["a".to_owned(), "b".to_owned()]];
        let expected = "NAMESPACE     NAME\nkube-system\na             b\n";
        assert_eq!(table(["NAMESPACE", "NAME"], &rows), expected);
    }
}
