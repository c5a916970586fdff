//! Writes conditions and Events: only what is not there already, slowly, and again if it fails.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use ringfence_k8s::convert::{Kind, Resource};
use ringfence_model::{Name, PolicyId, PolicyKind};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{NAME, condition, event};
use crate::core::{Gone, Handle, Question};
use crate::metrics::Meters;
use crate::problem::{Account, Claim};

/// Between two writes.
const WRITE_INTERVAL: Duration = Duration::from_millis(50);
/// Time after which stored conditions are read again, to repair changes of others.
const RESYNC_INTERVAL: Duration = Duration::from_mins(10);
/// After errors, before trying again: twice as long each time.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// Longest to wait for an answer: shorter than what is left of a Lease when its holder stops.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
/// Objects asked for at a time.
const PAGE: u32 = 500;

/// Writes about policies.
pub(crate) struct Writer {
    client: Client,
    core: Handle,
    changes: watch::Receiver<u64>,
    meters: Arc<Meters>,
    /// The node this is written from.
    node: String,
    /// Our conditions as they are stored, with the unique id of the policy.
    stored: BTreeMap<PolicyId, (Name, Vec<Value>)>,
    /// Names of the Events that are there.
    told: HashSet<String>,
    failures: u32,
    /// It tells what concerns this node alone, which every agent does; and nothing else.
    own: bool,
}

impl Writer {
    /// Nothing is written before [`Self::write`]; `changes` says when there is something new to ask the planning
    /// thread.
    pub(crate) fn new(
        client: Client,
        core: Handle,
        changes: watch::Receiver<u64>,
        meters: Arc<Meters>,
        node: String,
    ) -> Self {
        let (stored, told) = (BTreeMap::new(), HashSet::new());
        Self { client, core, changes, meters, node, stored, told, failures: 0, own: false }
    }

    /// Tells by Events what concerns this node alone, until the planning thread is gone.
    pub(crate) async fn tell_own(&mut self) -> Gone {
        self.own = true;
        loop {
            // They end by themselves in the API: what is still so is told again.
            self.told.clear();
            if let Err(gone) = self.follow().await {
                return gone;
            }
        }
    }

    /// Keeps what is stored at what is known, until the planning thread is gone.
    pub(crate) async fn write(&mut self) -> Gone {
        loop {
            if let Err(error) = self.read().await {
                sleep(self.failed(&error)).await;
            } else if let Err(gone) = self.follow().await {
                return gone;
            }
        }
    }

    /// Writes everything that is not there, then what changes, for a while.
    async fn follow(&mut self) -> Result<(), Gone> {
        let end = Instant::now() + RESYNC_INTERVAL;
        let (mut since, mut due, mut claims) = (0, BTreeMap::new(), Vec::new());
        while Instant::now() < end {
            // The planning thread has nothing whole to tell before it first says so.
            if *self.changes.borrow_and_update() > 0 {
                let (revision, accounts) = self.core.ask(|reply| Question::Accounts(since, reply)).await?;
                since = revision;
                due.extend(accounts.into_iter().map(|account| (account.id.clone(), account)));
                claims = if self.own { Vec::new() } else { self.core.ask(Question::Claims).await? };
            }
            let pause = self.carry_out(&mut due).await.max(self.tell_of(&mut claims).await);
            tokio::select! {
                changed = self.changes.changed() => changed.map_err(|_closed| Gone)?,
                () = sleep(pause), if !due.is_empty() || !claims.is_empty() => {}
                () = sleep_until(end) => {}
            }
        }
        Ok(())
    }

    /// Writes about each of these; what could not be written stays. How long to wait with that.
    async fn carry_out(&mut self, due: &mut BTreeMap<PolicyId, Account>) -> Duration {
        let mut failure = None;
        let mut left = BTreeMap::new();
        while let Some((id, account)) = due.pop_first() {
            let Err(error) = self.write_one(&account).await else { continue };
            left.insert(id, account);
            let unreachable = !is_answer(&error);
            failure = Some(error);
            if unreachable {
                break;
            }
        }
        due.extend(left);
        if let Some(error) = failure {
            return self.failed(&error);
        }
        self.failures = 0;
        Duration::ZERO
    }

    /// Writes an Event about each of these; what could not be written stays. How long to wait with that.
    async fn tell_of(&mut self, claims: &mut Vec<Claim>) -> Duration {
        while let Some(claim) = claims.last() {
            if let Err(error) = self.write_event(event::about_claim(claim, &self.node)).await {
                return self.failed(&error);
            }
            claims.pop();
        }
        Duration::ZERO
    }

    fn failed(&mut self, error: &kube::Error) -> Duration {
        if self.failures == 0 {
            tracing::warn!(%error, "what is the matter with policies cannot be written into the API; trying on");
        }
        self.meters.unwritten.inc();
        self.failures += 1;
        super::lease::spread((BACKOFF.0 * 2_u32.pow(self.failures.min(8) - 1)).min(BACKOFF.1))
    }

