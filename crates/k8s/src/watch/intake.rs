//! Callbacks by which the owner of the objects limits the memory for them.

use std::fmt;
use std::sync::Arc;

use ringfence_model::Object;
use tokio::sync::Notify;

use crate::diagnostic::Diagnostic;

/// Diagnostics per object. Further ones are counted only.
const MAX_DIAGNOSTICS: usize = 16;

/// Decides about objects between the API server and the memory of their owner.
#[derive(Clone)]
pub struct Intake {
    /// Called with each object as it is read, before it is stored anywhere. Returns the object to store. It is called
    /// for a deleted object too, before [`super::Event::Delete`].
    pub admit: Arc<dyn Fn(Object) -> Object + Send + Sync>,
    /// Lists the NetworkPolicies again when it is notified.
    pub relist: Arc<Notify>,
}

/// Stores everything unchanged.
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

/// The first diagnostics about an object, and the number of the others. So an object with thousands of unknown fields
/// needs no more memory than others, and no more lines of the log.
pub(super) fn first_few(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let Some(more @ 1..) = diagnostics.len().checked_sub(MAX_DIAGNOSTICS) else { return diagnostics };
    // An error means that something is not enforced as written, so errors come before warnings.
    diagnostics.sort_by_key(|diagnostic| std::cmp::Reverse(diagnostic.severity));
    diagnostics.truncate(MAX_DIAGNOSTICS);
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
        assert_eq!((kept.len(), &*kept[0].message), (MAX_DIAGNOSTICS, "no. 5000"));
        assert_eq!(kept[15].message, "no. 14; and 4985 more such things in this object");
        assert_eq!(
            first_few(vec![one(Severity::Warning, 1); MAX_DIAGNOSTICS]),
            vec![one(Severity::Warning, 1); MAX_DIAGNOSTICS]
        );
    }
}
