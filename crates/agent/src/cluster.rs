//! The API server: where it is, and connections to it that notice when it is gone: one for all watches, where the
//! server speaks HTTP/2. Its certificate is checked against the authority as the file has it when a connection is made
//! (`kube` reads the one of a pod's service account again).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper_rustls::HttpsConnector;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::{Client as HttpClient, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tower::ServiceBuilder;

/// API servers end a watch after 5 to 10 minutes; a connection that is quiet for longer is dead.
const READ_TIMEOUT: Duration = Duration::from_mins(11);
/// Longest time that the server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A watch is quiet for as long as nothing happens, and so is one whose server has lost its power or whose network is
/// cut: nobody says so. The kernel asks the other end after this time of silence (`tcp(7)`, `TCP_KEEPIDLE`)…
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// … and again each time this has passed …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// … and after so many questions without an answer the connection is over: in 25 seconds, which also bound how long
/// what was sent may stay unacknowledged (`TCP_USER_TIMEOUT`, which would else overrule the questions).
const KEEPALIVE_RETRIES: u32 = 3;

/// The configuration of the cluster's API server: by this kubeconfig, or else `KUBECONFIG`, `~/.kube/config`, or the
/// service account of the pod we are in.
pub(crate) async fn config(kubeconfig: Option<&Path>) -> anyhow::Result<kube::Config> {
    match kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path)?;
            Ok(kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?)
        }
        None => kube::Config::infer().await.context("no cluster; hint: --kubeconfig FILE, or KUBECONFIG"),
    }
}

/// A client for watches that are to last.
pub(crate) fn client(mut config: kube::Config) -> anyhow::Result<kube::Client> {
    config.read_timeout = Some(READ_TIMEOUT);
    // Who asks knows better when to ask again.
    config.default_retry = false;
    if config.proxy_url.is_some() {
        // Its connections end at the proxy, which has to notice.
        return Ok(kube::Client::try_from(config)?);
    }
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(KEEPALIVE_IDLE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    connector.set_tcp_user_timeout(Some(KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_RETRIES));
    let mut connector = TimeoutConnector::new(secured(&config, connector)?);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(HttpClient::builder(TokioExecutor::new()).build::<_, Body>(connector));
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

/// Connections with TLS, which offer HTTP/2: a watch for each kind and node would else be a connection of its own.
fn secured(config: &kube::Config, connector: HttpConnector) -> kube::Result<HttpsConnector<HttpConnector>> {
    if config.tls_server_name.is_some() {
        return config.rustls_https_connector_with_connector(connector);
    }
    let mut tls = config.rustls_client_config()?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(HttpsConnector::from((connector, Arc::new(tls))))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::time::Instant;

    use futures::TryStreamExt as _;
    use k8s_openapi::api::core::v1::Pod;
    use kube::Api;
    use kube::api::WatchParams;
    use ringfence_netns::VethEnd;

    use super::*;
    use crate::scratch::{Scratch, can_run};

    fn connect(namespace: &Scratch, link: &str, address: &str) {
        let mut netlink = namespace.0.netlink().unwrap();
        netlink.add_address(link, address.parse().unwrap()).unwrap();
        netlink.set_up(link).unwrap();
    }

    /// Watches pods at a server, calls `begun` when the server has answered, and says when the watch is over.
    async fn watch(server: &str, begun: impl FnOnce()) -> Duration {
        let client = client(kube::Config::new(format!("http://{server}").parse().unwrap())).unwrap();
        let pods: Api<Pod> = Api::all(client);
        let mut lines = std::pin::pin!(pods.watch(&WatchParams::default(), "1").await.unwrap());
        begun();
        let since = Instant::now();
        let limit = 2 * (KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_RETRIES);
        let ended = tokio::time::timeout(limit, lines.try_next()).await;
        assert!(!matches!(ended, Ok(Ok(Some(_)))), "the server said something: {ended:?}");
        assert!(ended.is_ok(), "not noticed within {limit:?}");
        since.elapsed()
    }

    #[test]
    fn a_server_that_vanishes_is_noticed() {
        if !can_run() {
            return;
        }
        let (node, control) = (Scratch::new("node"), Scratch::new("control"));
        let mut netlink = node.0.netlink().unwrap();
        let ends = [("veth0", &node), ("veth1", &control)].map(|(name, of)| VethEnd { name, namespace: &of.0 });
        let [here, there] = ends;
        netlink.add_veth(here, there, None).unwrap();
        connect(&node, "veth0", "10.9.0.1/24");
        connect(&control, "veth1", "10.9.0.2/24");
        let listener = control.0.run(|| TcpListener::bind("10.9.0.2:0")).unwrap().unwrap();
        let server = listener.local_addr().unwrap().to_string();
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
            stream
        });
        let gone = || control.0.netlink().unwrap().set_down("veth1").unwrap();
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let took = node.0.run(|| runtime().block_on(watch(&server, gone))).unwrap();
        assert!(took >= KEEPALIVE_IDLE, "it did not wait for silence: {took:?}");
        drop(answering.join().unwrap());
    }
}