    /// Writes what it can; gives back the first error.
    async fn write_one(&mut self, account: &Account) -> kube::Result<()> {
        let mut result = Ok(());
        if account.id.kind != PolicyKind::NetworkPolicy && !self.own {
            result = self.write_conditions(account).await;
        }
        for event in event::events(account, &self.node, self.own) {
            if result.as_ref().is_err_and(|error| !is_answer(error)) {
                break;
            }
            let written = self.write_event(event).await;
            result = result.and(written);
        }
        result
    }

    async fn write_conditions(&mut self, account: &Account) -> kube::Result<()> {
        let stored = self.stored.get(&account.id).filter(|(uid, _)| *uid == account.uid);
        let stored = stored.map(|(_, conditions)| conditions.as_slice()).unwrap_or_default();
        let wanted = condition::conditions(account);
        if condition::agree(&wanted, stored) {
            return Ok(());
        }
        let conditions = condition::dated(&wanted, stored, &format!("{:.0}", Timestamp::now()));
        let resource = resource(account.id.kind);
        // The unique id makes the server refuse to write about another policy of the same name.
        let object = json!({
            "apiVersion": resource.api_version(), "kind": resource.kind,
            "metadata": {"name": &*account.id.name, "uid": &*account.uid},
            "status": {"conditions": conditions},
        });
        let (api, how) = (self.policies(resource), PatchParams::apply(NAME).force());
        let written = self.paced(api.patch_status(&account.id.name, &how, &Patch::Apply(&object))).await?;
        if written.is_some() {
            self.meters.conditions.inc();
        }
        self.stored.insert(account.id.clone(), (Name::clone(&account.uid), conditions));
        Ok(())
    }

    async fn write_event(&mut self, event: Event) -> kube::Result<()> {
        let (namespace, name) = (event.metadata.namespace.clone(), event.metadata.name.clone().unwrap_or_default());
        if self.told.contains(&name) {
            return Ok(());
        }
        let api = Api::<Event>::namespaced(self.client.clone(), &namespace.unwrap_or_default());
        if self.paced(api.create(&PostParams::default(), &event)).await?.is_some() {
            self.meters.told.inc();
        }
        self.told.insert(name);
        Ok(())
    }

    /// Makes a request at its time. None if the server refuses it for good: it would do so again.
    async fn paced<T>(&self, request: impl Future<Output = kube::Result<T>>) -> kube::Result<Option<T>> {
        sleep(WRITE_INTERVAL).await;
        match timeout(REQUEST_TIMEOUT, request).await {
            Ok(Ok(answer)) => Ok(Some(answer)),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 400 | 404 | 409 | 410 | 422) => {
                // Gone meanwhile, another of the same name, or there already.
                if !matches!(status.code, 404 | 409) {
                    tracing::warn!(%status, "the API does not take what is the matter with a policy");
                }
                Ok(None)
            }
            Ok(Err(error)) => Err(error),
            Err(_elapsed) => Err(kube::Error::ReadEvents(std::io::ErrorKind::TimedOut.into())),
        }
    }

    /// Reads what is stored.
    async fn read(&mut self) -> kube::Result<()> {
        self.stored.clear();
        self.told.clear();
        for kind in Kind::ALL {
            let Some(policy) = kind.policy().filter(|policy| *policy != PolicyKind::NetworkPolicy) else { continue };
            let api = self.policies(kind.resource());
            let mut page = ListParams::default().limit(PAGE);
            loop {
                let list = match api.list(&page).await {
                    Ok(list) => list,
                    // A cluster without the kind.
                    Err(kube::Error::Api(status)) if status.code == 404 => break,
                    Err(error) => return Err(error),
                };
                for object in list.items {
                    let name = Name::from(object.metadata.name.unwrap_or_default());
                    let uid = Name::from(object.metadata.uid.unwrap_or_default());
                    let id = PolicyId { kind: policy, namespace: None, name };
                    self.stored.insert(id, (uid, ours(&object.data)));
                }
                page.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
                if page.continue_token.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn policies(&self, resource: Resource) -> Api<DynamicObject> {
        let described = ApiResource {
            group: resource.group.into(),
            version: resource.version.into(),
            api_version: resource.api_version(),
            kind: resource.kind.into(),
            plural: resource.plural.into(),
        };
        Api::all_with(self.client.clone(), &described)
    }
}

/// True if the server answered at all.
fn is_answer(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(_))
}

/// Our conditions among those of an object.
fn ours(object: &Value) -> Vec<Value> {
    let all = object["status"]["conditions"].as_array().into_iter().flatten();
    let ours = |condition: &&Value| condition::TYPES.into_iter().any(|name| condition["type"] == name);
    all.filter(ours).cloned().collect()
}

/// The API's resource of a kind of policy.
pub(super) fn resource(kind: PolicyKind) -> Resource {
    match kind {
        PolicyKind::NetworkPolicy => Kind::NetworkPolicy,
        PolicyKind::ClusterNetworkPolicy => Kind::ClusterNetworkPolicy,
        PolicyKind::AdminNetworkPolicy => Kind::AdminNetworkPolicy,
        PolicyKind::BaselineAdminNetworkPolicy => Kind::BaselineAdminNetworkPolicy,
    }
    .resource()
}
