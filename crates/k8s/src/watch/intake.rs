//! The say that whoever keeps the objects has in the watches, so that what is kept stays within bounds.

use std::fmt;
use std::sync::Arc;

use ringfence_model::Object;
use tokio::sync::Notify;

use crate::diagnostic::Diagnostic;

/// Diagnostics about one object that are kept; the others are counted.
const MOST_SAID: usize = 16;

/// Stands between what is read from the API server and what is kept of it.
#[derive(Clone)]
pub struct Intake {
    /// Takes each object as it is read, before it is kept anywhere, and gives back what is to be kept. It is called for
    /// an object that is gone too, before [`super::Event::Delete`] comes.
    pub admit: Arc<dyn Fn(Object) -> Object + Send + Sync>,
    /// Once this is notified, NetworkPolicies are listed anew.
    pub relist: Arc<Notify>,
}

/// Keeps everything.
impl Default for Intake {
    fn default() -> Self {
        Self { admit: Arc::new(|object| object), relist: Arc::default() }
    }
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake").finish_non_exhaustive()
    }
}

/// The first diagnostics about an object, and how many more there are: an object of thousands of fields that are not
/// understood takes up no more memory than others, nor more of the log.
pub(super) fn first_few(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let Some(more @ 1..) = diagnostics.len().checked_sub(MOST_SAID) else { return diagnostics };
    // Errors say that something is not enforced as written: none of those may give way to a warning.
    diagnostics.sort_by_key(|diagnostic| std::cmp::Reverse(diagnostic.severity));
    diagnostics.truncate(MOST_SAID);
    if let Some(last) = diagnostics.last_mut() {
        last.message = format!("{}; and {more} more such things in this object", last.message);
    }
    diagnostics.shrink_to_fit();
    diagnostics
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Severity;

    #[test]
    fn of_thousands_of_diagnostics_the_worst_are_kept_and_the_others_counted() {
        let one = |severity, number: usize| Diagnostic::new(severity, format!("no. {number}"));
        let mut many: Vec<_> = (0..5000).map(|number| one(Severity::Warning, number)).collect();
        many.push(one(Severity::Error, 5000));
        let kept = first_few(many);
        assert_eq!((kept.len(), &*kept[0].message), (MOST_SAID, "no. 5000"));
        assert_eq!(kept[15].message, "no. 14; and 4985 more such things in this object");
        assert_eq!(first_few(vec![one(Severity::Warning, 1); MOST_SAID]), vec![one(Severity::Warning, 1); MOST_SAID]);
    }
}
