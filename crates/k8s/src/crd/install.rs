//! Giving a cluster the definitions, without taking anything from it unasked.

use std::cmp::Ordering;
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::Value;
use tokio::time::Instant;

use super::{BUNDLE, CHANNEL, Channel};
use crate::json::{at, text};

/// The time that a definition may take until its objects are served.
const ESTABLISH_TIMEOUT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// Under this name the definitions' fields are owned.
const MANAGER: &str = "ringfence";

/// The result for a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Installed {
    /// The cluster had none.
    Created,
    /// The cluster had another.
    Changed {
        /// The identity of the earlier definition.
        from: Identity,
    },
    /// The cluster had just this.
    Unchanged,
}

/// The reason why a definition was not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It would take something from the cluster.
    #[error("{name}: {reason}\nhint: --force replaces it all the same")]
    Refused {
        /// The definition.
        name: String,
        /// The objection.
        reason: String,
    },
    /// The API server refused or could not be reached.
    #[error("{name} cannot be installed")]
    Api {
        /// The definition.
        name: String,
        /// The cause.
        #[source]
        error: kube::Error,
    },
    /// The definition is there and its objects are not served.
    #[error("{name} is not established after {ESTABLISH_TIMEOUT:?}: {reason}")]
    NotEstablished {
        /// The definition.
        name: String,
        /// The message of the API server.
        reason: String,
    },
}

/// The identity of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its release, such as `v0.2.0`; empty if it does not say.
    pub bundle: String,
    /// Its channel; empty if it does not say.
    pub channel: String,
}

impl Identity {
    /// Reads the identity from the annotations of a definition.
    pub fn of(definition: &Value) -> Self {
        let annotation = |name: &str| text(at(definition, &["metadata", "annotations", name])).to_owned();
        Self { bundle: annotation(BUNDLE), channel: annotation(CHANNEL) }
    }

    fn of_installed(definition: &CustomResourceDefinition) -> Self {
        let annotations = definition.metadata.annotations.as_ref();
        let annotation = |name: &str| annotations.and_then(|all| all.get(name)).cloned().unwrap_or_default();
        Self { bundle: annotation(BUNDLE), channel: annotation(CHANNEL) }
    }

    /// The objection to replacing `installed` by this definition, if there is one.
    fn objection(&self, installed: &Self) -> Option<String> {
        let loses = installed.channel == Channel::Experimental.name() && self.channel != installed.channel;
        if loses {
            return Some(
                "the cluster has the experimental channel; with the standard one, peers by nodes and domainNames \
                 vanish from its policies: rules that accept would match nothing, others would deny everything"
                    .to_owned(),
            );
        }
        let (ours, theirs) = (Version::parse(&self.bundle), Version::parse(&installed.bundle));
        match (ours, theirs) {
            (_, None) if installed.bundle.is_empty() => Some(format!(
                "the cluster has a definition that names no {BUNDLE}, so it cannot be told which of the two is newer"
            )),
            (_, None) => Some(format!(
                "the cluster has bundle version {:?}, which cannot be compared with {}",
                installed.bundle, self.bundle
            )),
            (Some(ours), Some(theirs)) if theirs > ours => Some(format!(
                "the cluster has bundle version {}, newer than {}: fields that only the newer one has vanish from its \
                 policies",
                installed.bundle, self.bundle
            )),
            (_, Some(_)) => None,
        }
    }
}

/// A version such as `v0.2.0` or `v0.3.0-rc1`.
#[derive(Debug, PartialEq, Eq)]
struct Version<'a> {
    numbers: [u64; 3],
    /// The pre-release part of a version, after the dash.
    before: Option<&'a str>,
}

impl<'a> Version<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let text = text.strip_prefix('v')?;
        let (numbers, before) = text.split_once('-').map_or((text, None), |(numbers, rest)| (numbers, Some(rest)));
        let mut parts = numbers.split('.').map(str::parse);
        let numbers = [parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?];
        parts.next().is_none().then_some(Self { numbers, before })
    }
}

impl PartialOrd for Version<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let before = match (self.before, other.before) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(one), Some(other)) => one.cmp(other),
        };
        Some(self.numbers.cmp(&other.numbers).then(before))
    }
}

