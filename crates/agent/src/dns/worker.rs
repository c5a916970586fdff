//! The thread that reads answers, learns, and lets them go.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringfence_datapath::dns_queue::DnsQueue;
use ringfence_datapath::open_connections;
use ringfence_model::DomainName;

use super::clock::Clock;
use super::journal::Journal;
use super::reader::Reader;
use super::{Demand, Learning, Listener, Tell};
use crate::core::{Gone, Handle, Message};
use crate::metrics::Meters;
use crate::tables::{Hold, Rule, Tables};

/// Longest an answer is held, less than after which resolvers ask again.
const HOLD_TIMEOUT: Duration = Duration::from_millis(900);
/// Time between two looks for open connections to an address whose TTL is over.
const GC_INTERVAL: Duration = Duration::from_secs(5);
/// Least time between two such looks.
const MIN_GC_INTERVAL: Duration = Duration::from_secs(1);
/// Time until the next attempt to open a queue.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Longest time that removing the rule may take at the end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// Time that a packet which the rule caught before it was removed may take to the queue.
const DRAIN_TIME: Duration = Duration::from_millis(50);

/// A packet that waits for a change to be in the kernel.
#[derive(Debug)]
struct Held {
    packet: u32,
    awaits: u64,
    since: Instant,
}

/// The thread's state.
pub(super) struct Worker {
    core: Handle,
    told: Receiver<Tell>,
    /// Sender of messages to this thread.
    own: Listener,
    tables: Tables,
    meters: Arc<Meters>,
    clock: Clock,
    journal: Journal,
    reader: Reader,
    /// None until the planning thread knows what rules want: nothing an earlier process learnt is given up before.
    demand: Option<Demand>,
    servers: BTreeSet<SocketAddr>,
    /// The queue, while answers are read.
    answers: Option<DnsQueue>,
    /// State of the rule that sends responses to the queue, as far as it was reported since the queue was opened.
    rule: Option<Rule>,
    retry: Option<Instant>,
    /// The reason why there is no queue.
    closed: Option<String>,
    /// Somebody is looking which connections are open.
    looking: bool,
    held: VecDeque<Held>,
    /// Number of the newest change told to the planning thread, and of the newest it has carried out.
    change: u64,
    committed: u64,
    /// When to look for addresses that have stood their time.
    due: Option<u64>,
    said: Learning,
}

impl Worker {
    /// Takes over what an earlier process learnt, and tells the planning thread.
    pub(super) fn new(
        core: Handle,
        journal: &Path,
        meters: Arc<Meters>,
        told: Receiver<Tell>,
        own: Listener,
        tables: Tables,
    ) -> Self {
        let (journal, known) = Journal::open(journal);
        let mut worker = Self {
            core,
            told,
            own,
            tables,
            meters,
            clock: Clock::new(),
            journal,
            reader: Reader::default(),
            demand: None,
            servers: BTreeSet::new(),
            answers: None,
            rule: None,
            retry: None,
            closed: None,
            looking: false,
            held: VecDeque::new(),
            change: 0,
            committed: 0,
            due: None,
            said: Learning::default(),
        };
        let now = worker.clock.now();
        for ((name, address), until) in known {
            worker.reader.learner.restore(name, address, until, now, worker.change + 1);
        }
        let names: BTreeSet<_> = worker.reader.learner.names().cloned().collect();
        let _the_agent_is_stopping = worker.tell_core(&names);
        worker
    }

    /// Works until told to stop, or until the planning thread is gone.
    pub(super) fn run(mut self) {
        while self.turn().is_ok() {}
        self.end();
    }

    /// Lets everything go: what is held, and what comes until the rule is gone. Dropping the queue would drop it.
    fn end(&mut self) {
        if self.answers.is_none() {
            return;
        }
        self.servers.clear();
        self.tables.want(None, &self.own);
        let end = Instant::now() + SHUTDOWN_TIMEOUT;
        (self.retry, self.due) = (Some(end), None);
        while self.answers.is_some() && Instant::now() < end {
            self.let_all_go();
            self.wait();
            while let Ok(told) = self.told.try_recv() {
                if let Tell::Rule(rule) = told {
                    self.rule(rule);
                }
            }
        }
        if self.answers.is_some() {
            self.close_queue();
        }
    }

