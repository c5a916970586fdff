//! Requests to the API server about one kind, and their responses.
//!
//! `kube`'s own calls do not return the time after which a server permits the next attempt (`Retry-After`). They end
//! every watch within five minutes, and read a list only as a whole. Here the objects of a response are parsed one by
//! one as it arrives.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use form_urlencoded::Serializer;
use futures::stream::{BoxStream, Stream, StreamExt as _, TryStreamExt as _};
use http::header::RETRY_AFTER;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::io::StreamReader;

use super::list::{self, List};
use super::request_error::RequestError;
use super::watch_line::WatchLine;
use super::{Floor, Subject};

/// Timeout for the beginning of a response, and for each part of one that is no watch.
const RESPONSE_TIMEOUT: Duration = Duration::from_mins(1);
/// Page size of lists that the server reads from its storage.
const PAGE: &str = "500";
/// Number of parts of a response that are buffered.
const PARTS: usize = 4;
/// A watch may exceed its duration by this time before it is considered broken.
const WATCH_GRACE: Duration = Duration::from_secs(5);

/// Extracts from an object what the caller needs.
pub(super) type Reader<T> = Arc<dyn Fn(&Value) -> T + Send + Sync>;
/// The lines of a watch.
pub(super) type Lines = BoxStream<'static, Result<WatchLine, RequestError>>;

/// Sends requests about the objects of a kind.
pub(super) struct ResourceClient {
    client: Client,
    path: String,
    selectors: Vec<(&'static str, String)>,
}

impl ResourceClient {
    pub(super) fn new(client: Client, subject: &Subject) -> Self {
        let resource = subject.resource;
        let group = if resource.group.is_empty() { "api" } else { "apis" };
        let namespace = subject.namespace.as_ref().map(|name| format!("namespaces/{name}/")).unwrap_or_default();
        let path = format!("/{group}/{}/{namespace}{}", resource.api_version(), resource.plural);
        let selectors = [("labelSelector", &subject.labels), ("fieldSelector", &subject.fields)];
        let selectors = selectors.into_iter().filter_map(|(name, text)| Some((name, text.clone()?))).collect();
        Self { client, path, selectors }
    }

    /// Requests a list, or the next page of one by its continue token.
    pub(super) async fn list<T: Send + 'static>(
        &self,
        floor: &Floor,
        token: Option<&str>,
        read: &Reader<T>,
    ) -> Result<List<T>, RequestError> {
        let query: &[(&str, &str)] = match (token, floor) {
            (Some(token), _) => &[("limit", PAGE), ("continue", token)],
            // No limit here: with one, servers before 1.34 read their storage.
            (None, Floor::Any) => &at_least("0"),
            (None, Floor::NotOlderThan(version)) => &at_least(version),
            (None, Floor::Newest) => &[("limit", PAGE)],
        };
        let body = self.send(query).await?;
        let read = Arc::clone(read);
        let (parts, received) = mpsc::channel(PARTS);
        let reading = tokio::task::spawn_blocking(move || list::parse(received, &*read));
        let mut chunks = chunks(body, RESPONSE_TIMEOUT);
        let mut broken = None;
        while let Some(chunk) = chunks.next().await {
            match chunk {
                Ok(chunk) => {
                    if parts.send(chunk).await.is_err() {
                        // The parser has stopped with an error.
                        break;
                    }
                }
                Err(error) => {
                    broken = Some(RequestError::Connection(error.to_string()));
                    break;
                }
            }
        }
        drop(parts);
        let read = reading.await.map_err(|error| RequestError::Malformed(error.to_string()))?;
        broken.map_or_else(|| read.map_err(|error| RequestError::Malformed(error.to_string())), Err)
    }

    /// Checks that the server has reached a version. Requests the shortest list that is not older.
    pub(super) async fn has_reached(&self, version: &str) -> Result<(), RequestError> {
        let [version, not_older] = at_least(version);
        let body = self.send(&[version, not_older, ("limit", "1")]).await?;
        timeout(RESPONSE_TIMEOUT, body.collect_bytes())
            .await
            .map_err(silent)?
            .map_err(|error| RequestError::connection(&error))?;
        Ok(())
    }

    /// Watches the changes after a version for a number of seconds.
    pub(super) async fn watch(&self, version: &str, seconds: u32, bookmarks: bool) -> Result<Lines, RequestError> {
        let seconds_text = seconds.to_string();
        let mut query = vec![("watch", "true"), ("timeoutSeconds", &*seconds_text), ("resourceVersion", version)];
        query.extend(bookmarks.then_some(("allowWatchBookmarks", "true")));
        let body = self.send(&query).await?;
        let chunks = chunks(body, Duration::from_secs(seconds.into()) + WATCH_GRACE);
        let lines = FramedRead::new(StreamReader::new(chunks), LinesCodec::new());
        Ok(lines.map_err(|error| RequestError::connection(&error)).map(|line| WatchLine::read(&line?)).boxed())
    }

    /// Sends a request, and returns the body of a successful response.
    async fn send(&self, query: &[(&str, &str)]) -> Result<Body, RequestError> {
        let request =
            Request::get(self.uri(query)).body(Body::empty()).map_err(|error| RequestError::connection(&error))?;
        let sent = timeout(RESPONSE_TIMEOUT, self.client.send(request)).await.map_err(silent)?;
        let response = sent.map_err(|error| RequestError::connection(&error))?;
        if response.status().is_success() { Ok(response.into_body()) } else { Err(error_of(response).await) }
    }

    fn uri(&self, query: &[(&str, &str)]) -> String {
        let path = format!("{}?", self.path);
        let begin = path.len();
        let mut uri = Serializer::for_suffix(path, begin);
        uri.extend_pairs(self.selectors.iter().map(|(name, text)| (*name, text.as_str()))).extend_pairs(query);
        uri.finish()
    }
}

fn at_least(version: &str) -> [(&str, &str); 2] {
    [("resourceVersion", version), ("resourceVersionMatch", "NotOlderThan")]
}

fn silent(_: tokio::time::error::Elapsed) -> RequestError {
    RequestError::Connection("the API server does not answer".into())
}

/// Parses an error response. Under load the server sends plain text, and the time to wait is only in a header.
async fn error_of(response: Response<Body>) -> RequestError {
    let code = response.status().as_u16();
    let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let pause = header.map(Duration::from_secs);
    let body = timeout(RESPONSE_TIMEOUT, response.into_body().collect_bytes()).await;
    let text = body.ok().and_then(Result::ok).map(|body| String::from_utf8_lossy(&body).trim().to_owned());
    let text = text.unwrap_or_default();
    match serde_json::from_str::<Status>(&text) {
        Ok(status) => RequestError::of(Status { code, ..status }, pause),
        Err(_no_status) => RequestError::of(Status::failure(&text, "").with_code(code), pause),
    }
}

/// The parts of a body. Ends with an error if no part arrives within the timeout.
fn chunks(body: Body, silence: Duration) -> impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin {
    let stream = body.into_data_stream().map_err(std::io::Error::other).boxed();
    futures::stream::unfold(Some(stream), move |stream| async move {
        let mut stream = stream?;
        match timeout(silence, stream.next()).await {
            Ok(Some(part)) => Some((part, Some(stream))),
            Ok(None) => None,
            Err(_elapsed) => Some((Err(std::io::ErrorKind::TimedOut.into()), None)),
        }
    })
    .boxed()
}
