//! Lists one kind, then watches it from there, for ever, as a good neighbour of the API server.
//!
//! ```text
//! Start ──list──► Listed ──watch──► Watching ──end──► Listed, or Doubt where nothing was said all the while
//!   ▲                ▲                  │
//!   └──── Retry ◄────┴── refusal ◄──────┘   the version is given up only if it is lost or a line cannot be read
//! ```
//!
//! `kube`'s own watcher does much the same, but gives up the version at every refusal, lists from storage, and says
//! nothing when a broken watch is whole again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::StreamExt as _;
use tokio::sync::Notify;

use super::arrival::Arrival;
use super::ask::{Asker, Lines, Reader};
use super::backoff::Backoff;
use super::line::Line;
use super::refusal::Refusal;
use super::{Floor, News, Progress, Subject};

/// After how many seconds the server shall end a watch: by chance, so that those that began together do not end
/// together.
const WATCH: (u32, u32) = (300, 600);
/// The same for a watch after an interruption. It ends early, so the loop learns soon that the server still has the
/// version.
const FIRST_WATCH: (u32, u32) = (60, 120);
/// A watch that lasted so long went well, whatever it said.
const LIVED: Duration = Duration::from_secs(30);
/// So often in a row a server may say that it has not come as far as a version before it is taken at its word.
const PATIENCE: u32 = 3;

/// A loop that hears that the server answers again about another kind asks again within so much, by chance.
const SOON: Duration = Duration::from_secs(1);

/// What a loop hears from others.
#[derive(Clone, Debug, Default)]
pub(super) struct Signals {
    /// All objects are to be listed anew.
    pub(super) relist: Arc<Notify>,
    /// The server answers again, after an interruption, about one of the kinds that share this.
    pub(super) recovered: Arc<Notify>,
}

enum State {
    /// Nothing is known.
    Start,
    /// All is known as of a version.
    Listed { version: String },
    /// Lines come in.
    Watching { version: String, lines: Lines, since: Instant, heard: bool },
    /// A whole watch brought nothing, not even a bookmark, so the server may not have the version any more.
    Doubt { version: String },
    /// Something went wrong; what to do after a wait, which the server may have asked for.
    Retry { version: Option<String>, pause: Option<Duration> },
    /// The server does not have the kind.
    Absent,
}

