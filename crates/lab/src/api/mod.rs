//! The embedded Kubernetes API: what an unmodified client needs, over one generic store.

pub(crate) mod columns;
mod discovery;
mod http;
pub(crate) mod json;
pub(crate) mod kinds;
mod openapi;
mod patch;
mod pod_row;
mod protobuf;
pub(crate) mod registry;
mod serve;
pub(crate) mod status;
mod tls;
pub(crate) mod validation;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use self::http::App;
use self::registry::Registry;
use self::tls::Pki;
use crate::controllers;
use crate::runtime::PodRuntime;
use crate::store::Store;

/// Time between two bookmarks of a watch.
const PROGRESS: Duration = Duration::from_secs(30);

/// Configuration of the API server.
pub struct Config {
    /// Listeners: bound already, since they may be of other network namespaces.
    pub listeners: Vec<TcpListener>,
    /// Directory of objects and certificates; in memory only, without.
    pub dir: Option<PathBuf>,
    /// Names and addresses clients use for the server, besides those it has in every cluster.
    pub names: Vec<String>,
    /// Ranges Service addresses are taken from, one per family; the first is that of single-stack Services.
    pub service_ranges: Vec<IpNet>,
    /// Address of the API for pods, for the endpoints of the Service `kubernetes`.
    pub endpoint: Option<SocketAddr>,
    /// Runtime of the pods.
    pub runtime: Arc<dyn PodRuntime>,
}

/// The reason why the API could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener cannot be used.
    #[error("the API cannot listen: {0}")]
    Listen(#[source] std::io::Error),
    /// The objects or certificates cannot be read or written.
    #[error("{}: {error}", path.display())]
    State {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        error: std::io::Error,
    },
    /// The certificates cannot be made.
    #[error("the certificates of the API cannot be made: {0}")]
    Certificates(#[from] rcgen::Error),
    /// The certificates cannot be used.
    #[error("the certificates of the API cannot be used: {0}")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<rustls::Error> for StartError {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error.into())
    }
}

impl From<rustls::pki_types::pem::Error> for StartError {
    fn from(error: rustls::pki_types::pem::Error) -> Self {
        Self::Tls(error.into())
    }
}

impl From<rustls::server::VerifierBuilderError> for StartError {
    fn from(error: rustls::server::VerifierBuilderError) -> Self {
        Self::Tls(error.into())
    }
}

/// The API server.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Starts the API and its controllers. Must be called within a Tokio runtime.
    pub fn start(config: Config) -> Result<RunningServer, StartError> {
        let names = server_names(&config);
        let (pki, store) = match &config.dir {
            Some(dir) => {
                let pki = Pki::open(&dir.join("pki"), &names)?;
                let path = dir.join("objects.jsonl");
                let collection = |name: &str| kinds::stored_in(name).map(|kind| kind.stored);
                let store = Store::open(&path, collection).map_err(|error| StartError::State { path, error })?;
                (pki, store)
            }
            None => (Pki::generate(&names)?, Store::default()),
        };
        let registry = Arc::new(Registry { store, service_ranges: config.service_ranges });
        let router = http::router(Arc::new(App { registry: Arc::clone(&registry), runtime: config.runtime }));
        let stop = CancellationToken::new();
        let tls = Arc::new(pki.server_config()?);
        for listener in config.listeners {
            listener.set_nonblocking(true).map_err(StartError::Listen)?;
            let listener = tokio::net::TcpListener::from_std(listener).map_err(StartError::Listen)?;
            tokio::spawn(serve::serve(listener, Arc::clone(&tls), router.clone(), stop.clone()));
        }
        controllers::start(&registry, config.endpoint, pki.authority(), &stop);
        tokio::spawn(report_progress(registry, stop.clone()));
        Ok(RunningServer { router, pki, stop })
    }
}

/// The names every API server has, and those of this one.
fn server_names(config: &Config) -> Vec<String> {
    let common = [
        "localhost",
        "127.0.0.1",
        "::1",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let mut names: Vec<String> = common.iter().map(|name| (*name).to_owned()).collect();
    names
        .extend(config.service_ranges.iter().filter_map(controllers::first_address).map(|address| address.to_string()));
    names.extend(config.endpoint.map(|endpoint| endpoint.ip().to_string()));
    names.extend(config.names.iter().cloned());
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

async fn report_progress(registry: Arc<Registry>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(PROGRESS);
    ticks.tick().await;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => registry.store.progress(),
        }
    }
}

/// A server that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct RunningServer {
    router: Router,
    pki: Pki,
    stop: CancellationToken,
}

impl RunningServer {
    /// A client that calls the API within this process, without TLS. It cannot stream into pods.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.router.clone(), "default")
    }

    /// The configuration of a client that reaches the API at a URL such as `https://127.0.0.1:6443`.
    pub fn kubeconfig(&self, url: &str) -> String {
        self.pki.kubeconfig(url)
    }

    /// Stops serving and all controllers. Connections are closed.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
