//! The loop of every controller: changes name the objects to look at again, each is looked at once for all of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Cluster;
use crate::api::status::ApiError;
use crate::store::{Key, Scope, Signal};

/// Time to wait before trying again what failed.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// One object before and after a change; after, none if it is gone; before, none if it is new.
pub(super) struct Seen<'a> {
    pub(super) key: &'a Key,
    pub(super) old: Option<&'a Value>,
    pub(super) new: Option<&'a Value>,
}

impl<'a> Seen<'a> {
    /// The object as it is, or was last.
    pub(super) fn object(&self) -> &'a Value {
        self.new.or(self.old).unwrap_or(&Value::Null)
    }
}

/// A controller: what to look at after a change, and what to do about it.
pub(super) trait Controller: Send + Sync + 'static {
    /// As logs name it.
    const NAME: &'static str;

    /// The keys to reconcile because of a change.
    fn affected(&self, cluster: &Cluster, seen: &Seen<'_>) -> Vec<Key>;

    /// Makes true what an object says. Asked for again after the answered time, if any.
    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Option<Duration>, ApiError>;
}

/// Starts a controller. One that panics is started again: an object that nobody foresaw must not stop the others.
pub(super) fn spawn<C: Controller>(cluster: &Cluster, controller: C, stop: &CancellationToken) {
    let (cluster, stop, controller) = (cluster.clone(), stop.clone(), Arc::new(controller));
    tokio::spawn(async move {
        loop {
            let task = tokio::spawn(run(cluster.clone(), Arc::clone(&controller)));
            let abort = task.abort_handle();
            tokio::select! {
                () = stop.cancelled() => return abort.abort(),
                ended = task => if let Err(error) = ended {
                    tracing::error!(controller = C::NAME, %error, "a controller failed and begins anew");
                }
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    });
}

#[derive(Default)]
struct Queue {
    now: BTreeSet<Key>,
    later: BTreeSet<(Instant, Key)>,
    /// When each key of `later` is due: each is there once.
    due: HashMap<Key, Instant>,
}

impl Queue {
    fn after(&mut self, delay: Duration, key: Key) {
        let due = Instant::now() + delay;
        match self.due.get(&key) {
            Some(known) if *known <= due => return,
            Some(known) => drop(self.later.remove(&(*known, key.clone()))),
            None => {}
        }
        self.due.insert(key.clone(), due);
        self.later.insert((due, key));
    }

    /// The next key that is due.
    fn next(&mut self) -> Option<Key> {
        while self.later.first().is_some_and(|(due, _)| *due <= Instant::now())
            && let Some((_, key)) = self.later.pop_first()
        {
            self.due.remove(&key);
            self.now.insert(key);
        }
        self.now.pop_first()
    }

    /// When the next key will be due.
    fn due(&self) -> Instant {
        self.later.first().map_or_else(|| Instant::now() + Duration::from_hours(1), |(due, _)| *due)
    }
}

async fn run<C: Controller>(cluster: Cluster, controller: Arc<C>) {
    let (cluster, controller) = (&cluster, &*controller);
    let mut queue = Queue::default();
    // A controller that lagged too far behind is cut off by the store, and begins anew.
    loop {
        let (objects, mut watch) = cluster.registry.store.list_and_watch(&Scope::default());
        for (key, object) in &objects {
            queue.now.extend(controller.affected(cluster, &Seen { key, old: None, new: Some(object) }));
        }
        drop(objects);
        loop {
            while let Some(key) = queue.next() {
                reconcile(cluster, controller, &mut queue, key);
                while let Ok(signal) = watch.receiver.try_recv() {
                    take(cluster, controller, &mut queue, &signal);
                }
                tokio::task::yield_now().await;
            }
            tokio::select! {
                signal = watch.receiver.recv() => match signal {
                    Some(signal) => take(cluster, controller, &mut queue, &signal),
                    None => break,
                },
                () = tokio::time::sleep_until(queue.due()) => {}
            }
        }
    }
}

fn take<C: Controller>(cluster: &Cluster, controller: &C, queue: &mut Queue, signal: &Signal) {
    let Signal::Change(change) = signal else { return };
    let new = (change.event != crate::store::EventType::Deleted).then_some(&*change.object);
    let seen = Seen { key: &change.key, old: change.old.as_deref(), new };
    queue.now.extend(controller.affected(cluster, &seen));
}

fn reconcile<C: Controller>(cluster: &Cluster, controller: &C, queue: &mut Queue, key: Key) {
    match controller.reconcile(cluster, &key) {
        Ok(None) => {}
        Ok(Some(delay)) => queue.after(delay, key),
        Err(error) if error.is_not_found() => {}
        Err(error) => {
            tracing::debug!(controller = C::NAME, ?key, %error, "will try again");
            queue.after(RETRY_INTERVAL, key);
        }
    }
}
