//! A scrape, as Prometheus and its linter read it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::support::{Fixture, deny_all, pod};
use super::{apply, denied};
use crate::core::Question;
use crate::metrics::{self, Format};
use ringfence_datapath::DropReason;

/// True if Prometheus' linter is there. Says so if not; where `CI` is set that is a failure.
fn has_promtool() -> bool {
    let found = Command::new("promtool").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok() {
        return true;
    }
    let reason = "no promtool is installed (of Debian's package prometheus; cargo xtask test fetches it)";
    assert!(std::env::var_os("CI").is_none(), "this machine must run every test, but: {reason}");
    println!("skipped: {reason}");
    false
}

/// A scrape of an agent about which there is something to say in every family.
fn scrape(format: Format) -> String {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(deny_all("a", 1)), apply(pod("b", "client", "10.244.1.7"))]);
    fixture.lose_events(3);
    fixture.meters.mended.mended("pins", "4 pins were removed");
    fixture.ask(|reply| Question::Resolve(vec![denied(DropReason::Unparseable)], reply));
    let gauges = fixture.ask(Question::Gauges);
    metrics::text(&fixture.meters, gauges, format).unwrap()
}

#[test]
fn prometheus_own_linter_has_nothing_to_say() {
    if !has_promtool() {
        return;
    }
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(scrape(Format::Prometheus).as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
    assert!(output.status.success() && said.trim().is_empty(), "{}: {said}", output.status);
}

/// Families of which the fixture has no sample: pods on a bridge, problems of policies.
const WITHOUT_SAMPLE: [&str; 2] = ["ringfence_bridge_netfilter", "ringfence_policies_with_problems"];

#[test]
fn the_document_names_every_metric_and_no_other() {
    let document = include_str!("../../../../../docs/observability.md");
    let table = document.split("## Status").next().unwrap().split("| metric |").nth(1).unwrap();
    let named: BTreeSet<&str> = table.split('`').filter(|word| word.starts_with("ringfence_")).collect();
    let text = scrape(Format::Prometheus);
    let there = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let there: BTreeSet<&str> = there.chain(WITHOUT_SAMPLE).collect();
    assert_eq!(named.symmetric_difference(&there).collect::<Vec<_>>(), Vec::<&&str>::new());
}

#[test]
fn who_does_not_ask_for_openmetrics_gets_the_text_format() {
    assert_eq!(Format::accepted(None), Format::Prometheus);
    assert_eq!(Format::accepted(Some("text/plain;version=0.0.4;q=0.5,*/*;q=0.1")), Format::Prometheus);
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
    assert_eq!(Format::accepted(Some(prometheus)), Format::OpenMetrics);
    let (text, open) = (scrape(Format::Prometheus), scrape(Format::OpenMetrics));
    for line in ["# TYPE ringfence_events_lost_total counter", "ringfence_events_lost_total 3"] {
        assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
    }
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
    assert!(open.contains("# TYPE ringfence_events_lost counter\n") && open.ends_with("# EOF\n"), "{open}");
}
