//! Connections: TLS, then HTTP/1.1 or HTTP/2, then the router.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::http::Anonymous;

/// The time that a client may take to shake hands.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Accepts connections until it is told to stop.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    stop: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let task = connection(stream, acceptor.clone(), router.clone());
                let stop = stop.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        result = task => if let Err(error) = result {
                            tracing::debug!(%peer, %error, "a connection to the API ended");
                        }
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the API could not be accepted");
                // Out of file descriptors, for instance: trying again at once would only burn the processor.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, router: Router) -> Result<(), BoxError> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let anonymous = stream.get_ref().1.peer_certificates().is_none();
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        if anonymous {
            request.extensions_mut().insert(Anonymous);
        }
        let router = router.clone();
        async move { Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    // One connection carries all watches of a client.
    builder.http2().max_concurrent_streams(4096);
    builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await
}
