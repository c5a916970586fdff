//! Budgets of reports: a budget for each source, and one for the node that the sources share fairly.
//!
//! Nobody hides behind somebody else's flood: links take turns, and on a link its sources do. What a source may not say
//! is counted, and told as one line every few seconds. Memory is bounded whatever arrives: sources beyond a number
//! share one budget, and a source has more than one report waiting only while few are waiting in all.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ringfence_datapath::Event;

use super::bucket::{Bucket, Rate};
use super::is_spoofed;

/// The budgets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// By each source.
    pub(super) source: Rate,
    /// By all of them. No more reports than its burst wait, but for one of each source.
    pub(super) node: Rate,
}

/// Time after which a source over its budget is reported as a number.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(5);
/// Least time between two looks for sources that can be forgotten.
const GC_INTERVAL: Duration = Duration::from_secs(1);
/// Links with a budget of their own, sources of one link, and of all. Others share one.
const MAX_LINKS: usize = 1024;
const MAX_SOURCES_OF_LINK: usize = 256;
const MAX_SOURCES: usize = 4096;

/// A report within the budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// A report.
    Report(Event),
    /// So many packets more of a source, of which this was the last.
    More(Event, u64),
}

/// By the link that packets come in by (0: the node itself; none: all links for which there is no room), and on it by
/// their source address (none: any).
type Link = Option<u32>;
type Address = Option<IpAddr>;

/// The budgets.
#[derive(Debug)]
pub(super) struct Budget {
    limits: Limits,
    node: Bucket,
    links: BTreeMap<Link, Sources>,
    /// The links that have something to say, whose turn it is first.
    turn: VecDeque<Link>,
    /// Reports that wait.
    waiting: usize,
    /// Sources with a budget.
    sources: usize,
    /// The sources that said too much, and when that is told, the earliest first.
    silenced: VecDeque<(Instant, Link, Address)>,
    /// When idle sources were last forgotten.
    tidied: Instant,
}

#[derive(Debug, Default)]
struct Sources {
    sources: BTreeMap<Address, Source>,
    /// Those that have something to say, whose turn it is first.
    turn: VecDeque<Address>,
}

#[derive(Debug)]
struct Source {
    bucket: Bucket,
    waiting: VecDeque<Event>,
    /// Packets that are told as a number, and the last of them.
    more: Option<(Event, u64)>,
    /// It is time to tell that number.
    due: bool,
}

impl Budget {
    /// With all buckets full.
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            node: Bucket::new(limits.node, now),
            links: BTreeMap::new(),
            turn: VecDeque::new(),
            waiting: 0,
            sources: 0,
            silenced: VecDeque::new(),
            tidied: now,
        }
    }

    /// Takes in a report. False: it is only counted.
    pub(super) fn offer(&mut self, event: Event, now: Instant) -> bool {
        let rate = self.limits.source;
        let crowded = self.waiting >= self.limits.node.burst as usize;
        let (link, address) = self.payer(&event, now);
        let sources = self.links.entry(link).or_default();
        let source = sources.sources.entry(address).or_insert_with(|| {
            self.sources += 1;
            Source { bucket: Bucket::new(rate, now), waiting: VecDeque::new(), more: None, due: false }
        });
        if (crowded && !source.waiting.is_empty()) || !source.bucket.take(rate, now) {
            if source.more.is_none() {
                self.silenced.push_back((now + SUMMARY_INTERVAL, link, address));
            }
            let before = source.more.take().map_or(0, |(_, packets)| packets);
            let packets = before + 1 + event.repeated;
            source.more = Some((event, packets));
            return false;
        }
        if source.waiting.is_empty() && !source.due {
            sources.await_turn(address, link, &mut self.turn);
        }
        if let Some(source) = sources.sources.get_mut(&address) {
            source.waiting.push_back(event);
            self.waiting += 1;
        }
        true
    }

    /// The reports that may be sent now.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Told> {
        while self.silenced.front().is_some_and(|(due, ..)| *due <= now) {
            let Some((_, link, address)) = self.silenced.pop_front() else { break };
            let Some(sources) = self.links.get_mut(&link) else { continue };
            let Some(source) = sources.sources.get_mut(&address) else { continue };
            let already = !source.waiting.is_empty();
            source.due = true;
            if !already {
                sources.await_turn(address, link, &mut self.turn);
            }
        }
        let mut told = Vec::new();
        while !self.turn.is_empty() && self.node.take(self.limits.node, now) {
            told.extend(self.next());
        }
        told
    }

    /// The next thing of the source whose turn it is; that source, and its link, are last then.
    fn next(&mut self) -> Option<Told> {
        let link = self.turn.pop_front()?;
        let sources = self.links.get_mut(&link)?;
        let address = sources.turn.pop_front()?;
        let source = sources.sources.get_mut(&address)?;
        // The number first: in a flood there is always something waiting.
        let told = if std::mem::take(&mut source.due) {
            source.more.take().map(|(event, packets)| Told::More(event, packets))
        } else {
            let event = source.waiting.pop_front();
            self.waiting -= usize::from(event.is_some());
            event.map(Told::Report)
        };
        if !source.waiting.is_empty() {
            sources.turn.push_back(address);
        }
        if !sources.turn.is_empty() {
            self.turn.push_back(link);
        }
        told
    }

    /// Whom a report is charged to. A false source address names nobody: then the link it came by does.
    fn payer(&mut self, event: &Event, now: Instant) -> (Link, Address) {
        let mut link = Some(event.interface);
        let mut address = (!is_spoofed(event)).then_some(event.source);
        if self.known(link, address) {
            return (link, address);
        }
        let is_new_link = !self.links.contains_key(&link);
        let of_link = self.links.get(&link).map_or(0, |sources| sources.sources.len());
        if of_link >= MAX_SOURCES_OF_LINK
            || self.sources >= MAX_SOURCES
            || (is_new_link && self.links.len() >= MAX_LINKS)
        {
            self.forget_idle(now);
        }
        if is_new_link && self.links.len() >= MAX_LINKS {
            link = None;
        }
        let of_link = self.links.get(&link).map_or(0, |sources| sources.sources.len());
        if of_link >= MAX_SOURCES_OF_LINK || self.sources >= MAX_SOURCES {
            address = None;
        }
        (link, address)
    }

    fn known(&self, link: Link, address: Address) -> bool {
        self.links.get(&link).is_some_and(|sources| sources.sources.contains_key(&address))
    }

    /// Forgets the sources that lose nothing by it. Not for each that comes: that would be work for whoever has many.
    fn forget_idle(&mut self, now: Instant) {
        if now < self.tidied + GC_INTERVAL {
            return;
        }
        self.tidied = now;
        let rate = self.limits.source;
        for sources in self.links.values_mut() {
            sources.sources.retain(|_, source| {
                !source.waiting.is_empty() || source.more.is_some() || source.due || !source.bucket.is_full(rate, now)
            });
        }
        self.links.retain(|_, sources| !sources.sources.is_empty());
        self.sources = self.links.values().map(|sources| sources.sources.len()).sum();
    }
}

impl Sources {
    /// A source has something to say again.
    fn await_turn(&mut self, address: Address, link: Link, turn: &mut VecDeque<Link>) {
        if self.turn.is_empty() {
            turn.push_back(link);
        }
        self.turn.push_back(address);
    }
}

#[cfg(test)]
mod tests;
