//! Requests to the API server about one kind, and their responses.
//!
//! `kube`'s own calls do not say how long a server asks to be left alone (`Retry-After`), end every watch within five
//! minutes, and read a list only as a whole. Here objects are taken from an answer one by one as it comes in.

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

use super::line::Line;
use super::list::{self, List};
use super::refusal::Refusal;
use super::{Floor, Subject};

/// The time that the server may take to begin a response, and between two parts of one that is no watch.
const RESPONSE_TIMEOUT: Duration = Duration::from_mins(1);
/// Objects asked for at a time, where the server reads them from its storage.
const PAGE: &str = "500";
/// Parts of an answer that wait to be read.
const PARTS: usize = 4;
/// The extra time for a watch that receives nothing, not even its end.
const SLACK: Duration = Duration::from_secs(5);

/// Takes from an object what is worth knowing.
pub(super) type Reader<T> = Arc<dyn Fn(&Value) -> T + Send + Sync>;
/// The lines of a watch.
pub(super) type Lines = BoxStream<'static, Result<Line, Refusal>>;

/// Asks about the objects of a kind.
pub(super) struct Asker {
    client: Client,
    path: String,
    selectors: Vec<(&'static str, String)>,
}

impl Asker {
    pub(super) fn new(client: Client, subject: &Subject) -> Self {
        let resource = subject.resource;
        let group = if resource.group.is_empty() { "api" } else { "apis" };
        let namespace = subject.namespace.as_ref().map(|name| format!("namespaces/{name}/")).unwrap_or_default();
        let path = format!("/{group}/{}/{namespace}{}", resource.api_version(), resource.plural);
        let selectors = [("labelSelector", &subject.labels), ("fieldSelector", &subject.fields)];
        let selectors = selectors.into_iter().filter_map(|(name, text)| Some((name, text.clone()?))).collect();
        Self { client, path, selectors }
    }

    /// Requests a list, or the part of one after a continue token.
    pub(super) async fn list<T: Send + 'static>(
        &self,
        floor: &Floor,
        token: Option<&str>,
        read: &Reader<T>,
    ) -> Result<List<T>, Refusal> {
        let query: &[(&str, &str)] = match (token, floor) {
            (Some(token), _) => &[("limit", PAGE), ("continue", token)],
            // Without a limit: with one, servers before 1.34 read their storage.
            (None, Floor::Any) => &at_least("0"),
            (None, Floor::NotOlderThan(version)) => &at_least(version),
            (None, Floor::Newest) => &[("limit", PAGE)],
        };
        let body = self.ask(query).await?;
        let read = Arc::clone(read);
        let (parts, received) = mpsc::channel(PARTS);
        let reading = tokio::task::spawn_blocking(move || list::parse(received, &*read));
        let mut chunks = chunks(body, RESPONSE_TIMEOUT);
        let mut broken = None;
        while let Some(chunk) = chunks.next().await {
            match chunk {
                Ok(chunk) => {
                    if parts.send(chunk).await.is_err() {
                        // Whoever reads has found that it cannot be read.
                        break;
                    }
                }
                Err(error) => {
                    broken = Some(Refusal::Way(error.to_string()));
                    break;
                }
            }
        }
        drop(parts);
        let read = reading.await.map_err(|error| Refusal::Garbled(error.to_string()))?;
        broken.map_or_else(|| read.map_err(|error| Refusal::Garbled(error.to_string())), Err)
    }

    /// Probes that the server has reached a version, by the shortest list that is not older.
    pub(super) async fn knows(&self, version: &str) -> Result<(), Refusal> {
        let [version, not_older] = at_least(version);
        let body = self.ask(&[version, not_older, ("limit", "1")]).await?;
        timeout(RESPONSE_TIMEOUT, body.collect_bytes()).await.map_err(silent)?.map_err(|error| Refusal::way(&error))?;
        Ok(())
    }

    /// Watches the changes after a version, for so many seconds.
    pub(super) async fn watch(&self, version: &str, seconds: u32, bookmarks: bool) -> Result<Lines, Refusal> {
        let seconds_text = seconds.to_string();
        let mut query = vec![("watch", "true"), ("timeoutSeconds", &*seconds_text), ("resourceVersion", version)];
        query.extend(bookmarks.then_some(("allowWatchBookmarks", "true")));
        let body = self.ask(&query).await?;
        let chunks = chunks(body, Duration::from_secs(seconds.into()) + SLACK);
        let lines = FramedRead::new(StreamReader::new(chunks), LinesCodec::new());
        Ok(lines.map_err(|error| Refusal::way(&error)).map(|line| Line::read(&line?)).boxed())
    }

    /// Asks, and gives the answer's content if the server agrees.
    async fn ask(&self, query: &[(&str, &str)]) -> Result<Body, Refusal> {
        let request = Request::get(self.uri(query)).body(Body::empty()).map_err(|error| Refusal::way(&error))?;
        let asked = timeout(RESPONSE_TIMEOUT, self.client.send(request)).await.map_err(silent)?;
        let response = asked.map_err(|error| Refusal::way(&error))?;
        if response.status().is_success() { Ok(response.into_body()) } else { Err(refusal(response).await) }
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

fn silent(_: tokio::time::error::Elapsed) -> Refusal {
    Refusal::Way("the API server does not answer".into())
}

/// Reads a refusal. Under load the server sends plain text, and only a header gives the time to wait.
async fn refusal(response: Response<Body>) -> Refusal {
    let code = response.status().as_u16();
    let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let pause = header.map(Duration::from_secs);
    let body = timeout(RESPONSE_TIMEOUT, response.into_body().collect_bytes()).await;
    let text = body.ok().and_then(Result::ok).map(|body| String::from_utf8_lossy(&body).trim().to_owned());
    let text = text.unwrap_or_default();
    match serde_json::from_str::<Status>(&text) {
        Ok(status) => Refusal::of(Status { code, ..status }, pause),
        Err(_no_status) => Refusal::of(Status::failure(&text, "").with_code(code), pause),
    }
}

/// The parts of a body; an error if none comes for too long.
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
