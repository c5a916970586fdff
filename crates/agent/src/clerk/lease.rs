//! Election by a Lease (`coordination.k8s.io/v1`): one agent of the cluster at a time holds it.
//!
//! Nobody's clock is compared with another's. Whoever wants the Lease waits until it has seen the same version of it
//! for as long as the Lease lasts, by its own clock; whoever holds it stops before that time is over, counted from
//! before it asked. Every write names the version it is based on, so of two that try one fails.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{GetParams, ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::NAME;

/// Time until the holder tries again to renew after an error.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Longest to wait for the API when nobody is in a hurry.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Durations of the election.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// The Lease, without being renewed; at least a second.
    pub(crate) lease: Duration,
    /// Between renewals.
    pub(crate) renew: Duration,
    /// Between looks at a Lease that another holds. All agents of a cluster look, so not too short.
    pub(crate) look: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self { lease: Duration::from_secs(20), renew: Duration::from_secs(5), look: Duration::from_secs(10) }
    }
}

impl Terms {
    /// For how long after asking the holder may act: what is on its way then arrives while the Lease still stands.
    fn tenure(&self) -> Duration {
        self.lease * 3 / 4
    }
}

/// One candidate.
#[derive(Clone)]
pub(crate) struct Election {
    api: Api<Lease>,
    identity: String,
    terms: Terms,
    /// The version of the Lease that was seen last, and since when.
    seen: Option<(String, Instant)>,
    /// The Lease as this candidate wrote it last.
    held: Option<Lease>,
}

impl Election {
    /// A candidate for the Lease in a namespace. No two may have the same identity.
    pub(crate) fn new(client: Client, namespace: &str, identity: String, terms: Terms) -> Self {
        Self { api: Api::namespaced(client, namespace), identity, terms, seen: None, held: None }
    }

    pub(crate) fn terms(&self) -> Terms {
        self.terms
    }

    /// Takes or renews the Lease if that can be had. Until when this candidate holds it; none if another does.
    pub(crate) async fn campaign(&mut self) -> kube::Result<Option<Instant>> {
        match timeout(REQUEST_TIMEOUT, self.try_campaign()).await {
            Ok(result) => result,
            Err(_elapsed) => Err(kube::Error::ReadEvents(std::io::ErrorKind::TimedOut.into())),
        }
    }

    async fn try_campaign(&mut self) -> kube::Result<Option<Instant>> {
        let asked = Instant::now();
        let written = match self.held.take() {
            Some(lease) => self.renew(lease).await,
            None => self.take(asked).await,
        };
        match written {
            Ok(Some(lease)) => {
                self.held = Some(lease);
                Ok(Some(asked + self.terms.tenure()))
            }
            Ok(None) => Ok(None),
            // Another was quicker.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn renew(&self, mut lease: Lease) -> kube::Result<Option<Lease>> {
        lease.spec.get_or_insert_default().renew_time = Some(MicroTime(Timestamp::now()));
        self.api.replace(NAME, &PostParams::default(), &lease).await.map(Some)
    }

    async fn take(&mut self, asked: Instant) -> kube::Result<Option<Lease>> {
        // Whatever version the server has at hand will do: writing fails if it is not the newest.
        let mut lease = match self.api.get_with(NAME, &GetParams::any()).await {
            Ok(lease) => lease,
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let metadata = ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(self.spec(0)) };
                return self.api.create(&PostParams::default(), &lease).await.map(Some);
            }
            Err(error) => return Err(error),
        };
        let spec = lease.spec.take().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        // Its own it has if it did not hear that a renewal went well.
        let own = holder == self.identity;
        if !own && !holder.is_empty() && !self.is_over(&lease, &spec, asked) {
            return Ok(None);
        }
        lease.spec = Some(self.spec(spec.lease_transitions.unwrap_or_default() + i32::from(!own)));
        self.api.replace(NAME, &PostParams::default(), &lease).await.map(Some)
    }

    /// True if nobody has renewed it for as long as it lasts.
    fn is_over(&mut self, lease: &Lease, spec: &LeaseSpec, now: Instant) -> bool {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => self.seen.insert((version, now)).1,
        };
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        now.duration_since(since) >= seconds.map_or(self.terms.lease, Duration::from_secs)
    }

    fn spec(&self, transitions: i32) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.terms.lease.as_secs()).ok(),
            acquire_time: now.clone(),
            renew_time: now,
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// Renews the Lease again and again; comes back when it is lost, or no longer certain to be held.
    pub(crate) async fn keep(&mut self, mut until: Instant) {
        let mut failed = false;
        loop {
            let wait = if failed { RETRY_INTERVAL.min(self.terms.renew) } else { self.terms.renew };
            sleep_until((Instant::now() + wait).min(until)).await;
            let held = self.held.clone();
            match timeout_at(until, self.try_campaign()).await {
                Ok(Ok(Some(longer))) => (until, failed) = (longer, false),
                Ok(Ok(None)) => return,
                Ok(Err(error)) => {
                    if !failed {
                        tracing::debug!(%error, "the Lease cannot be renewed");
                    }
                    // It may have been renewed all the same; then the next attempt finds another version, and ends
                    // this.
                    (self.held, failed) = (held, true);
                }
                Err(_elapsed) => return,
            }
            if Instant::now() >= until {
                return;
            }
        }
    }

    /// Gives the Lease back, if it is held.
    pub(crate) async fn resign(&mut self) {
        let Some(mut lease) = self.held.take() else { return };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
        }
        let resigned = timeout(RETRY_INTERVAL, self.api.replace(NAME, &PostParams::default(), &lease)).await;
        if !matches!(resigned, Ok(Ok(_))) {
            tracing::debug!("the Lease is not given back; it runs out");
        }
    }
}

/// Up to a quarter longer, by chance: so that the agents of a cluster do not all ask at once.
pub(super) fn spread(pause: Duration) -> Duration {
    let quarters = u32::try_from(RandomState::new().hash_one(0) % 256).unwrap_or_default();
    pause + pause * quarters / 1024
}
