//! The faults, by name.
//!
//! To add one, write a file in `scenario/` with a `pub(super) const SCENARIO: Scenario` and the function that makes the
//! fault happen, and name the file below twice: as `mod`, and in [`ALL`]. Command line, help, table and document
//! follow. What such a function may rely on, and what it owes, is told at [`Scenario::run`].

mod bridge_settings;
mod clock;
mod flush;
mod forward;
mod guards_removed;
mod hostile;
mod inotify;
mod kills;
mod links_renamed;
mod namespaces;
mod nothing;
mod outage;
mod partition;
mod pins;
mod plugin_configuration;
mod port;
mod reboot;
mod reboot_primary;
mod routes;
mod runtime;
mod starts;
mod unmounted;
mod upgrade;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use futures::future::LocalBoxFuture;

use super::Options;
use super::stage::Stage;

/// All, in the order in which they are tried: what takes a node apart comes late.
static ALL: &[Scenario] = &[
    nothing::SCENARIO,
    kills::SCENARIO,
    guards_removed::SCENARIO,
    links_renamed::SCENARIO,
    bridge_settings::SCENARIO,
    hostile::SCENARIO,
    upgrade::SCENARIO,
    runtime::SCENARIO,
    pins::SCENARIO,
    unmounted::SCENARIO,
    plugin_configuration::SCENARIO,
    inotify::SCENARIO,
    port::SCENARIO,
    partition::SCENARIO,
    clock::SCENARIO,
    flush::TABLES,
    flush::RULES,
    flush::CONNECTIONS,
    forward::SCENARIO,
    routes::SCENARIO,
    namespaces::SCENARIO,
    outage::SCENARIO,
    reboot::SCENARIO,
    reboot_primary::SCENARIO,
    starts::DENIED,
    starts::ALLOWED,
];

/// An attempt that comes to an end: tells what was done, in words for the document.
pub(crate) type Trial<'a> = LocalBoxFuture<'a, anyhow::Result<String>>;

/// A fault.
pub(crate) struct Scenario {
    /// Its name, on the command line and in the table: words joined by `-`.
    pub(crate) name: &'static str,
    /// The fault, in one sentence.
    pub(crate) about: &'static str,
    /// The reason why it cannot be tried here, if so.
    pub(crate) obstacle: fn(&Stage, &Options) -> Option<String>,
    /// Makes it happen and waits until it is over.
    ///
    /// All pairs of the stage are probed and judged when it begins. Whoever changes what is expected of a pair says so
    /// before ([`Stage::change`], [`Stage::leave`]), and [`Stage::reach`] judges again once it is as it shall be. What
    /// it made on nodes it takes away, also when it fails; afterwards all pairs have to come right by themselves.
    pub(crate) run: for<'a> fn(&'a mut Stage, &'a Options) -> Trial<'a>,
}

impl Scenario {
    /// All, or those of some names, in the order in which they are tried.
    pub(crate) fn chosen(only: &[&'static str]) -> impl Iterator<Item = &'static Self> {
        ALL.iter().filter(|scenario| only.is_empty() || only.contains(&scenario.name))
    }

    /// Reads a name from the command line.
    pub(crate) fn names() -> impl TypedValueParser<Value = &'static str> {
        let names = ALL.iter().map(|scenario| PossibleValue::new(scenario.name).help(scenario.about));
        let known = |name: String| ALL.iter().map(|scenario| scenario.name).find(|known| *known == name);
        PossibleValuesParser::new(names).try_map(move |name| known(name).ok_or("there is no such fault"))
    }
}

/// For faults that can be made to happen on every cluster.
fn everywhere(_: &Stage, _: &Options) -> Option<String> {
    None
}

/// For faults of processes of nodes.
fn on_this_machine(stage: &Stage, _: &Options) -> Option<String> {
    let why = "it stops processes of nodes, and this cluster's are not on this machine (--machine)";
    stage.machine.is_none().then(|| why.into())
}

/// For faults of nodes whose network is Ringfence's own.
fn where_primary(stage: &Stage, options: &Options) -> Option<String> {
    let why = "another plugin gives pods their network here (install --primary; e2e --cni none)";
    on_this_machine(stage, options).or_else(|| (!stage.primary).then(|| why.into()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_has_a_name_of_its_own_that_a_table_can_hold() {
        let names: BTreeSet<&str> = ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), ALL.len());
        let plain = |name: &&str| name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        assert!(names.iter().all(plain), "{names:?}");
    }

    #[test]
    fn those_that_are_named_are_tried_in_the_order_of_all() {
        let chosen = |only| Scenario::chosen(only).map(|scenario| scenario.name).collect::<Vec<_>>();
        assert_eq!(chosen(&["reboot", "kills"]), ["kills", "reboot"]);
        assert_eq!(chosen(&[]).len(), ALL.len());
    }
}
