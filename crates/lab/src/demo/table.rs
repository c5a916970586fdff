//! Reads the tables kubectl prints.

use std::fmt;

/// A table: a line of headings, and rows aligned under them.
pub(super) struct Table<'a> {
    headings: Vec<(usize, &'a str)>,
    lines: Vec<&'a str>,
}

/// One row.
pub(super) struct Row<'a> {
    headings: &'a [(usize, &'a str)],
    line: &'a str,
}

impl<'a> Table<'a> {
    /// Takes any text; one that is no table has no rows.
    pub(super) fn parse(text: &'a str) -> Self {
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        let upper = !first.is_empty() && !first.contains(char::is_lowercase);
        let headings = if upper { headings(first) } else { Vec::new() };
        Self {
            lines: if upper { lines.filter(|line| !line.trim().is_empty()).collect() } else { Vec::new() },
            headings,
        }
    }

    /// Its rows.
    pub(super) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.lines.iter().map(|line| Row { headings: &self.headings, line })
    }
}

/// Headings and where they begin. They are at least two spaces apart (`NOMINATED NODE` is one).
fn headings(line: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut at = 0;
    for part in line.split("  ") {
        let name = part.trim();
        if !name.is_empty() {
            found.push((at + part.len() - part.trim_start().len(), name));
        }
        at += part.len() + 2;
    }
    found
}

impl Row<'_> {
    /// The cell under a heading.
    pub(super) fn get(&self, heading: &str) -> Option<&str> {
        let index = self.headings.iter().position(|(_, name)| *name == heading)?;
        let begin = self.headings[index].0;
        let end = self.headings.get(index + 1).map_or(self.line.len(), |(begin, _)| *begin);
        Some(self.line.get(begin..end.min(self.line.len())).unwrap_or_default().trim())
    }
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.line.split_whitespace().collect();
        f.write_str(&words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_under_their_headings() {
        let text = "NAME   RESTARTS     NOMINATED NODE   LABELS\na      1 (2s ago)   <none>           x=y\n\nlonger\n";
        let table = Table::parse(text);
        let rows: Vec<Row<'_>> = table.rows().collect();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].get("RESTARTS"), Some("1 (2s ago)"));
        assert_eq!(rows[0].get("NOMINATED NODE"), Some("<none>"));
        assert_eq!(rows[0].get("LABELS"), Some("x=y"));
        assert_eq!(rows[0].get("IP"), None);
        assert_eq!(rows[1].get("LABELS"), Some(""));
    }

    #[test]
    fn other_text_has_no_rows() {
        assert_eq!(Table::parse("No resources found\n").rows().count(), 0);
        assert_eq!(Table::parse("").rows().count(), 0);
    }
}
