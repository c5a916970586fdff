//! Keeps our tables of nftables, whatever other programs do to them.
//!
//! `nft flush ruleset` takes everybody's tables, and is how Debian loads its firewall: connection tracking ends with
//! ours, so that answers to pods are dropped, and answers of DNS servers pass unread. The kernel tells whoever listens
//! ([`NftablesEvents`]); the thread looks when it hears of our tables, and every few seconds. All that waits for `nft`
//! is done here, so that nobody else has to.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use ringfence_datapath::conntrack::{self, TABLE};
use ringfence_datapath::dns_queue;
use ringfence_datapath::nftables::{NftablesEvents, rule_count};
use ringfence_routes::{FIREWALL, MASQUERADE};

use crate::core::{Gone, Handle};
use crate::dns::{Listener, Tell};
use crate::metrics::Meters;
use crate::primary::Nudge;

/// Time between two looks without an event, and until a failed attempt is repeated.
const RESYNC_INTERVAL: Duration = Duration::from_secs(5);
/// Least time between two looks, so that a program that takes our tables away again and again costs little.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Names of connection tracking and of the DNS rule among the repaired components.
const TRACKING: &str = "connection-tracking";
const ANSWERS: &str = "dns-answers";

/// Whose answers are to be held.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    /// The queue to hold them in.
    pub(crate) queue: u16,
    /// The servers.
    pub(crate) servers: BTreeSet<SocketAddr>,
    /// Ranges of the pods.
    pub(crate) pods: BTreeSet<IpNet>,
}

/// State of the rule that holds responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// As it was wanted.
    There,
    /// It is wanted, and not there: why.
    Missing(String),
    /// It is not wanted any more, and not there.
    Gone,
}

#[derive(Debug)]
enum Told {
    /// Hold these answers, or none; and tell how the rule stands.
    Want(Option<Hold>, Listener),
    /// There are routes to keep: to be looked at when something happens to their table.
    Roads(Sender<Nudge>),
    Stop,
}

/// Sender of messages to the planning thread.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    sender: Sender<Told>,
    wake: Arc<EventFd>,
}

impl Tables {
    /// Without anybody who does what is told.
    #[cfg(test)]
    pub(crate) fn unheard() -> Self {
        Self { sender: mpsc::channel().0, wake: Arc::new(EventFd::from_value(0).unwrap()) }
    }

    /// Hold these answers from now on, or none.
    pub(crate) fn want(&self, hold: Option<Hold>, listener: &Listener) {
        self.tell(Told::Want(hold, listener.clone()));
    }

    /// Tell these when something happens to the table of the routes between nodes.
    pub(crate) fn tell_roads(&self, roads: Sender<Nudge>) {
        self.tell(Told::Roads(roads));
    }

    /// Ends the thread; the tables stay.
    pub(crate) fn stop(&self) {
        self.tell(Told::Stop);
    }

    fn tell(&self, told: Told) {
        if self.sender.send(told).is_ok() {
            let _counts_up = self.wake.write(1);
        }
    }
}

/// Starts the thread in the network namespace of the calling one.
pub(crate) fn start(core: &Handle, meters: Arc<Meters>) -> io::Result<(Tables, JoinHandle<()>)> {
    let (sender, told) = mpsc::channel();
    let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
    let keeper = Keeper {
        told,
        wake: Arc::clone(&wake),
        meters,
        events: None,
        answers: None,
        left: Some(Instant::now()),
        roads: None,
    };
    let thread = core.spawn("tables", move || keeper.run())?;
    Ok((Tables { sender, wake }, thread))
}

/// State of the thread.
struct Keeper {
    told: Receiver<Told>,
    wake: Arc<EventFd>,
    meters: Arc<Meters>,
    events: Option<NftablesEvents>,
    answers: Option<DnsQueue>,
    /// Something is left of a rule that is not wanted any more; from when on nothing is held by it.
    left: Option<Instant>,
    roads: Option<Sender<Nudge>>,
}

/// The rule that holds answers.
struct DnsQueue {
    hold: Hold,
    listener: Listener,
    /// It was put, and as far as is known it is there.
    put: bool,
}

impl Keeper {
    fn run(mut self) {
        // An earlier process may have died with its rule in place.
        self.tidy(Instant::now());
        let (mut looked, mut due) = (Instant::now(), Instant::now());
        while self.listen().is_ok() {
            if self.concerned() {
                due = due.min(looked + MIN_INTERVAL);
            }
            if due <= Instant::now() {
                self.look();
                looked = Instant::now();
                due = looked + RESYNC_INTERVAL;
            }
            self.wait(due);
        }
        // Whoever held answers has ended before.
        self.tidy(Instant::now() + RESYNC_INTERVAL);
    }

    /// Takes away what is left of a rule that is not wanted any more, once nothing is held by it at this time.
    fn tidy(&mut self, now: Instant) {
        if self.answers.is_none()
            && self.left.take_if(|from| *from <= now).is_some()
            && let Err(error) = dns_queue::stop()
        {
            tracing::warn!(%error, "what is left of a rule stays");
        }
    }

