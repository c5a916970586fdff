//! The table of what faults did: each row is of the commit it was made at, and stays until a run makes it anew.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};

/// Head of the column that names a row's commit.
const COMMIT: [&str; 2] = [" commit ", "---"];
/// Follows the name of a fault that was not tried to its end.
const FAILED: &str = " (failed)";

/// The rows of one run, or of several as the document holds them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Table {
    /// The two lines above the rows, without the column of commits.
    head: Vec<String>,
    rows: Vec<Row>,
    /// Lines about runs, newest first.
    runs: Vec<String>,
}

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    name: String,
    /// The line of the table, without the column of commits.
    cells: String,
    commit: String,
    /// The line that tells what was done.
    story: String,
}

/// The new text of the document: what it says, with the rows that a run made in place of those of the same faults.
///
/// `printed` is what the suite printed; `made` says when, how and on what that was.
///
/// # Errors
/// The run has no rows, or rows that stay have other columns.
pub(super) fn merge(document: &str, printed: &str, commit: &str, made: &str) -> anyhow::Result<String> {
    let mut table = Table::of(document, None)?;
    let new = Table::of(printed, Some(commit))?;
    if new.rows.is_empty() {
        bail!("the run made no rows");
    }
    let about = printed.lines().find(|line| line.starts_with("Kubernetes ")).unwrap_or_default();
    let run = format!("* `{commit}`: {made} {about}").trim_end().to_owned();
    table.runs.retain(|known| *known != run);
    table.runs.insert(0, run);
    let stay = |row: &Row| !new.rows.iter().any(|new| new.name == row.name);
    if table.head != new.head && table.rows.iter().any(stay) {
        bail!("the rows of other faults have other columns\nhint: run all faults");
    }
    table.head.clone_from(&new.head);
    for row in new.rows {
        match table.rows.iter_mut().find(|old| old.name == row.name) {
            Some(old) => *old = row,
            None => table.rows.push(row),
        }
    }
    Ok(table.text())
}