/// Applies a definition (of [`definition`](super::definition)) and waits until its objects are served.
///
/// # Errors
/// The cluster has one that this would take something from (unless `force`), the API server refuses, or the definition
/// is not established in time.
pub async fn install(client: &Client, definition: &Value, force: bool) -> Result<Installed, InstallError> {
    let name = text(at(definition, &["metadata", "name"])).to_owned();
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let failed = |error: kube::Error| InstallError::Api { name: name.clone(), error };
    let wanted = Identity::of(definition);
    let before = api.get_opt(&name).await.map_err(failed)?;
    let from = before.as_ref().map(Identity::of_installed);
    let objection = from.as_ref().and_then(|installed| wanted.objection(installed));
    if let Some(reason) = objection.filter(|_| !force) {
        return Err(InstallError::Refused { name, reason });
    }
    // Fields of other owners are taken over, because half of one definition and half of another would be invalid.
    let parameters = PatchParams::apply(MANAGER).force();
    let after = api.patch(&name, &parameters, &Patch::Apply(definition)).await.map_err(failed)?;
    // Not by resource version: its status changes while the API server takes it in.
    let same = before.is_some_and(|before| before.metadata.generation == after.metadata.generation);
    let unchanged = same && from.as_ref() == Some(&wanted);
    established(&api, &name, after).await?;
    Ok(match from {
        Some(_) if unchanged => Installed::Unchanged,
        Some(from) => Installed::Changed { from },
        None => Installed::Created,
    })
}

async fn established(
    api: &Api<CustomResourceDefinition>,
    name: &str,
    mut definition: CustomResourceDefinition,
) -> Result<(), InstallError> {
    let end = Instant::now() + ESTABLISH_TIMEOUT;
    loop {
        let reason = match condition(&definition, "Established") {
            Some((true, _)) => return Ok(()),
            Some((false, message)) => message,
            None => String::new(),
        };
        // Another definition has its names: waiting does not help.
        let taken = condition(&definition, "NamesAccepted").filter(|(accepted, _)| !accepted);
        if taken.is_some() || Instant::now() > end {
            let reason = taken.map_or(reason, |(_, message)| message);
            let reason = if reason.is_empty() { "the API server says nothing of it".to_owned() } else { reason };
            return Err(InstallError::NotEstablished { name: name.to_owned(), reason });
        }
        tokio::time::sleep(PAUSE).await;
        let failed = |error| InstallError::Api { name: name.to_owned(), error };
        definition = api.get(name).await.map_err(failed)?;
    }
}

/// The status of a condition, and its message.
fn condition(definition: &CustomResourceDefinition, kind: &str) -> Option<(bool, String)> {
    let conditions = definition.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((found.status == "True", found.message.clone().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(bundle: &str, channel: &str) -> Identity {
        Identity { bundle: bundle.to_owned(), channel: channel.to_owned() }
    }

    #[track_caller]
    fn objects(installed: (&str, &str), wanted: (&str, &str), objects: bool) {
        let objection = identity(wanted.0, wanted.1).objection(&identity(installed.0, installed.1));
        assert_eq!(objection.is_some(), objects, "{objection:?}");
    }

    #[test]
    fn nothing_is_taken_unasked() {
        let (standard, experimental) = ("standard", "experimental");
        objects(("v0.2.0", standard), ("v0.2.0", standard), false);
        objects(("v0.2.0", standard), ("v0.2.0", experimental), false);
        objects(("v0.1.9", standard), ("v0.2.0", standard), false);
        objects(("v0.2.0-rc2", standard), ("v0.2.0", standard), false);
        objects(("v0.2.0", experimental), ("v0.2.0", standard), true);
        objects(("v0.1.9", experimental), ("v0.2.0", standard), true);
        objects(("v0.10.0", standard), ("v0.2.0", standard), true);
        objects(("v0.2.1-rc1", standard), ("v0.2.0", experimental), true);
        objects(("", ""), ("v0.2.0", standard), true);
        objects(("main", standard), ("v0.2.0", standard), true);
    }
}
