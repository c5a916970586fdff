//! The output of `go test -v`, counted.

/// Result of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// As it should.
    Passed,
    /// It did not.
    Failed,
    /// It was not run.
    Skipped,
}

/// Beginnings of the lines that say so.
const MARKS: &[(&str, Outcome)] =
    &[("--- PASS: ", Outcome::Passed), ("--- FAIL: ", Outcome::Failed), ("--- SKIP: ", Outcome::Skipped)];

/// Transcript so far.
#[derive(Default)]
pub(super) struct Transcript {
    left_out: &'static [&'static str],
    tests: Vec<(String, Outcome)>,
    setup_failed: bool,
}

impl Transcript {
    /// An empty one, with the names of tests that are left out; the suite says of them that they passed.
    pub(super) fn leaving_out(left_out: &'static [&'static str]) -> Self {
        Self { left_out, ..Self::default() }
    }

    /// Takes in a line; what of it the person who waits should see: which test begins, how each ends, which step
    /// failed.
    pub(super) fn read<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        let trimmed = line.trim_start();
        if let Some(path) = trimmed.strip_prefix("=== RUN   ") {
            return (path.matches('/').count() == 1).then_some(path);
        }
        let (rest, outcome) = MARKS.iter().find_map(|(mark, outcome)| Some((trimmed.strip_prefix(mark)?, *outcome)))?;
        let path = rest.split(' ').next().unwrap_or(rest);
        // `Suite/Test` is a test of the suite; deeper paths are its steps; the suite alone is their sum.
        match path.matches('/').count() {
            0 => self.setup_failed |= outcome == Outcome::Failed,
            1 if self.left_out.iter().any(|name| path.ends_with(&format!("/{name}"))) => {
                self.tests.push((path.to_owned(), Outcome::Skipped));
                return None;
            }
            1 => self.tests.push((path.to_owned(), outcome)),
            _ if outcome == Outcome::Failed => {}
            _ => return None,
        }
        Some(trimmed)
    }

    /// The number of tests ended so. A suite that failed without any of its tests counts as one.
    pub(super) fn count(&self, outcome: Outcome) -> usize {
        let tests = self.tests.iter().filter(|(_, ended)| *ended == outcome).count();
        let alone = outcome == Outcome::Failed && tests == 0 && self.setup_failed;
        tests + usize::from(alone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> [usize; 3] {
        let mut transcript = Transcript::leaving_out(&["Out"]);
        for line in text.lines() {
            transcript.read(line);
        }
        [Outcome::Passed, Outcome::Failed, Outcome::Skipped].map(|outcome| transcript.count(outcome))
    }

    #[test]
    fn tests_are_counted_once() {
        let text = "\
=== RUN   TestSuite/One
    --- PASS: TestSuite/One (1.00s)
        --- PASS: TestSuite/One/step (1.00s)
    --- FAIL: TestSuite/Two (1.00s)
        --- FAIL: TestSuite/Two/step (1.00s)
    --- SKIP: TestSuite/Three (0.00s)
--- FAIL: TestSuite (3.00s)
";
        assert_eq!(read(text), [1, 1, 1]);
    }

    #[test]
    fn what_was_left_out_did_not_pass() {
        assert_eq!(read("    --- PASS: TestSuite/Out (0.00s)\n    --- PASS: TestSuite/Without (0.00s)\n"), [1, 0, 1]);
    }

    #[test]
    fn a_suite_that_did_not_begin_has_failed() {
        assert_eq!(read("--- FAIL: TestSuite (0.10s)\n"), [0, 1, 0]);
    }
}
