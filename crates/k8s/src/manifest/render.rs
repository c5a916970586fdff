//! Diagnostics for people: the line of the file with a mark under it.

use std::io;

use super::Manifests;
use crate::diagnostic::Diagnostic;

impl Manifests {
    /// Writes every diagnostic.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn render(&self, out: &mut impl io::Write) -> io::Result<()> {
        self.diagnostics.iter().try_for_each(|diagnostic| self.render_one(diagnostic, out))
    }

    /// Writes one diagnostic: place, severity, object and message; the line it is about; what to do.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn render_one(&self, diagnostic: &Diagnostic, out: &mut impl io::Write) -> io::Result<()> {
        let mut head = diagnostic.clone();
        let hint = head.hint.take();
        let line = diagnostic.location.as_ref().filter(|location| location.line > 0).and_then(|location| {
            let text = self.source(&location.file)?.lines().nth(location.line - 1)?;
            Some((location, text))
        });
        writeln!(out, "{head}")?;
        if let Some((location, text)) = line {
            let number = location.line.to_string();
            // Tabs are kept, so that the mark is below its character.
            let before = text.chars().take(location.column.saturating_sub(1));
            let indent: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            writeln!(out, "{number} | {text}")?;
            writeln!(out, "{:1$} | {indent}^", "", number.len())?;
        }
        match hint {
            Some(hint) => writeln!(out, "hint: {hint}"),
            None => Ok(()),
        }
    }
}