/// The loop of one kind.
pub(super) struct Loop<T> {
    asker: Asker,
    name: &'static str,
    read: Reader<T>,
    progress: Box<dyn Progress>,
    /// The age that a list may have.
    floor: Floor,
    /// Consecutive responses that the server has not reached the version.
    ahead: u32,
    /// Consecutive watches that ended with an error that may concern their next event.
    spoilt: u32,
    optional: bool,
    /// Says when the server may have the kind; for optional ones.
    arrival: Arrival,
    /// The server does not have the kind, and that has been said.
    absent: bool,
    /// The last watch was interrupted or refused.
    interrupted: bool,
    state: State,
    /// The last reported state of the connection: none, connected, or an error.
    said: Option<Result<(), String>>,
    backoff: Backoff,
    /// A watch that lasted so long went well, whatever it said.
    lived: Duration,
    signals: Signals,
    ready: VecDeque<News<T>>,
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
            asker: Asker::new(client.clone(), subject),
            name: subject.resource.plural,
            read,
            floor: progress.floor(subject.resource.plural),
            progress,
            ahead: 0,
            spoilt: 0,
            optional: subject.resource.optional,
            arrival: Arrival::new(client, subject.resource),
            absent: false,
            interrupted: false,
            state: State::Start,
            said: None,
            backoff: Backoff::default(),
            lived: LIVED,
            signals,
            ready: VecDeque::new(),
        }
    }

    /// Follows a kind that a server may lack, for tests.
    #[cfg(test)]
    pub(super) fn of_an_optional_kind(self) -> Self {
        Self { optional: true, ..self }
    }

    /// Waits so many times less than another, for tests.
    #[cfg(test)]
    pub(super) fn hurried(self, times: u32) -> Self {
        Self { backoff: Backoff::hurried(times), lived: LIVED / times, ..self }
    }

    /// Waits for very long before it tries again, for tests.
    #[cfg(test)]
    pub(super) fn patient(self) -> Self {
        Self { backoff: Backoff::patient(), ..self }
    }

    /// Returns the next event.
    pub(super) async fn next(&mut self) -> News<T> {
        loop {
            if let Some(news) = self.ready.pop_front() {
                return news;
            }
            self.state = match std::mem::replace(&mut self.state, State::Start) {
                State::Start => self.list().await,
                State::Listed { version } => self.watch(version).await,
                State::Watching { version, lines, since, heard } => self.line(version, lines, since, heard).await,
                State::Doubt { version } => self.ask_again(version).await,
                State::Retry { version, pause } => {
                    self.wait(pause).await;
                    version.map_or(State::Start, |version| State::Listed { version })
                }
                State::Absent => {
                    self.arrival.wait().await;
                    State::Start
                }
            };
        }
    }

    /// Waits before the next attempt: for as long as the server asks, else until it answers about another kind again,
    /// or until the wait is over.
    async fn wait(&mut self, pause: Option<Duration>) {
        let wait = self.backoff.step(pause);
        let recovered = async {
            self.signals.recovered.notified().await;
            tokio::time::sleep(rand::random_range(Duration::ZERO..=SOON.min(wait))).await;
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = recovered, if pause.is_none() => {}
        }
    }

    async fn list(&mut self) -> State {
        let (mut objects, mut token) = (Vec::new(), None);
        loop {
            let list = match self.asker.list(&self.floor, token.as_deref(), &self.read).await {
                Ok(list) => list,
                Err(refusal) if self.optional && refusal.is_missing() => return self.absent(),
                Err(refusal) => {
                    if token.is_none() {
                        self.doubt(&refusal);
                    }
                    return self.failed(&refusal, None);
                }
            };
            objects.extend(list.objects);
            token = list.token;
            if token.is_none() {
                self.ahead = 0;
                self.absent = false;
                self.arrival.happened();
                self.reached(&list.version);
                self.ready.push_back(News::Reset(objects));
                return State::Listed { version: list.version };
            }
        }
    }

    /// Handles a refused list: the server's storage may have been reset. A server may lag behind for a while. If it
    /// says so repeatedly, or does not know the version at all, the loop requests the newest list. That is the content
    /// of its storage, and so is correct even after a reset.
    fn doubt(&mut self, refusal: &Refusal) {
        self.ahead = if refusal.is_ahead() { self.ahead + 1 } else { 0 };
        if self.floor != Floor::Newest && (refusal.is_lost() || self.ahead >= PATIENCE) {
            tracing::warn!(kind = self.name, %refusal, "the API server's storage was set back: listing what it holds \
                now");
            self.floor = Floor::Newest;
        }
    }

    /// The server does not have the kind, so there are no objects of it.
    fn absent(&mut self) -> State {
        if !self.absent {
            self.absent = true;
            self.ready.push_back(News::Reset(Vec::new()));
        }
        self.connected();
        State::Absent
    }

    async fn watch(&mut self, version: String) -> State {
        let (least, most) = if self.interrupted { FIRST_WATCH } else { WATCH };
        match self.asker.watch(&version, rand::random_range(least..=most), true).await {
            Ok(lines) => {
                self.connected();
                State::Watching { version, lines, since: Instant::now(), heard: false }
            }
            // The kind is gone; the list will report that.
            Err(refusal) if self.optional && refusal.is_missing() => State::Retry { version: None, pause: None },
            Err(refusal) => self.refused(&refusal, version),
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
            Some(Err(refusal @ Refusal::Garbled(_))) => return self.failed(&refusal, None),
            Some(Err(refusal)) => return self.refused(&refusal, version),
            None => return self.ended(version, since, heard),
        };
        let version = line.version().unwrap_or(version);
        let news = match line {
            Line::Put(object) => Some(News::Put((self.read)(&object))),
            Line::Gone(object) => Some(News::Gone((self.read)(&object))),
            Line::Mark(_) => None,
            Line::Over(refusal) => return self.over(&refusal, version),
        };
        self.backoff.reset();
        self.spoilt = 0;
        self.reached(&version);
        self.ready.extend(news);
        State::Watching { version, lines, since, heard: true }
    }

    /// The usual end of a watch.
    fn ended(&mut self, version: String, since: Instant, heard: bool) -> State {
        if since.elapsed() < self.lived {
            return State::Retry { version: Some(version), pause: None };
        }
        self.backoff.reset();
        if !heard {
            return State::Doubt { version };
        }
        self.interrupted = false;
        State::Listed { version }
    }

    /// A watch was silent from its beginning to its end. A server says now and then how far it has come, but not while
    /// it is behind the version it was asked for: so may one be whose storage was set back, and then it never says
    /// anything.
    async fn ask_again(&mut self, version: String) -> State {
        match self.asker.knows(&version).await {
            Ok(()) => {
                self.interrupted = false;
                State::Listed { version }
            }
            Err(refusal) => self.refused(&refusal, version),
        }
    }

    /// An error in the place of an event. Most are of the server's, but some are of the event, and would come for ever.
    fn over(&mut self, refusal: &Refusal, version: String) -> State {
        self.spoilt += 1;
        if self.spoilt < PATIENCE {
            return self.refused(refusal, version);
        }
        self.spoilt = 0;
        self.failed(refusal, None)
    }

    /// A watch was refused or broke off: the same one again after a wait, unless the version is lost.
    fn refused(&mut self, refusal: &Refusal, version: String) -> State {
        if refusal.is_lost() || refusal.is_ahead() {
            tracing::debug!(kind = self.name, %refusal, "the watch has expired, listing again");
            return State::Retry { version: None, pause: refusal.pause() };
        }
        self.interrupted = true;
        self.failed(refusal, Some(version))
    }

    /// Says what went wrong if it is news, and goes on after a wait: with the same watch if there is a version.
    fn failed(&mut self, refusal: &Refusal, version: Option<String>) -> State {
        let error = refusal.to_string();
        if !matches!(&self.said, Some(Err(said)) if *said == error) {
            self.said = Some(Err(error.clone()));
            self.ready.push_back(News::Disconnected(error));
        }
        State::Retry { version, pause: refusal.pause() }
    }

    fn connected(&mut self) {
        if self.said != Some(Ok(())) {
            if self.said.replace(Ok(())).is_some() {
                self.signals.recovered.notify_waiters();
            }
            self.ready.push_back(News::Connected);
        }
    }

    /// Records that everything up to a version is about to be delivered, so that later lists must not be older.
    fn reached(&mut self, version: &str) {
        self.progress.reached(self.name, version);
        self.floor = Floor::NotOlderThan(version.to_owned());
    }
}
