//! The measured figures, and their output.

use std::io::{self, Write as _};
use std::time::Duration;

/// One measured quantity.
pub(crate) struct Figure {
    name: String,
    unit: &'static str,
    p50: f64,
    p99: f64,
    target: Option<f64>,
}

impl Figure {
    /// One value.
    pub(crate) fn single(name: String, unit: &'static str, value: f64, target: Option<f64>) -> Self {
        Self { name, unit, p50: value, p99: value, target }
    }

    /// Percentiles of times, in milliseconds (`ms`) or microseconds.
    pub(crate) fn times(name: String, unit: &'static str, mut times: Vec<Duration>, target: Option<f64>) -> Self {
        times.sort_unstable();
        let scale = if unit == "ms" { 1e3 } else { 1e6 };
        let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * scale;
        Self { name, unit, p50: at(50), p99: at(99), target }
    }

    fn json(&self) -> String {
        let Self { name, unit, p50, p99, target } = self;
        let target = target.map_or_else(|| "null".to_owned(), |target| target.to_string());
        format!(r#"{{"name":"{name}","unit":"{unit}","p50":{p50:.3},"p99":{p99:.3},"target":{target}}}"#)
    }
}

/// Writes figures to the standard output.
pub(crate) fn print(figures: &[Figure], json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        let lines: Vec<_> = figures.iter().map(Figure::json).collect();
        return writeln!(out, "[{}]", lines.join(","));
    }
    writeln!(out, "{:<58} {:>10} {:>10} {:>10}", "", "P50", "P99", "target")?;
    for Figure { name, unit, p50, p99, target } in figures {
        let target = target.map(|target| format!("< {target} {unit}")).unwrap_or_default();
        writeln!(out, "{name:<58} {p50:>7.1} {unit:<2} {p99:>7.1} {unit:<2} {target:>10}")?;
    }
    Ok(())
}
