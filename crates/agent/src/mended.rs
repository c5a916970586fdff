//! Components that other programs on the node undid, and their repairs: found and mended, or found and still broken.
//!
//! Whoever of the agent looks after something (pins, tables, the network configuration) says so here. Status, metrics
//! and readiness tell it: what is broken makes the node not ready until it is whole again.

use std::collections::BTreeMap;

use jiff::Timestamp;
use parking_lot::Mutex;

use ringfence_api as api;

/// The account of all that was found.
#[derive(Debug, Default)]
pub(crate) struct Mended(Mutex<BTreeMap<&'static str, Account>>);

/// Record of one component.
#[derive(Debug, Default)]
struct Account {
    /// Number of repairs.
    count: u64,
    /// When, and what was found, the last time.
    last: Option<(Timestamp, String)>,
    /// The reason why it is broken now, if it is.
    broken: Option<String>,
}

impl Mended {
    /// Something was found undone, and is as it should be again. `what` is a word for metrics, such as `pins`; `found`
    /// is a sentence without its end, such as "the pin of a link was removed; it is pinned again".
    pub(crate) fn mended(&self, what: &'static str, found: impl Into<String>) {
        self.mended_all(what, 1, found);
    }

    /// The same, of several things at once.
    pub(crate) fn mended_all(&self, what: &'static str, count: usize, found: impl Into<String>) {
        let found = found.into();
        tracing::warn!(what, "{found}");
        let mut accounts = self.0.lock();
        let account = accounts.entry(what).or_default();
        account.count += count as u64;
        account.last = Some((Timestamp::now(), found));
        account.broken = None;
    }

    /// Something is not as it should be, and nobody here can help it yet.
    pub(crate) fn broken(&self, what: &'static str, why: impl Into<String>) {
        let why = why.into();
        let mut accounts = self.0.lock();
        let account = accounts.entry(what).or_default();
        if account.broken.as_ref() != Some(&why) {
            tracing::error!(what, "{why}");
            account.broken = Some(why);
        }
    }

    /// Something was looked at and is as it should be. Nothing is counted: whoever mended it says so by
    /// [`Self::mended`].
    pub(crate) fn whole(&self, what: &'static str) {
        if let Some(account) = self.0.lock().get_mut(what)
            && account.broken.take().is_some()
        {
            tracing::info!(what, "as it should be again");
        }
    }

    /// Components that are broken now, as sentences.
    pub(crate) fn troubles(&self) -> Vec<String> {
        self.0.lock().values().filter_map(|account| account.broken.clone()).collect()
    }

    /// Repairs since the agent started, by component.
    pub(crate) fn repairs(&self) -> Vec<api::Repair> {
        let accounts = self.0.lock();
        let repair = |(what, account): (&&str, &Account)| {
            let (time, found) = account.last.as_ref()?;
            Some(api::Repair {
                component: (*what).to_owned(),
                count: account.count,
                last: time.to_string(),
                found: found.clone(),
            })
        };
        accounts.iter().filter_map(repair).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mended_is_counted_and_what_is_broken_stands_until_it_is_whole() {
        let mended = Mended::default();
        mended.broken("pins", "cannot pin");
        assert_eq!((mended.troubles(), mended.repairs()), (vec!["cannot pin".to_owned()], vec![]));
        mended.whole("pins");
        assert_eq!((mended.troubles().len(), mended.repairs().len()), (0, 0));
        mended.broken("pins", "cannot pin");
        mended.mended("pins", "a pin was removed");
        mended.mended("pins", "two pins were removed");
        mended.whole("tables");
        let repairs = mended.repairs();
        assert_eq!((mended.troubles().len(), repairs.len()), (0, 1));
        assert_eq!(
            (&*repairs[0].component, repairs[0].count, &*repairs[0].found),
            ("pins", 2, "two pins were removed")
        );
        assert!(repairs[0].last.parse::<Timestamp>().is_ok());
    }
}
