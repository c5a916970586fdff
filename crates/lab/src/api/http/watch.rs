//! Watches: one line of JSON for each change, as soon as it is stored.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Sleep;

use super::App;
use super::path::ResourcePath;
use super::query::{Filter, Query};
use super::read;
use super::render::{self, Form};
use crate::api::json;
use crate::api::kinds::Kind;
use crate::api::status::ApiError;
use crate::store::selector::FieldSelector;
use crate::store::{Change, EventType, Object, Signal};

/// The time that a watch lasts if the client does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(45);

pub(super) fn watch(app: &App, path: &ResourcePath, query: &Query, headers: &HeaderMap) -> Result<Response, ApiError> {
    let mut filter = query.filter(path.kind)?;
    if let Some(name) = &path.name {
        filter.fields = FieldSelector::name(name);
    }
    let form = Form::of(headers, Some(query))?;
    let encoder = Encoder { kind: path.kind, form, filter };
    let timeout = query.number("timeoutSeconds")?.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
    let (first, receiver, revision) = match begin(app, path, query, &encoder) {
        Err(error) if error.is_expired() => return Ok(gone(&error)),
        begun => begun?,
    };
    let stream = Stream {
        encoder,
        ready: first,
        receiver,
        deadline: Box::pin(tokio::time::sleep(timeout)),
        bookmarks: query.flag("allowWatchBookmarks"),
        revision,
        ended: false,
    };
    let body = Body::from_stream(futures::stream::unfold(stream, Stream::next));
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

/// That a revision is forgotten is told in the stream, as an API server tells it: reflectors list again when they read
/// it there, and ask for the same revision for ever when their request fails.
fn gone(error: &ApiError) -> Response {
    let mut line = Vec::new();
    write_line("ERROR", &error.status(), &mut line);
    ([(CONTENT_TYPE, "application/json")], line).into_response()
}

/// The first lines of a watch, by where the client wants it to begin.
fn begin(
    app: &App,
    path: &ResourcePath,
    query: &Query,
    encoder: &Encoder,
) -> Result<(Vec<u8>, mpsc::Receiver<Signal>, u64), ApiError> {
    let (scope, store) = (read::scope(path), &app.registry.store);
    let initial = query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents"));
    if initial.is_some() && query.get("resourceVersionMatch") != Some("NotOlderThan") {
        return Err(ApiError::bad_request("sendInitialEvents needs resourceVersionMatch NotOlderThan"));
    }
    let asked = query.number("resourceVersion")?.filter(|revision| *revision > 0);
    let mut lines = Vec::new();
    // Without a revision a watch tells what is there first.
    if initial.unwrap_or_else(|| asked.is_none()) {
        if asked.is_some_and(|asked| asked > store.revision()) {
            return Err(ApiError::expired());
        }
        let (objects, watch) = store.list_and_watch(&scope);
        for (_, object) in &objects {
            encoder.added(object, &mut lines);
        }
        if initial.is_some() {
            encoder.bookmark(watch.revision, true, &mut lines);
        }
        return Ok((lines, watch.receiver, watch.revision));
    }
    let watch = store.watch(&scope, asked)?;
    for change in &watch.backlog {
        encoder.change(change, &mut lines);
    }
    Ok((lines, watch.receiver, watch.revision))
}

struct Stream {
    encoder: Encoder,
    ready: Vec<u8>,
    receiver: mpsc::Receiver<Signal>,
    deadline: Pin<Box<Sleep>>,
    bookmarks: bool,
    revision: u64,
    ended: bool,
}

impl Stream {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            if !self.ready.is_empty() {
                return Some((Ok(Bytes::from(std::mem::take(&mut self.ready))), self));
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                biased;
                signal = self.receiver.recv() => match signal {
                    Some(signal) => self.take(&signal),
                    None => self.ended = true,
                },
                () = &mut self.deadline => {
                    self.ended = true;
                    if self.bookmarks {
                        self.encoder.bookmark(self.revision, false, &mut self.ready);
                    }
                }
            }
        }
    }

    /// Takes one signal, and what else is there already.
    fn take(&mut self, signal: &Signal) {
        self.encode(signal);
        while self.ready.len() < 64 * 1024
            && let Ok(signal) = self.receiver.try_recv()
        {
            self.encode(&signal);
        }
    }

    fn encode(&mut self, signal: &Signal) {
        match signal {
            Signal::Change(change) => {
                self.revision = change.revision;
                self.encoder.change(change, &mut self.ready);
            }
            Signal::Progress(revision) => {
                self.revision = *revision;
                if self.bookmarks {
                    self.encoder.bookmark(*revision, false, &mut self.ready);
                }
            }
        }
    }
}

/// Writes changes as the client wants to see them.
struct Encoder {
    kind: &'static Kind,
    form: Form,
    filter: Filter,
}

impl Encoder {
    fn added(&self, object: &Object, lines: &mut Vec<u8>) {
        let object = self.kind.shown(object);
        if self.filter.matches(&object) {
            self.line("ADDED", &object, lines);
        }
    }

    /// A change as seen through the filter: an object that comes into view is added, one that leaves it deleted.
    fn change(&self, change: &Arc<Change>, lines: &mut Vec<u8>) {
        let new = self.kind.shown(&change.object);
        let old = change.old.as_ref().map(|old| self.kind.shown(old)).filter(|old| self.filter.matches(old));
        let visible = change.event != EventType::Deleted && self.filter.matches(&new);
        match (old, visible) {
            (None, false) => {}
            (None, true) => self.line("ADDED", &new, lines),
            (Some(_), true) => self.line("MODIFIED", &new, lines),
            (Some(old), false) => {
                let mut old = old.into_owned();
                old["metadata"]["resourceVersion"] = new["metadata"]["resourceVersion"].clone();
                self.line("DELETED", &old, lines);
            }
        }
    }

    fn bookmark(&self, revision: u64, initial_end: bool, lines: &mut Vec<u8>) {
        let mut meta = json!({ "resourceVersion": revision.to_string(), "creationTimestamp": null });
        if initial_end {
            json::object(&mut meta, "annotations")["k8s.io/initial-events-end"] = "true".into();
        }
        let object = match self.form {
            Form::Table(include) => render::table(self.kind, include, &meta, std::iter::empty()),
            Form::Whole | Form::Metadata => {
                let object = json!({ "kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": meta });
                self.form.object(self.kind, &object).into_owned()
            }
        };
        write_line("BOOKMARK", &object, lines);
    }

    fn line(&self, event: &str, object: &Value, lines: &mut Vec<u8>) {
        write_line(event, &self.form.object(self.kind, object), lines);
    }
}

fn write_line(event: &str, object: &Value, lines: &mut Vec<u8>) {
    lines.extend_from_slice(br#"{"type":""#);
    lines.extend_from_slice(event.as_bytes());
    lines.extend_from_slice(br#"","object":"#);
    if serde_json::to_writer(&mut *lines, object).is_err() {
        lines.extend_from_slice(b"null");
    }
    lines.extend_from_slice(b"}\n");
}
