//! A guided tour of network policy with real packets: what was expected and what was observed at each step.
//!
//! The tour is a client like any other: it types kubectl commands, or makes the same requests itself where no kubectl
//! is new enough. It runs in a lab of its own, or against any cluster.

mod blocks;
mod client;
mod expect;
mod kubectl;
mod lab;
mod request;
mod table;
mod tour;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use ringfence_k8s::convert::Kind;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use expect::{Expect, Observation, Outcome};
use kubectl::Kubectl;
use lab::OwnLab;
use request::{Names, Request};
use tour::{Action, CLUSTER_POLICIES, NAMESPACES, Step};

/// The time that the tour waits until what is expected is seen.
const STEP_TIMEOUT: Duration = Duration::from_secs(90);

/// The time that it waits before it looks again.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Options of the tour.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A cluster to take it in; none for a lab of its own.
    pub kubeconfig: Option<PathBuf>,
    /// Directory of its own lab; none for one that goes with it.
    pub directory: Option<PathBuf>,
    /// The number of nodes its own lab has.
    pub nodes: usize,
    /// Make the requests without kubectl even where there is one.
    pub without_kubectl: bool,
}

/// Takes the tour and tells of it; says whether everything was as expected. What it started is gone when it returns.
///
/// # Errors
/// The lab does not start or cannot be taken down, the cluster cannot be reached, or `out` cannot be written to. A step
/// that shows something else than expected is no error.
pub async fn run(options: &Options, out: &mut (dyn Write + Send)) -> anyhow::Result<bool> {
    match &options.kubeconfig {
        Some(kubeconfig) => in_cluster(options, kubeconfig, out).await,
        None => in_own_lab(options, out).await,
    }
}

async fn in_own_lab(options: &Options, out: &mut (dyn Write + Send)) -> anyhow::Result<bool> {
    let own = OwnLab::new(options.directory.as_deref())?;
    let nodes = options.nodes.max(1);
    writeln!(out, "$ {}", OwnLab::command(nodes))?;
    let toured = tokio::select! {
        toured = async {
            let kubeconfig = own.up(nodes).await?;
            writeln!(out, "{}", own.status().await?.trim_end())?;
            Tour::new(options, &kubeconfig, out).await?.take().await
        } => toured,
        signal = interrupted() => signal.and_then(|name| bail!("interrupted by {name}")),
    };
    writeln!(out, "\n$ ringfence lab down")?;
    let down = own.down().await;
    let score = toured?;
    down?;
    summary(score, out)
}

async fn in_cluster(options: &Options, kubeconfig: &Path, out: &mut (dyn Write + Send)) -> anyhow::Result<bool> {
    let mut tour = Tour::new(options, kubeconfig, out).await?;
    let namespaces: Api<Namespace> = Api::all(tour.client.clone());
    for name in NAMESPACES {
        if namespaces.get_opt(name).await?.is_some() {
            bail!("namespace {name} exists already\nhint: the tour makes it and deletes it; choose another cluster");
        }
    }
    let policies = cluster_policies(&tour.client);
    if policies.list_metadata(&ListParams::default().limit(1)).await.is_err_and(|error| is_not_found(&error)) {
        bail!(
            "the cluster has no ClusterNetworkPolicy\nhint: ringfence crds install --kubeconfig {}",
            kubeconfig.display()
        );
    }
    for name in CLUSTER_POLICIES {
        if policies.get_opt(name).await?.is_some() {
            bail!("ClusterNetworkPolicy {name} exists already\nhint: the tour makes it and deletes it");
        }
    }
    let toured = tokio::select! {
        toured = tour.take() => toured,
        signal = interrupted() => signal.and_then(|name| bail!("interrupted by {name}")),
    };
    for name in CLUSTER_POLICIES {
        if policies.get_opt(name).await?.is_some() {
            policies.delete(name, &DeleteParams::default()).await.with_context(|| format!("deleting {name}"))?;
        }
    }
    for name in NAMESPACES {
        if namespaces.get_opt(name).await?.is_some() {
            namespaces.delete(name, &DeleteParams::default()).await.with_context(|| format!("deleting {name}"))?;
        }
    }
    summary(toured?, out)
}

