//! Lists one kind and then watches it, with little load on the API server.
//!
//! ```text
//! Start ──list──► Listed ──watch──► Watching ──end──► Listed, or Silent where nothing was said all the while
//!   ▲                ▲                  │
//!   └──── Retry ◄────┴── error ◄────────┘   the version is given up only if it is lost or a line cannot be read
//! ```
//!
//! `kube`'s own watcher does much the same. But it drops the version after every error, lists from storage, and does
//! not report when a broken watch works again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::StreamExt as _;
use tokio::sync::Notify;

use super::backoff::Backoff;
use super::kind_waiter::KindWaiter;
use super::request_error::RequestError;
use super::requests::{Lines, Reader, ResourceClient};
use super::watch_line::WatchLine;
use super::{Floor, Progress, Subject, Update};

/// Duration of a watch in seconds. It is chosen at random, so that watches that began together do not end together.
const WATCH: (u32, u32) = (300, 600);
/// The same for a watch after an interruption. It ends early, so the loop learns soon that the server still has the
/// version.
const FIRST_WATCH: (u32, u32) = (60, 120);
/// A watch of this duration counts as a success, even without events.
const HEALTHY_DURATION: Duration = Duration::from_secs(30);
/// Number of equal errors in a row after which an error is not considered temporary.
const MAX_ERRORS: u32 = 3;

/// A loop retries within this time, chosen at random, after the server has answered about another kind again.
const RECOVERY_JITTER: Duration = Duration::from_secs(1);

/// Signals between the loops of several kinds.
#[derive(Clone, Debug, Default)]
pub(super) struct Signals {
    /// All objects have to be listed again.
    pub(super) relist: Arc<Notify>,
    /// The server answers again, after an interruption, about one of these kinds.
    pub(super) recovered: Arc<Notify>,
}

enum State {
    /// Nothing has been listed.
    Start,
    /// Everything up to a version has been listed or watched.
    Listed { version: String },
    /// A watch is running.
    Watching { version: String, lines: Lines, since: Instant, heard: bool },
    /// A whole watch brought nothing, not even a bookmark, so the server may not have the version any more.
    Silent { version: String },
    /// An error occurred. The next attempt follows after a wait, which the server may have asked for.
    Retry { version: Option<String>, pause: Option<Duration> },
    /// The server does not have the kind.
    Absent,
}

/// The loop of one kind.
pub(super) struct Loop<T> {
    resource_client: ResourceClient,
    name: &'static str,
    read: Reader<T>,
    progress: Box<dyn Progress>,
    /// The age that a list may have.
    floor: Floor,
    /// Consecutive responses that the server has not reached the version.
    ahead: u32,
    /// Consecutive watches that ended with an error that may concern their next event.
    error_events: u32,
    optional: bool,
    /// Waits for an optional kind that the server does not have.
    kind_waiter: KindWaiter,
    /// True if the server does not have the kind and this has been reported.
    absent: bool,
    /// True if the last watch was interrupted or refused.
    interrupted: bool,
    state: State,
    /// The last reported state of the connection: none, connected, or an error.
    reported: Option<Result<(), String>>,
    backoff: Backoff,
    /// A watch of this duration counts as a success, even without events.
    healthy_duration: Duration,
    signals: Signals,
    ready: VecDeque<Update<T>>,
}

