//! Results of the cases: a summary, and JUnit's XML.

use std::fmt::Write as _;
use std::time::Duration;

/// Result of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All was as it must be.
    Passed,
    /// The connections that were decided wrongly.
    Failed(Vec<String>),
    /// It was not tried, and why.
    Skipped(String),
}

impl Outcome {
    /// One word, always as long.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Passed => "ok     ",
            Self::Failed(_) => "FAILED ",
            Self::Skipped(_) => "skipped",
        }
    }

    /// Its lines.
    pub fn lines(&self) -> &[String] {
        match self {
            Self::Passed => &[],
            Self::Failed(lines) => lines,
            Self::Skipped(why) => std::slice::from_ref(why),
        }
    }
}

/// Result of all cases.
#[derive(Clone, Debug, Default)]
pub struct Report {
    cases: Vec<(String, Duration, Outcome)>,
}

impl Report {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes what came of a case, and what time it took.
    pub fn add(&mut self, name: &str, took: Duration, outcome: Outcome) {
        self.cases.push((name.to_owned(), took, outcome));
    }

    fn count(&self, which: fn(&Outcome) -> bool) -> usize {
        self.cases.iter().filter(|(_, _, outcome)| which(outcome)).count()
    }

    /// True if nothing failed.
    pub fn passed(&self) -> bool {
        self.count(|outcome| matches!(outcome, Outcome::Failed(_))) == 0
    }

    /// One line that sums up.
    pub fn summary(&self) -> String {
        let passed = self.count(|outcome| matches!(outcome, Outcome::Passed));
        let failed = self.count(|outcome| matches!(outcome, Outcome::Failed(_)));
        let skipped = self.count(|outcome| matches!(outcome, Outcome::Skipped(_)));
        let took: Duration = self.cases.iter().map(|(_, took, _)| *took).sum();
        format!("{passed} passed, {failed} failed, {skipped} skipped in {:.0} s", took.as_secs_f64())
    }

    /// The form that build servers read.
    pub fn junit(&self) -> String {
        let failed = self.count(|outcome| matches!(outcome, Outcome::Failed(_)));
        let skipped = self.count(|outcome| matches!(outcome, Outcome::Skipped(_)));
        let took: Duration = self.cases.iter().map(|(_, took, _)| *took).sum();
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        // Writing to a string does not fail.
        let _ = writeln!(
            xml,
            "<testsuite name=\"ringfence verify\" tests=\"{}\" failures=\"{failed}\" errors=\"0\" \
             skipped=\"{skipped}\" time=\"{:.3}\">",
            self.cases.len(),
            took.as_secs_f64()
        );
        for (name, took, outcome) in &self.cases {
            let inside = match outcome {
                Outcome::Passed => String::new(),
                Outcome::Failed(lines) => format!("<failure>{}</failure>", escape(&lines.join("\n"))),
                Outcome::Skipped(why) => format!("<skipped message=\"{}\"/>", escape(why)),
            };
            let (name, took) = (escape(name), took.as_secs_f64());
            let _ = writeln!(
                xml,
                "  <testcase classname=\"verify\" name=\"{name}\" time=\"{took:.3}\">{inside}</testcase>"
            );
        }
        xml + "</testsuite>\n"
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML has no way to write other control characters.
            c if c.is_control() && !matches!(c, '\n' | '\t') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn junit_counts_and_escapes() {
        let mut report = Report::new();
        report.add("one", Duration::from_millis(1500), Outcome::Passed);
        report.add("two", Duration::ZERO, Outcome::Failed(vec!["a < \"b\" & c\u{1}".into()]));
        report.add("three", Duration::ZERO, Outcome::Skipped("no such kind".into()));
        let xml = report.junit();
        assert!(xml.contains("tests=\"3\" failures=\"1\" errors=\"0\" skipped=\"1\" time=\"1.500\""), "{xml}");
        assert!(xml.contains("<failure>a &lt; &quot;b&quot; &amp; c\u{fffd}</failure>"), "{xml}");
        assert_eq!(report.summary(), "1 passed, 1 failed, 1 skipped in 2 s");
        assert!(!report.passed());
    }
}