    fn turn(&mut self) -> Result<(), Gone> {
        self.wait();
        self.listen()?;
        self.read()?;
        self.release();
        self.expire()?;
        if self.retry.is_some_and(|at| at <= Instant::now()) {
            self.hold()?;
        }
        Ok(())
    }

    fn wait(&self) {
        let now = Instant::now();
        let overdue = self.held.front().map(|held| (held.since + HOLD_TIMEOUT).saturating_duration_since(now));
        let retry = self.retry.map(|at| at.saturating_duration_since(now));
        let due = self.due.map(|at| Duration::from_millis(at.saturating_sub(self.clock.now())));
        let patience = [overdue, retry, due].into_iter().flatten().min();
        // A moment more, so as not to wake just before.
        let timeout = patience.map_or(PollTimeout::NONE, |patience| {
            PollTimeout::try_from(patience + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let mut ready = vec![PollFd::new(self.own.wake.as_fd(), PollFlags::POLLIN)];
        ready.extend(self.answers.as_ref().map(|answers| PollFd::new(answers.as_fd(), PollFlags::POLLIN)));
        match poll(&mut ready, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => tracing::error!(%error, "cannot wait for answers of DNS servers"),
        }
        let _none_if_nobody_woke_us = self.own.wake.read();
    }

    fn listen(&mut self) -> Result<(), Gone> {
        let mut changed = false;
        loop {
            match self.told.try_recv() {
                Ok(Tell::Demand(demand)) => {
                    let same = |before: &Demand| demand.patterns == before.patterns && demand.pods == before.pods;
                    changed |= !self.demand.as_ref().is_some_and(same);
                    self.demand = Some(demand);
                }
                Ok(Tell::Servers(servers)) => {
                    changed |= servers != self.servers;
                    self.servers = servers;
                }
                Ok(Tell::Committed(change)) => self.committed = self.committed.max(change),
                Ok(Tell::Rule(rule)) => {
                    self.rule(rule);
                    self.say()?;
                }
                Ok(Tell::Open { since, addresses }) => self.close(since, &addresses)?,
                Err(TryRecvError::Empty) => break,
                Ok(Tell::Stop) | Err(TryRecvError::Disconnected) => return Err(Gone),
            }
        }
        if changed { self.adjust() } else { Ok(()) }
    }

    /// Does what is wanted now.
    fn adjust(&mut self) -> Result<(), Gone> {
        let Some(demand) = &self.demand else { return Ok(()) };
        let patterns = demand.patterns.clone();
        let before: BTreeMap<_, Vec<_>> = self.reader.learner.entries().fold(BTreeMap::new(), |mut all, entry| {
            all.entry(entry.0.clone()).or_insert_with(Vec::new).push(entry.1);
            all
        });
        let gone = self.reader.learner.ask_for(patterns);
        let lost = gone.into_iter().filter_map(|name| before.get_key_value(&name));
        let lost: BTreeMap<_, _> = lost.map(|(name, addresses)| (name.clone(), addresses.clone())).collect();
        self.forget(&lost)?;
        self.due = self.next_look();
        self.hold()
    }

    /// Holds answers if any are wanted, and only then.
    fn hold(&mut self) -> Result<(), Gone> {
        (self.retry, self.closed) = (None, None);
        if !self.is_wanted() {
            if self.answers.is_some() {
                self.tables.want(None, &self.own);
            }
        } else if let Err(error) = self.try_hold() {
            self.closed = Some(error.to_string());
            self.retry = Some(Instant::now() + RETRY_INTERVAL);
        }
        self.say()
    }

    /// True if answers are to be read.
    fn is_wanted(&self) -> bool {
        self.reader.learner.is_needed() && !self.servers.is_empty()
    }

    fn try_hold(&mut self) -> Result<(), ringfence_datapath::Error> {
        let answers = match &mut self.answers {
            Some(answers) => answers,
            none => {
                self.rule = None;
                none.insert(DnsQueue::open()?)
            }
        };
        let pods = self.demand.as_ref().map(|demand| demand.pods.clone()).unwrap_or_default();
        let hold = Hold { queue: answers.number(), servers: self.servers.clone(), pods };
        self.tables.want(Some(hold), &self.own);
        Ok(())
    }

    /// Tells how learning stands, if that is news.
    fn say(&mut self) -> Result<(), Gone> {
        let needed = self.reader.learner.is_needed();
        let error = match &self.rule {
            _ if !needed => None,
            _ if self.servers.is_empty() => Some("no DNS server of the cluster is known".into()),
            Some(Rule::Missing(why)) if self.closed.is_none() => Some(why.clone()),
            _ => self.closed.clone(),
        };
        let active = needed && error.is_none() && self.answers.is_some() && self.rule == Some(Rule::There);
        let learning = Learning { active, servers: self.servers.clone(), error };
        if learning != self.said {
            if let Some(error) = learning.error.as_ref().filter(|error| self.said.error.as_ref() != Some(error)) {
                tracing::error!(error, "what rules allow by name cannot be learnt: it is denied");
            }
            self.said = learning.clone();
            self.core.tell(Message::Learning(learning))?;
        }
        Ok(())
    }

    /// Takes in how the rule stands.
    fn rule(&mut self, rule: Rule) {
        // If it is wanted again meanwhile it comes back to the same queue.
        if rule == Rule::Gone && !self.is_wanted() {
            self.close_queue();
        }
        self.rule = Some(rule);
    }

    /// Ends the queue, which drops what is in it: so what is, and what is on its way, goes on before.
    fn close_queue(&mut self) {
        self.let_all_go();
        thread::sleep(DRAIN_TIME);
        self.let_all_go();
        self.answers = None;
    }

    /// Lets go what is held and what waits to be read.
    fn let_all_go(&mut self) {
        let late = self.answers.as_ref().and_then(|answers| answers.receive().ok()).unwrap_or_default();
        let held = std::mem::take(&mut self.held).into_iter().map(|held| held.packet);
        for packet in held.chain(late.into_iter().map(|packet| packet.id)) {
            self.let_go(packet);
        }
    }

    /// Reads the packets that came; tells the planning thread what is new in all of them as one change.
    fn read(&mut self) -> Result<(), Gone> {
        let Some(answers) = &self.answers else { return Ok(()) };
        let packets = match answers.receive() {
            Ok(packets) => packets,
            Err(error) => {
                tracing::error!(%error, "answers of DNS servers cannot be read any more; trying anew");
                (self.answers, self.rule) = (None, None);
                self.held.clear();
                return self.hold();
            }
        };
        let (now, since) = (self.clock.now(), Instant::now());
        let mut changed = BTreeSet::new();
        let mut lines = Vec::new();
        for packet in packets {
            let brought = self.reader.read(&packet.bytes, now, self.change + 1, &self.meters);
            changed.extend(brought.changed);
            for answer in brought.answers {
                lines.extend(answer.addresses.into_iter().map(|(address, _)| (answer.name.clone(), address)));
            }
            self.held.push_back(Held { packet: packet.id, awaits: brought.awaits, since });
        }
        if !lines.is_empty() {
            self.note(&lines);
        }
        self.tell_core(&changed)
    }

    /// Writes down until when addresses stand, before anybody can act on it.
    fn note(&mut self, lines: &[(DomainName, IpAddr)]) {
        let learner = &self.reader.learner;
        let lines: Vec<_> =
            lines.iter().filter_map(|(name, address)| Some((name, *address, learner.until(name, *address)?))).collect();
        let first = lines.iter().map(|(_, _, until)| *until).min();
        self.journal.write(&lines, learner.entries());
        self.due = [self.due, first].into_iter().flatten().min();
    }

    fn tell_core(&mut self, names: &BTreeSet<DomainName>) -> Result<(), Gone> {
        if names.is_empty() {
            return Ok(());
        }
        self.change += 1;
        let domains = names.iter().map(|name| self.reader.learner.domain(name)).collect();
        self.core.tell(Message::Domains { domains, change: self.change })
    }

    /// Lets go what has waited for its change, or long enough.
    fn release(&mut self) {
        let now = Instant::now();
        let mut waiting = VecDeque::new();
        for held in std::mem::take(&mut self.held) {
            let late = held.awaits > self.committed && held.since + HOLD_TIMEOUT <= now;
            if late {
                self.meters.answers_late.inc();
            }
            if late || held.awaits <= self.committed {
                self.let_go(held.packet);
            } else {
                waiting.push_back(held);
            }
        }
        self.held = waiting;
    }

    fn let_go(&self, packet: u32) {
        let Some(answers) = &self.answers else { return };
        if let Err(error) = answers.release(packet) {
            tracing::warn!(%error, "an answer of a DNS server is lost");
        }
    }

    /// Lets addresses linger that have stood their time, and begins to look which are in use.
    fn expire(&mut self) -> Result<(), Gone> {
        let now = self.clock.now();
        if self.due.is_none_or(|due| due > now) || self.demand.is_none() {
            return Ok(());
        }
        let expired = self.reader.learner.expire(now, self.change + 1);
        self.tell_core(&expired)?;
        self.look();
        self.due = self.next_look();
        Ok(())
    }

    /// Has somebody look to which lingering addresses connections are open: answers must not wait for that. Only to
    /// those that linger in the kernel, too: there, new connections do not come after the question.
    fn look(&mut self) {
        let (since, lingering) = (self.committed, self.reader.learner.lingering(self.committed));
        let Some(demand) = self.demand.as_ref().filter(|_| !lingering.is_empty() && !self.looking) else { return };
        let (endpoints, own) = (demand.endpoints.clone(), self.own.clone());
        let look = move || {
            // While it is not known, every address counts as in use: connections must not break for it.
            let addresses = open_connections(&endpoints, &lingering).unwrap_or_else(|error| {
                tracing::warn!(%error, "addresses of names linger though perhaps no connection is open to them");
                lingering
            });
            own.tell(Tell::Open { since, addresses });
        };
        match thread::Builder::new().name("names-look".into()).spawn(look) {
            Ok(_) => self.looking = true,
            Err(error) => tracing::warn!(%error, "cannot start a thread; addresses of names linger meanwhile"),
        }
    }

    /// Forgets the lingering addresses to which no connection is open any more. Those that began to linger after the
    /// question are another's.
    fn close(&mut self, since: u64, open: &BTreeSet<IpAddr>) -> Result<(), Gone> {
        self.looking = false;
        let lost = self.reader.learner.forget(since, open);
        self.due = self.next_look();
        self.forget(&lost)
    }

    /// When to look again for addresses that have stood their time, or to which connections are open no more.
    fn next_look(&self) -> Option<u64> {
        let learner = &self.reader.learner;
        let milliseconds = |pause: Duration| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        // Asking connection tracking costs the same for one address as for all: not for each that comes of age.
        let soon = self.clock.now() + milliseconds(MIN_GC_INTERVAL);
        let lingering = learner.lingering(u64::MAX);
        let fresh = lingering != learner.lingering(self.committed);
        let again = self.clock.now() + milliseconds(if fresh { MIN_GC_INTERVAL } else { GC_INTERVAL });
        let again = (!lingering.is_empty()).then_some(again);
        [learner.next_expiry(), again].into_iter().flatten().min().map(|due| due.max(soon))
    }

    /// Carries what was forgotten to the journal and to the planning thread.
    fn forget(&mut self, lost: &BTreeMap<DomainName, Vec<IpAddr>>) -> Result<(), Gone> {
        if lost.is_empty() {
            return Ok(());
        }
        let lines: Vec<_> = lost
            .iter()
            .flat_map(|(name, addresses)| addresses.iter().map(move |address| (name, *address, 0)))
            .collect();
        self.journal.write(&lines, self.reader.learner.entries());
        self.tell_core(&lost.keys().cloned().collect())
    }
}
