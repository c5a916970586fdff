//! The changes that a directory of network configurations needs: a function of the files that are there.

use ringfence_api as api;
use ringfence_cni::{Error, PLUGIN, conflist, multus};
use serde_json::Value;

use super::files::Files;
use super::{WRAPPER, bypass};

/// The changes, and the state after them.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// Files to be written, in this order.
    pub(super) write: Vec<Write>,
    /// True if the list that was made for a configuration that is none is to go.
    pub(super) unwrap: bool,
    pub(super) state: api::CniConfig,
}

/// A file to be written, unless its text is another by then.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) name: String,
    /// None: it is new.
    pub(super) before: Option<String>,
    pub(super) after: String,
}

/// The configuration that runtimes take, and where the plugin belongs for it.
struct Place<'a> {
    /// Name and text of the file, where there is a place in it.
    file: Option<(&'a str, &'a str)>,
    /// The function that adds the plugin to that file.
    put: fn(&str, &Value) -> Result<Option<String>, Error>,
    /// The reason why it cannot be placed.
    error: Option<String>,
}

/// Chains the plugin behind whatever gives pods their addresses, and takes it out of everything else.
pub(super) fn plan(files: &Files, member: &Value) -> Steps {
    let texts = files.texts.iter().map(|(name, text)| (&**name, &**text));
    let usable: Vec<(&str, &str)> = texts.filter(|(name, text)| *name != WRAPPER && is_usable(name, text)).collect();
    // What cannot be seen from here may be what runtimes take.
    let lost = files.lost.first_key_value().filter(|(name, _)| usable.first().is_none_or(|first| &***name < first.0));
    if let Some((name, why)) = lost {
        return without(files, None, &format!("{name}: {why}"));
    }
    let Some(first) = usable.first().copied() else {
        return without(files, None, "no network plugin is configured");
    };
    let place = place(first, &usable);
    let (name, text) = place.file.unwrap_or(first);
    let plugins = conflist::types(text).into_iter().filter(|plugin| plugin != PLUGIN).collect();
    let bypass = bypass::reason(first.0, first.1).or_else(|| bypass::reason(name, text));
    if bypass.is_some() {
        let mut steps = without(files, None, "");
        steps.state = api::CniConfig { plugins, bypass, ..api::CniConfig::default() };
        return steps;
    }
    if place.file.is_none() {
        return without(files, None, &place.error.unwrap_or_default());
    }
    let made = !is_list(first.0) && !multus::is_multus(first.1);
    let target = if made { WRAPPER } else { name };
    let before = if made { files.texts.get(WRAPPER).cloned() } else { Some(text.to_owned()) };
    let after = if made {
        conflist::wrap(text, name, member).map(|list| (before.as_deref() != Some(&*list)).then_some(list))
    } else {
        (place.put)(text, member)
    };
    let mut steps = without(files, Some(target), "");
    steps.state = api::CniConfig { file: Some(target.to_owned()), plugins, ..api::CniConfig::default() };
    match after {
        Ok(Some(after)) => steps.write.insert(0, Write { name: target.to_owned(), before, after }),
        Ok(None) => {}
        Err(error) => {
            steps.state = api::CniConfig { error: Some(format!("{target}: {error}")), ..api::CniConfig::default() };
        }
    }
    steps
}

/// Place of the plugin in the configuration.
fn place<'a>(first: (&'a str, &'a str), usable: &[(&'a str, &'a str)]) -> Place<'a> {
    let (name, text) = first;
    let fine = Place { file: Some(first), put: conflist::insert, error: None };
    if is_list(name) {
        return fine;
    }
    if !multus::is_multus(text) {
        let hidden = name < WRAPPER;
        let why =
            || format!("runtimes take {name} before {WRAPPER}; hint: rename {name} so that it comes after {WRAPPER}");
        // What comes after it is never taken.
        return if hidden { Place { file: None, error: Some(why()), ..fine } } else { fine };
    }
    if multus::has_delegates(text) {
        return Place { put: multus::insert, ..fine };
    }
    let network = multus::cluster_network(text);
    let is_named = |(name, text): &&(&str, &str)| {
        let called = network.as_deref();
        is_list(name) && (called == Some(*name) || called.is_some() && conflist::name(text).as_deref() == called)
    };
    if let Some(delegate) = usable.iter().find(is_named) {
        return Place { file: Some(*delegate), ..fine };
    }
    let called = network.as_deref().unwrap_or("none");
    let why = format!(
        "{name} is Multus', and the network it calls (clusterNetwork: {called}) is no list in this directory; hint: \
         see to it that clusterNetwork names one, and start Multus anew on this node"
    );
    Place { file: None, error: Some(why), ..fine }
}

/// Takes the plugin out of all files but one.
pub(super) fn without(files: &Files, but: Option<&str>, why: &str) -> Steps {
    let out = |(name, text): (&String, &String)| {
        if but == Some(&**name) || name == WRAPPER {
            return None;
        }
        let taken = if is_list(name) { conflist::remove(text) } else { multus::remove(text) };
        // What cannot be read is being written, or nothing of ours.
        let after = taken.ok().flatten()?;
        Some(Write { name: name.clone(), before: Some(text.clone()), after })
    };
    Steps {
        write: files.texts.iter().filter_map(out).collect(),
        unwrap: but != Some(WRAPPER) && files.texts.contains_key(WRAPPER),
        state: api::CniConfig { error: (!why.is_empty()).then(|| why.to_owned()), ..api::CniConfig::default() },
    }
}

/// True if a file is a list by its name: runtimes read others as the configuration of one plugin.
fn is_list(name: &str) -> bool {
    std::path::Path::new(name).extension().is_some_and(|kind| kind == "conflist")
}

/// True if a runtime can use a configuration: a list has plugins, anything else is one.
pub(super) fn is_usable(name: &str, text: &str) -> bool {
    !conflist::types(text).is_empty() && conflist::is_list(text) == is_list(name)
}