impl<T: Send + 'static> Loop<T> {
    pub(super) fn new(
        client: kube::Client,
        subject: &Subject,
        progress: Box<dyn Progress>,
        read: Reader<T>,
        signals: Signals,
    ) -> Self {
        Self {
            resource_client: ResourceClient::new(client.clone(), subject),
            name: subject.resource.plural,
            read,
            floor: progress.floor(subject.resource.plural),
            progress,
            ahead: 0,
            error_events: 0,
            optional: subject.resource.optional,
            kind_waiter: KindWaiter::new(client, subject.resource),
            absent: false,
            interrupted: false,
            state: State::Start,
            reported: None,
            backoff: Backoff::default(),
            healthy_duration: HEALTHY_DURATION,
            signals,
            ready: VecDeque::new(),
        }
    }

    /// Makes the kind optional, for tests.
    #[cfg(test)]
    pub(super) fn of_an_optional_kind(self) -> Self {
        Self { optional: true, ..self }
    }

    /// Divides all waits by a factor, for tests.
    #[cfg(test)]
    pub(super) fn hurried(self, times: u32) -> Self {
        Self { backoff: Backoff::hurried(times), healthy_duration: HEALTHY_DURATION / times, ..self }
    }

    /// Retries after up to an hour only, for tests.
    #[cfg(test)]
    pub(super) fn patient(self) -> Self {
        Self { backoff: Backoff::patient(), ..self }
    }

    /// Returns the next event.
    pub(super) async fn next(&mut self) -> Update<T> {
        loop {
            if let Some(update) = self.ready.pop_front() {
                return update;
            }
            self.state = match std::mem::replace(&mut self.state, State::Start) {
                State::Start => self.list().await,
                State::Listed { version } => self.watch(version).await,
                State::Watching { version, lines, since, heard } => self.line(version, lines, since, heard).await,
                State::Silent { version } => self.check_version(version).await,
                State::Retry { version, pause } => {
                    self.wait(pause).await;
                    version.map_or(State::Start, |version| State::Listed { version })
                }
                State::Absent => {
                    self.kind_waiter.wait().await;
                    State::Start
                }
            };
        }
    }

    /// Waits before the next attempt. If the server asked for a pause, for that time. Else until the back-off ends, or
    /// the server answers about another kind again.
    async fn wait(&mut self, pause: Option<Duration>) {
        let wait = self.backoff.step(pause);
        let recovered = async {
            self.signals.recovered.notified().await;
            tokio::time::sleep(rand::random_range(Duration::ZERO..=RECOVERY_JITTER.min(wait))).await;
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = recovered, if pause.is_none() => {}
        }
    }

    async fn list(&mut self) -> State {
        let (mut objects, mut token) = (Vec::new(), None);
        loop {
            let list = match self.resource_client.list(&self.floor, token.as_deref(), &self.read).await {
                Ok(list) => list,
                Err(error) if self.optional && error.is_missing() => return self.absent(),
                Err(error) => {
                    if token.is_none() {
                        self.check_reset(&error);
                    }
                    return self.failed(&error, None);
                }
            };
            objects.extend(list.objects);
            token = list.token;
            if token.is_none() {
                self.ahead = 0;
                self.absent = false;
                self.kind_waiter.reset();
                self.reached(&list.version);
                self.ready.push_back(Update::Reset(objects));
                return State::Listed { version: list.version };
            }
        }
    }

    /// Handles a refused list: the server's storage may have been reset. A server may lag behind for a while. If it
    /// says so repeatedly, or does not know the version at all, the loop requests the newest list. That is the content
    /// of its storage, and so is correct even after a reset.
    fn check_reset(&mut self, error: &RequestError) {
        self.ahead = if error.is_ahead() { self.ahead + 1 } else { 0 };
        if self.floor != Floor::Newest && (error.is_lost() || self.ahead >= MAX_ERRORS) {
            tracing::warn!(kind = self.name, %error, "the API server's storage was reset: listing its current content");
            self.floor = Floor::Newest;
        }
    }

    /// The server does not have the kind, so there are no objects of it.
    fn absent(&mut self) -> State {
        if !self.absent {
            self.absent = true;
            self.ready.push_back(Update::Reset(Vec::new()));
        }
        self.connected();
        State::Absent
    }

    async fn watch(&mut self, version: String) -> State {
        let (least, most) = if self.interrupted { FIRST_WATCH } else { WATCH };
        match self.resource_client.watch(&version, rand::random_range(least..=most), true).await {
            Ok(lines) => {
                self.connected();
                State::Watching { version, lines, since: Instant::now(), heard: false }
            }
            // The kind is gone; the list will report that.
            Err(error) if self.optional && error.is_missing() => State::Retry { version: None, pause: None },
            Err(error) => self.refused(&error, version),
        }
    }

    async fn line(&mut self, version: String, mut lines: Lines, since: Instant, heard: bool) -> State {
        let line = tokio::select! {
            line = lines.next() => line,
            () = self.signals.relist.notified() => return State::Start,
        };
        let line = match line {
            Some(Ok(line)) => line,
            // The line may have been an event, so only a new list is complete.
            Some(Err(error @ RequestError::Malformed(_))) => return self.failed(&error, None),
            Some(Err(error)) => return self.refused(&error, version),
            None => return self.ended(version, since, heard),
        };
        let version = line.version().unwrap_or(version);
        let update = match line {
            WatchLine::Apply(object) => Some(Update::Apply((self.read)(&object))),
            WatchLine::Delete(object) => Some(Update::Delete((self.read)(&object))),
            WatchLine::Bookmark(_) => None,
            WatchLine::Error(error) => return self.error_event(&error, version),
        };
        self.backoff.reset();
        self.error_events = 0;
        self.reached(&version);
        self.ready.extend(update);
        State::Watching { version, lines, since, heard: true }
    }

    /// The usual end of a watch.
    fn ended(&mut self, version: String, since: Instant, heard: bool) -> State {
        if since.elapsed() < self.healthy_duration {
            return State::Retry { version: Some(version), pause: None };
        }
        self.backoff.reset();
        if !heard {
            return State::Silent { version };
        }
        self.interrupted = false;
        State::Listed { version }
    }

    /// Checks a version after a watch without any line. A server sends bookmarks from time to time, but not while it is
    /// behind the requested version. A server whose storage was reset may stay behind for ever.
    async fn check_version(&mut self, version: String) -> State {
        match self.resource_client.has_reached(&version).await {
            Ok(()) => {
                self.interrupted = false;
                State::Listed { version }
            }
            Err(error) => self.refused(&error, version),
        }
    }

    /// Handles an error in place of an event. Most errors concern the server, but some concern the event, and would
    /// recur in every watch.
    fn error_event(&mut self, error: &RequestError, version: String) -> State {
        self.error_events += 1;
        if self.error_events < MAX_ERRORS {
            return self.refused(error, version);
        }
        self.error_events = 0;
        self.failed(error, None)
    }

    /// Handles a watch that was refused or broken. It is repeated after a wait, unless the version is lost.
    fn refused(&mut self, error: &RequestError, version: String) -> State {
        if error.is_lost() || error.is_ahead() {
            tracing::debug!(kind = self.name, %error, "the watch has expired, listing again");
            return State::Retry { version: None, pause: error.pause() };
        }
        self.interrupted = true;
        self.failed(error, Some(version))
    }

    /// Reports an error unless the same one was reported last. Waits and then continues: with a watch if there is a
    /// version, else with a list.
    fn failed(&mut self, error: &RequestError, version: Option<String>) -> State {
        let text = error.to_string();
        if !matches!(&self.reported, Some(Err(last)) if *last == text) {
            self.reported = Some(Err(text.clone()));
            self.ready.push_back(Update::Disconnected(text));
        }
        State::Retry { version, pause: error.pause() }
    }

    fn connected(&mut self) {
        if self.reported != Some(Ok(())) {
            if self.reported.replace(Ok(())).is_some() {
                self.signals.recovered.notify_waiters();
            }
            self.ready.push_back(Update::Connected);
        }
    }

    /// Records that everything up to a version is about to be delivered, so that later lists must not be older.
    fn reached(&mut self, version: &str) {
        self.progress.reached(self.name, version);
        self.floor = Floor::NotOlderThan(version.to_owned());
    }
}
