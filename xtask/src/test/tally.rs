//! Counts what the test harness prints.

/// Counts so far.
///
/// A test that cannot run on this machine prints a line that begins with `skip` and returns; the harness believes it
/// passed and shows its output (`--show-output`), from which it is known here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that ran and passed.
    pub(crate) passed: u64,
    /// Tests that failed, and test programs that could not be built or died.
    pub(crate) failed: u64,
    /// Tests that this machine cannot run, and ignored ones.
    pub(crate) skipped: u64,
    /// Name and reason of each skipped test.
    pub(crate) skips: Vec<String>,
    /// Name of each failed test.
    pub(crate) failures: Vec<String>,
    section: Section,
    current: Option<String>,
    /// Skipped tests of the program that is running, which its result will count as passed.
    not_passed: u64,
}

/// Section of the output of a test program.
#[derive(Debug, Default, PartialEq, Eq)]
enum Section {
    /// The list of tests, and everything else.
    #[default]
    Running,
    /// The output of tests that passed.
    Successes,
    /// The output of tests that failed.
    Failures,
}

impl Tally {
    /// Takes a line of output in; false if a person need not see it.
    pub(crate) fn read(&mut self, line: &str) -> bool {
        match line {
            "successes:" => self.section = Section::Successes,
            "failures:" => self.section = Section::Failures,
            _ if line.starts_with("test result: ") => self.read_result(line),
            _ if line.starts_with("running ") => self.section = Section::Running,
            _ => self.read_test(line),
        }
        self.section != Section::Successes
    }

    /// Takes the end of the run in: a failure that no test reported is one of a program.
    pub(crate) fn finish(&mut self, success: bool) {
        if !success && self.failed == 0 {
            self.failed = 1;
            self.failures.push("a test program could not be built, or died".to_owned());
        }
    }

    /// `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s`
    fn read_result(&mut self, line: &str) {
        self.section = Section::Running;
        self.current = None;
        let count = |what: &str| {
            let before = line.split(what).next().filter(|before| before.len() < line.len())?;
            before.trim_end().rsplit(' ').next()?.parse::<u64>().ok()
        };
        self.passed += count("passed").unwrap_or(0).saturating_sub(std::mem::take(&mut self.not_passed));
        self.failed += count("failed").unwrap_or(0);
        self.skipped += count("ignored").unwrap_or(0);
    }

    fn read_test(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            self.current = Some(name.to_owned());
        } else if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.failures.push(name.to_owned());
        } else if self.section == Section::Successes && line.get(..4).is_some_and(|s| s.eq_ignore_ascii_case("skip")) {
            self.skip(line);
        }
    }

    /// Counted once for each test, whatever it prints. The harness prints its result line, which counts the test as
    /// passed, later.
    fn skip(&mut self, line: &str) {
        if let Some(name) = self.current.take() {
            let reason = line.split_once(':').map_or(line, |(_, reason)| reason).trim();
            self.skips.push(format!("{name}: {reason}"));
            self.skipped += 1;
            self.not_passed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\nrunning 3 tests\ntest a ... ok\ntest b ... ok\ntest c ... FAILED\ntest d ... \
        ignored\n\nsuccesses:\n\n\
        ---- a stdout ----\nhello\n\n---- b stdout ----\nskipped: not root\nskipped: twice\n\n\nsuccesses:\n    a\n    \
        b\n\n\
        failures:\n\n---- c stdout ----\nskipping is no excuse\n\nfailures:\n    c\n\n\
        test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";

    fn read(output: &str) -> (Tally, String) {
        let mut tally = Tally::default();
        let shown: Vec<&str> = output.lines().filter(|line| tally.read(line)).collect();
        (tally, shown.join("\n"))
    }

    #[test]
    fn tests_are_counted() {
        let (tally, shown) = read(OUTPUT);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (1, 1, 2));
        assert_eq!(tally.skips, ["b: not root"]);
        assert_eq!(tally.failures, ["c"]);
        assert!(!shown.contains("hello"), "output of passed tests is noise");
        assert!(shown.contains("skipping is no excuse"), "output of failed tests is not");
    }

    #[test]
    fn several_programs_add_up() {
        let (tally, _) = read(&OUTPUT.repeat(3));
        assert_eq!((tally.passed, tally.failed, tally.skipped), (3, 3, 6));
    }

    #[test]
    fn a_program_that_dies_is_a_failure() {
        let (mut tally, _) = read("running 1 test\n");
        tally.finish(false);
        assert_eq!(tally.failed, 1);
        let (mut tally, _) = read(OUTPUT);
        tally.finish(false);
        assert_eq!(tally.failed, 1);
    }
}
