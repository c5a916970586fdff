//! Lists one kind, then watches it from there, for ever.
//!
//! `kube`'s own watcher does the same but says nothing when a broken watch is whole again, and keeps asking for a
//! resource version that a restarted server has never heard of. Here any error the server answers with leads to a
//! fresh list, an error on the way leads to the same watch again, and the end of a watch is no error.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures::stream::{BoxStream, StreamExt as _};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Client};

use super::Event;
use super::arrival::Arrival;
use super::backoff::Backoff;
use super::raw::Raw;
use crate::convert::Kind;

/// Objects asked for at a time.
const PAGE: u32 = 500;
/// After this the server ends a watch, in seconds; the loop then starts the next one.
const WATCH_SECONDS: u32 = 290;
/// After this a watch without a word, not even its end, is taken for dead.
const SILENCE: Duration = Duration::from_secs(295);
/// How long the server may take to begin its answer to a watch, or to answer a list.
const ANSWER: Duration = Duration::from_mins(1);
/// A watch that ends sooner without a word counts as a failure.
const SHORT: Duration = Duration::from_secs(1);

type Lines = BoxStream<'static, kube::Result<WatchEvent<Raw>>>;

enum State {
    /// Nothing is known.
    Start,
    /// All is known as of a resource version.
    Listed { version: String },
    /// Lines come in.
    Watching { version: String, lines: Lines, since: Instant },
    /// Something went wrong; what to do after a wait.
    Retry { version: Option<String> },
    /// The server does not have the kind.
    Absent,
}

/// The loop of one kind.
pub(super) struct Loop {
    api: Api<Raw>,
    kind: Kind,
    optional: bool,
    /// Says when the server may have the kind; for optional ones.
    arrival: Arrival,
    /// The server does not have the kind, and that has been said.
    absent: bool,
    state: State,
    /// What was said last about the connection: nothing, fine, or an error.
    said: Option<Result<(), String>>,
    backoff: Backoff,
    ready: VecDeque<Event>,
}

impl Loop {
    pub(super) fn new(client: Client, kind: Kind) -> Self {
        let resource = kind.resource();
        Self {
            api: Api::all_with(client.clone(), &Raw::resource(resource)),
            kind,
            optional: resource.optional,
            arrival: Arrival::new(client, resource),
            absent: false,
            state: State::Start,
            said: None,
            backoff: Backoff::new(),
            ready: VecDeque::new(),
        }
    }

