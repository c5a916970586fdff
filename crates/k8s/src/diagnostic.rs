//! Diagnostics of objects: object, place, reason and hint.

use std::fmt;
use std::sync::Arc;

use crate::path::FieldPath;

/// The severity of a diagnostic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Legal, but perhaps not what was meant; or something left aside.
    Warning,
    /// Not understood, or refused by an API server.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// The reason of a diagnostic, as one word for conditions, events and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// A field, or a kind of peer or protocol, that this version does not know.
    UnknownField,
    /// An action that this version does not know.
    UnknownAction,
    /// Domain names in a rule that does not accept.
    DomainNamesNotAccepted,
    /// Named ports together with addresses, which have none.
    NamedPortOfAddresses,
    /// Any other thing that is not understood.
    Invalid,
    /// Legal, but perhaps not what was meant.
    Doubtful,
}

/// As Kubernetes writes reasons: in camel case.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    /// The file as it was named; `-` for the standard input.
    pub file: Arc<str>,
    /// Line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return f.write_str(&self.file);
        }
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One thing to say about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The severity.
    pub severity: Severity,
    /// The reason.
    pub reason: Reason,
    /// The place, if the object comes from a file.
    pub location: Option<Location>,
    /// The object: `NetworkPolicy shop/allow-web`. None where no object could be read.
    pub object: Option<String>,
    /// The field; empty for the whole object.
    pub path: FieldPath,
    /// The problem and its consequence.
    pub message: String,
    /// A remedy.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// A diagnostic that says only this.
    pub fn new(severity: Severity, message: impl Into<String>) -> Self {
        let reason = match severity {
            Severity::Warning => Reason::Doubtful,
            Severity::Error => Reason::Invalid,
        };
        let (location, object, hint) = (None, None, None);
        Self { severity, reason, location, object, path: FieldPath::default(), message: message.into(), hint }
    }

    /// Names the object.
    #[must_use]
    pub fn object(mut self, object: impl Into<String>) -> Self {
        self.object = Some(object.into());
        self
    }

    /// Names the field.
    #[must_use]
    pub fn path(mut self, path: FieldPath) -> Self {
        self.path = path;
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// One line: `file:line:column: error: NetworkPolicy shop/allow: spec.ingress[0]: message (hint: …)`.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        write!(f, "{}: ", self.severity)?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.path.is_root() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}