    /// Waits until somebody tells something, or for the next look.
    fn wait(&self, due: Instant) {
        let timeout = due.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let mut ready = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        ready.extend(self.events.as_ref().map(|events| PollFd::new(events.as_fd(), PollFlags::POLLIN)));
        // An error is followed by a look, as a word is.
        let _ready = poll(&mut ready, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX));
        let _none_if_nobody_woke_us = self.wake.read();
    }

    /// Does what it is told, until the end.
    fn listen(&mut self) -> Result<(), Gone> {
        let mut wanted = None;
        loop {
            match self.told.try_recv() {
                // Of many, as where pods start, only the last counts.
                Ok(Told::Want(hold, listener)) => wanted = Some((hold, listener)),
                Ok(Told::Roads(roads)) => self.roads = Some(roads),
                Err(TryRecvError::Empty) => break,
                Ok(Told::Stop) | Err(TryRecvError::Disconnected) => return Err(Gone),
            }
        }
        if let Some((hold, listener)) = wanted {
            self.want(hold, listener);
        }
        Ok(())
    }

    /// True if our tables changed. Where nobody tells, one looks now and then.
    fn concerned(&mut self) -> bool {
        let events = match self.events.take().map_or_else(NftablesEvents::open, Ok) {
            Ok(events) => events,
            Err(error) => {
                tracing::debug!(%error, "tables are looked at every few seconds only");
                return false;
            }
        };
        match events.affect(&[TABLE, FIREWALL]) {
            Ok(concern) => {
                self.events = Some(events);
                concern
            }
            Err(error) => {
                tracing::debug!(%error, "listening to changes of tables anew");
                true
            }
        }
    }

    fn look(&mut self) {
        self.keep_tracking();
        self.keep_answers();
        self.tidy(Instant::now());
        let (chain, count) = MASQUERADE;
        let lost = || rule_count(FIREWALL, chain).is_ok_and(|rules| rules < count);
        if let Some(roads) = self.roads.as_ref().filter(|_| lost()) {
            let _the_agent_is_stopping = roads.send(Nudge::Network);
        }
    }

    fn keep_tracking(&self) {
        let mended = &self.meters.mended;
        let made = match conntrack::is_kept_active() {
            Ok(true) => return mended.whole(TRACKING),
            Ok(false) => conntrack::keep_active(),
            Err(error) => Err(error),
        };
        match made {
            Ok(()) => mended.mended(
                TRACKING,
                format!("somebody removed table inet {TABLE}, which keeps connection tracking active; it is made anew"),
            ),
            Err(error) => {
                mended.broken(TRACKING, format!("connections may not be tracked, so answers are dropped: {error}"));
            }
        }
    }

    fn want(&mut self, hold: Option<Hold>, listener: Listener) {
        let before = self.answers.take();
        let Some(hold) = hold else {
            if before.is_some() {
                self.left = Some(Instant::now() + RESYNC_INTERVAL);
                if let Err(error) = dns_queue::pause() {
                    tracing::warn!(%error, "answers of DNS servers may still pass through a queue that lets all of \
                        them pass");
                }
            }
            self.meters.mended.whole(ANSWERS);
            return listener.tell(Tell::Rule(Rule::Gone));
        };
        let same_queue = before.is_some_and(|before| before.put && before.hold.queue == hold.queue);
        let put = same_queue && dns_queue::change(&hold.servers, &hold.pods).is_ok();
        if put {
            listener.tell(Tell::Rule(Rule::There));
        }
        let mut answers = DnsQueue { hold, listener, put };
        if !put {
            answers.put();
        }
        self.answers = Some(answers);
    }

    fn keep_answers(&mut self) {
        let Some(answers) = &mut self.answers else { return };
        if answers.put && dns_queue::are_held().unwrap_or(false) {
            return;
        }
        let lost = answers.put;
        if lost {
            let why = format!("somebody removed chains of table inet {TABLE}");
            answers.listener.tell(Tell::Rule(Rule::Missing(why)));
        }
        if answers.put() && lost {
            let found = format!(
                "somebody removed chains of table inet {TABLE} that answers of DNS servers are read by; \
                                 they are made anew, and what was answered meanwhile is not known"
            );
            self.meters.mended.mended(ANSWERS, found);
        }
    }
}

impl DnsQueue {
    /// Puts the rule, and tells what came of it.
    fn put(&mut self) -> bool {
        let Hold { queue, servers, pods } = &self.hold;
        let put = dns_queue::hold(*queue, servers, pods);
        self.put = put.is_ok();
        let rule = put.map_or_else(|error| Rule::Missing(error.to_string()), |()| Rule::There);
        self.listener.tell(Tell::Rule(rule));
        self.put
    }
}

#[cfg(test)]
mod tests;