fn cluster_policies(client: &Client) -> Api<DynamicObject> {
    let resource = Kind::ClusterNetworkPolicy.resource();
    let kind = GroupVersionKind::gvk(resource.group, resource.version, resource.kind);
    Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&kind, resource.plural))
}

fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

fn summary(score: Score, out: &mut (dyn Write + Send)) -> anyhow::Result<bool> {
    let Score { steps, seen, agreeing } = score;
    let differing = seen - agreeing;
    match differing {
        0 => writeln!(out, "{steps} steps, {seen} observations: all agree")?,
        _ => writeln!(out, "{steps} steps, {seen} observations: {differing} DIFFER")?,
    }
    Ok(differing == 0 && seen > 0)
}

/// Waits for a wish to stop; returns its name.
async fn interrupted() -> anyhow::Result<&'static str> {
    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = int.recv() => Ok("SIGINT"),
        _ = term.recv() => Ok("SIGTERM"),
    }
}

/// Score of the tour.
#[derive(Clone, Copy, Debug, Default)]
struct Score {
    steps: usize,
    seen: usize,
    agreeing: usize,
}

/// A tour that is under way.
struct Tour<'a> {
    client: Client,
    kubectl: Option<Kubectl>,
    out: &'a mut (dyn Write + Send),
    /// Holds the manifests, for kubectl to find.
    folder: tempfile::TempDir,
}

impl<'a> Tour<'a> {
    async fn new(options: &Options, kubeconfig: &Path, out: &'a mut (dyn Write + Send)) -> anyhow::Result<Self> {
        let config = Kubeconfig::read_from(kubeconfig)?;
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        let folder = tempfile::tempdir()?;
        let kubectl = if options.without_kubectl {
            Err("as asked".to_owned())
        } else {
            Kubectl::find(kubeconfig, folder.path()).await
        };
        if let Err(reason) = &kubectl {
            writeln!(out, "Without kubectl ({reason}): the commands below stand for the requests made.")?;
        }
        Ok(Self { client, kubectl: kubectl.ok(), out, folder })
    }

    async fn take(&mut self) -> anyhow::Result<Score> {
        let mut score = Score::default();
        for Step { number, title, actions } in tour::steps() {
            writeln!(self.out, "\nStep {number}: {title}")?;
            for action in &actions {
                let seen = self.act(action).await?;
                score.seen += 1;
                score.agreeing += usize::from(seen.agrees);
            }
            score.steps += 1;
        }
        Ok(score)
    }

    /// Does one thing and tells of it.
    async fn act(&mut self, action: &Action) -> anyhow::Result<Observation> {
        let names = self.names(&action.request).await;
        writeln!(self.out, "  $ kubectl {}", action.request.typed(&names))?;
        writeln!(self.out, "    expected: {}", action.expect.text())?;
        self.out.flush()?;
        let seen = self.observe(&action.request, action.expect, names).await?;
        let mark = if seen.agrees { "" } else { "  <-- DIFFERS" };
        writeln!(self.out, "    observed: {}{mark}", seen.text)?;
        self.out.flush()?;
        Ok(seen)
    }

    /// Looks until what is expected is seen or the time is up; what changes something is done once.
    async fn observe(&self, request: &Request, expect: Expect, mut names: Names) -> anyhow::Result<Observation> {
        let end = Instant::now() + STEP_TIMEOUT;
        loop {
            let seen = expect.judge(&self.perform(request, &names).await?);
            if seen.agrees || !request.looks_only() || Instant::now() > end {
                return Ok(seen);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
            names = self.names(request).await;
        }
    }

    async fn perform(&self, request: &Request, names: &Names) -> anyhow::Result<Outcome> {
        match &self.kubectl {
            Some(kubectl) => {
                if let Some(manifest) = request.manifest() {
                    std::fs::write(self.folder.path().join(manifest.file), manifest.text(names))?;
                }
                kubectl.run(&request.kubectl(names)).await
            }
            None => Ok(client::perform(&self.client, request, names).await),
        }
    }

    /// Waits until the pods of a request have names and addresses.
    async fn names(&self, request: &Request) -> Names {
        let end = Instant::now() + STEP_TIMEOUT;
        let mut names = Names::default();
        for pod in request.pods() {
            while Instant::now() < end {
                if let Some(found) = client::locate(&self.client, pod).await {
                    names.0.insert(pod, found);
                    break;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
        names
    }
}