impl Table {
    /// Reads a table: of a commit, or as a document has it, with a column of commits.
    fn of(text: &str, commit: Option<&str>) -> anyhow::Result<Self> {
        let mut table = Self::default();
        for line in text.lines() {
            if let Some(inner) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) {
                let split = || inner.rsplit_once('|').map(|(cells, last)| (cells, last.trim().trim_matches('`')));
                let of_document = || split().with_context(|| format!("a line of the table has no commit: {line}"));
                let (cells, commit) = commit.map_or_else(of_document, |commit| Ok((inner, commit)))?;
                if table.head.len() < 2 {
                    table.head.push(cells.to_owned());
                } else {
                    let name = cells.split('|').next().unwrap_or_default().trim();
                    let name = name.strip_suffix(FAILED).unwrap_or(name).to_owned();
                    let (cells, commit) = (cells.to_owned(), commit.to_owned());
                    table.rows.push(Row { name, cells, commit, story: String::new() });
                }
            } else if let Some((name, _)) = line.strip_prefix("* **").and_then(|line| line.split_once("**")) {
                let row = table.rows.iter_mut().find(|row| row.name == name);
                row.with_context(|| format!("no row of the table is about {name}"))?.story.push_str(line);
            } else if line.starts_with("* `") {
                table.runs.push(line.to_owned());
            }
        }
        Ok(table)
    }

    /// As Markdown. Runs of which no row is left are left out.
    fn text(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        lines.extend(self.head.iter().zip(COMMIT).map(|(cells, column)| format!("|{cells}|{column}|")));
        lines.extend(self.rows.iter().map(|row| format!("|{}| `{}` |", row.cells, row.commit)));
        lines.push(String::new());
        lines.extend(self.rows.iter().map(|row| row.story.clone()));
        let commits: BTreeSet<&str> = self.rows.iter().map(|row| row.commit.as_str()).collect();
        let run = |line: &&String| commits.contains(line.split('`').nth(1).unwrap_or_default());
        lines.extend(["", "Commits:", ""].map(str::to_owned));
        lines.extend(self.runs.iter().filter(run).cloned());
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(rows: &[(&str, u32)]) -> String {
        let mut text =
            "skipped: upgrade: no image\nKubernetes v1, 2 nodes.\n\n| fault | probes |\n|---|--:|\n".to_owned();
        text.extend(rows.iter().map(|(name, probes)| format!("| {name} | {probes} |\n")));
        text.push('\n');
        text.extend(
            rows.iter().map(|(name, probes)| {
                format!("* **{}**: {probes} times.\n", name.strip_suffix(FAILED).unwrap_or(name))
            }),
        );
        text
    }

    fn whole() -> String {
        merge("", &printed(&[("nothing", 1), ("kills", 2), ("reboot", 3)]), "aaa", "Made first.").unwrap()
    }

    #[test]
    fn a_whole_run_is_written_as_it_was_printed() {
        let expect = "| fault | probes | commit |\n|---|--:|---|\n| nothing | 1 | `aaa` |\n| kills | 2 | `aaa` |\n\
                      | reboot | 3 | `aaa` |\n\n* **nothing**: 1 times.\n* **kills**: 2 times.\n* **reboot**: 3 \
                      times.\n\n\
                      Commits:\n\n* `aaa`: Made first. Kubernetes v1, 2 nodes.";
        assert_eq!(whole(), expect);
    }

    #[test]
    fn rows_of_a_run_replace_those_of_the_same_faults_only() {
        let new = merge(&whole(), &printed(&[("kills", 20), ("nft-flush", 40)]), "bbb", "Made later.").unwrap();
        let table = Table::of(&new, None).unwrap();
        let rows: Vec<_> = table.rows.iter().map(|row| (row.name.as_str(), row.commit.as_str())).collect();
        assert_eq!(rows, [("nothing", "aaa"), ("kills", "bbb"), ("reboot", "aaa"), ("nft-flush", "bbb")]);
        assert_eq!(table.rows[1].story, "* **kills**: 20 times.");
        assert_eq!(table.rows[2].story, "* **reboot**: 3 times.");
        assert!(table.runs[0].starts_with("* `bbb`: Made later.") && table.runs[1].starts_with("* `aaa`"), "{new}");
        assert_eq!(table.runs.len(), 2);
    }

    #[test]
    fn a_commit_of_which_no_row_is_left_is_not_told() {
        let all = printed(&[("nothing", 5), ("kills", 6), ("reboot", 7)]);
        let new = merge(&whole(), &all, "bbb", "Made later.").unwrap();
        assert!(!new.contains("aaa"), "{new}");
    }

    #[test]
    fn a_fault_that_failed_takes_the_place_of_the_one_that_went_well_and_back() {
        let failed = merge(&whole(), &printed(&[("kills (failed)", 9)]), "bbb", "Made.").unwrap();
        assert_eq!(failed.matches("| kills").count(), 1, "{failed}");
        assert!(failed.contains("| kills (failed) | 9 | `bbb` |"), "{failed}");
        let well = merge(&failed, &printed(&[("kills", 10)]), "ccc", "Made.").unwrap();
        assert!(!well.contains("failed") && !well.contains("bbb"), "{well}");
    }

    #[test]
    fn rows_with_other_columns_do_not_meet() {
        let other = printed(&[("kills", 1)]).replace("| probes |", "| packets |");
        assert!(merge(&whole(), &other, "bbb", "Made.").is_err());
        let all = printed(&[("nothing", 1), ("kills", 1), ("reboot", 1)]).replace("| probes |", "| packets |");
        assert!(merge(&whole(), &all, "bbb", "Made.").unwrap().contains("packets"));
        assert!(merge(&whole(), "skipped: kills: no\n", "bbb", "Made.").is_err(), "nothing was tried");
    }
}