    /// The next event.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            self.state = match std::mem::replace(&mut self.state, State::Start) {
                State::Start => self.list().await,
                State::Listed { version } => self.watch(version).await,
                State::Watching { version, lines, since } => self.line(version, lines, since).await,
                State::Retry { version } => {
                    tokio::time::sleep(self.backoff.step()).await;
                    version.map_or(State::Start, |version| State::Listed { version })
                }
                State::Absent => {
                    self.arrival.wait().await;
                    State::Start
                }
            };
        }
    }

    async fn list(&mut self) -> State {
        let (mut objects, mut diagnostics) = (Vec::new(), Vec::new());
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let list = match in_time(self.api.list(&page)).await {
                Ok(list) => list,
                Err(kube::Error::Api(status)) if self.optional && status.code == 404 => return self.absent(),
                Err(error) => return self.failed(&error, None),
            };
            for object in &list.items {
                let (object, about) = self.kind.convert(&object.value);
                objects.push(object);
                diagnostics.extend(about);
            }
            let version = list.metadata.resource_version.unwrap_or_default();
            page.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
            if page.continue_token.is_none() {
                self.backoff.reset();
                self.arrival.happened();
                self.absent = false;
                self.reset(objects, diagnostics);
                return State::Listed { version };
            }
        }
    }

    /// The server does not have the kind, so there are no objects of it.
    fn absent(&mut self) -> State {
        if !self.absent {
            self.absent = true;
            self.reset(Vec::new(), Vec::new());
        }
        self.connected();
        State::Absent
    }

    async fn watch(&mut self, version: String) -> State {
        let parameters = WatchParams { bookmarks: true, timeout: Some(WATCH_SECONDS), ..WatchParams::default() };
        match in_time(self.api.watch(&parameters, &version)).await {
            Ok(lines) => {
                self.connected();
                State::Watching { version, lines: lines.boxed(), since: Instant::now() }
            }
            // The server does not know the version: it is too old, or the server is another one.
            Err(kube::Error::Api(status)) if matches!(status.code, 410 | 504) => self.expired(),
            // The kind is gone: the list will say so.
            Err(kube::Error::Api(status)) if self.optional && status.code == 404 => State::Retry { version: None },
            Err(error @ kube::Error::Api(_)) => self.failed(&error, None),
            Err(error) => self.failed(&error, Some(version)),
        }
    }

    async fn line(&mut self, version: String, mut lines: Lines, since: Instant) -> State {
        let next = tokio::time::timeout(SILENCE, lines.next()).await;
        let (event, new) = match next {
            Ok(Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)))) => {
                let (converted, diagnostics) = self.kind.convert(&object.value);
                (Some(Event::Apply { object: converted, diagnostics }), object.version().to_owned())
            }
            Ok(Some(Ok(WatchEvent::Deleted(object)))) => {
                (Some(Event::Delete(self.kind.key(&object.value))), object.version().to_owned())
            }
            Ok(Some(Ok(WatchEvent::Bookmark(mark)))) => (None, mark.metadata.resource_version),
            Ok(Some(Ok(WatchEvent::Error(status)))) if matches!(status.code, 410 | 504) => return self.expired(),
            Ok(Some(Ok(WatchEvent::Error(status)))) => {
                return self.failed(&kube::Error::Api(status), None);
            }
            // A line that is no event may have been one: only a list tells.
            Ok(Some(Err(error @ (kube::Error::SerdeError(_) | kube::Error::Api(_))))) => {
                return self.failed(&error, None);
            }
            Ok(Some(Err(error))) => return self.failed(&error, Some(version)),
            // The usual end of a watch.
            Ok(None) if since.elapsed() >= SHORT => return State::Listed { version },
            Ok(None) => return State::Retry { version: Some(version) },
            Err(_) => return self.failed(&timed_out(), Some(version)),
        };
        self.backoff.reset();
        self.ready.extend(event);
        let version = if new.is_empty() { version } else { new };
        State::Watching { version, lines, since }
    }

    /// The server has forgotten what came after the last version: list again. No error, but never in a busy circle.
    fn expired(&self) -> State {
        tracing::debug!(kind = ?self.kind, "the watch has expired, listing again");
        State::Retry { version: None }
    }

    /// Says what went wrong if it is news, and goes on after a wait: with the same watch if there is a version.
    fn failed(&mut self, error: &kube::Error, version: Option<String>) -> State {
        let error = describe(error);
        if !matches!(&self.said, Some(Err(said)) if *said == error) {
            self.said = Some(Err(error.clone()));
            self.ready.push_back(Event::Disconnected { kind: self.kind, error });
        }
        State::Retry { version }
    }

    fn connected(&mut self) {
        if self.said != Some(Ok(())) {
            self.said = Some(Ok(()));
            self.ready.push_back(Event::Connected { kind: self.kind });
        }
    }

    fn reset(&mut self, objects: Vec<ringfence_model::Object>, diagnostics: Vec<crate::Diagnostic>) {
        self.ready.push_back(Event::Reset { kind: self.kind, objects, diagnostics });
    }
}

/// The answer to a request, or an error if there is none for too long.
pub(super) async fn in_time<T>(request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    tokio::time::timeout(ANSWER, request).await.unwrap_or_else(|_| Err(timed_out()))
}

fn timed_out() -> kube::Error {
    kube::Error::ReadEvents(std::io::ErrorKind::TimedOut.into())
}

/// An error with its causes, without saying anything twice.
fn describe(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("the API server answers {}: {}", status.code, status.message);
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};

    use super::*;

    #[tokio::test]
    async fn a_kind_that_the_server_lacks_has_no_objects() {
        let service = tower::service_fn(|_: Request<kube::client::Body>| async {
            let body = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no such kind","reason":"NotFound","code":404}"#;
            Response::builder().status(404).body(kube::client::Body::from(body.as_bytes().to_vec()))
        });
        let client = Client::new(service, "default");
        let mut optional = Loop { optional: true, ..Loop::new(client.clone(), Kind::Node) };
        let (kind, objects, diagnostics) = (Kind::Node, Vec::new(), Vec::new());
        assert_eq!(optional.next().await, Event::Reset { kind, objects, diagnostics });
        assert_eq!(optional.next().await, Event::Connected { kind });
        let error = "the API server answers 404: no such kind".to_owned();
        assert_eq!(Loop::new(client, Kind::Node).next().await, Event::Disconnected { kind, error });
    }
}
