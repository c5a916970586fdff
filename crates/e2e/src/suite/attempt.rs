//! One connection that is tried, and what it must come to.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt as _, stream};
use kube::Client;
use ringfence_install::connect;
use ringfence_install::verify::report::Outcome;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::stage::Actor;

/// The number of connections are tried at a time.
const AT_ONCE: usize = 8;
/// The time that a packet is waited for, from this machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The time that Services and host ports may take to be there.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// By which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

/// The caller.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    /// A pod.
    Pod(Actor),
    /// The machine that this runs on; by TCP only.
    Machine,
}

/// A connection that is tried.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    caller: Caller,
    target: SocketAddr,
    protocol: Protocol,
    allowed: bool,
}

impl Attempt {
    /// From a pod.
    pub(super) fn of(caller: &Actor, target: SocketAddr, protocol: Protocol, allowed: bool) -> Self {
        Self { caller: Caller::Pod(caller.clone()), target, protocol, allowed }
    }

    /// From a pod, by each protocol.
    pub(super) fn both(caller: &Actor, target: SocketAddr, allowed: bool) -> [Self; 2] {
        [Protocol::Tcp, Protocol::Udp].map(|protocol| Self::of(caller, target, protocol, allowed))
    }

    /// From a pod to each address of another, by each protocol.
    pub(super) fn to(caller: &Actor, called: &Actor, port: u16, allowed: bool) -> Vec<Self> {
        let targets = called.addresses.iter().map(|address| SocketAddr::new(*address, port));
        targets.flat_map(|target| Self::both(caller, target, allowed)).collect()
    }

    /// From this machine.
    pub(super) fn from_here(target: SocketAddr, allowed: bool) -> Self {
        Self { caller: Caller::Machine, target, protocol: Protocol::Tcp, allowed }
    }

    /// Tries it once.
    async fn once(&self, client: &Client) -> anyhow::Result<bool> {
        match &self.caller {
            Caller::Pod(pod) => {
                connect::once(client, &pod.container(), &self.target.to_string(), self.protocol.name()).await
            }
            Caller::Machine => match timeout(ANSWER_TIMEOUT, TcpStream::connect(self.target)).await {
                Ok(Ok(_)) => Ok(true),
                Ok(Err(error)) => Err(error).with_context(|| self.title()),
                Err(_) => Ok(false),
            },
        }
    }

    /// The difference from the expected result, if there is one.
    async fn judge(&self, client: &Client) -> Option<String> {
        let seen = match &self.caller {
            Caller::Pod(pod) => {
                let (target, protocol) = (self.target.to_string(), self.protocol.name());
                connect::settle(client, &pod.container(), &target, protocol, self.allowed).await
            }
            Caller::Machine => self.once(client).await,
        };
        let (must, is) = if self.allowed { ("let through", "not") } else { ("denied", "let through") };
        match seen {
            Ok(seen) => (seen != self.allowed).then(|| format!("{} must be {must}, and is {is}", self.title())),
            Err(error) => Some(format!("{} must be {must}: {error:#}", self.title())),
        }
    }

    fn title(&self) -> String {
        let caller = match &self.caller {
            Caller::Pod(pod) => &pod.name,
            Caller::Machine => "this machine",
        };
        format!("{caller} to {} by {}", self.target, self.protocol.name().to_uppercase())
    }
}

impl Protocol {
    /// As programs name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Tries all; returns what differs.
pub(super) async fn all(client: &Client, attempts: &[Attempt]) -> Vec<String> {
    let judged: Vec<Option<String>> =
        stream::iter(attempts).map(|attempt| attempt.judge(client)).buffered(AT_ONCE).collect().await;
    judged.into_iter().flatten().collect()
}

/// Tries each until it comes about; returns which did not in time.
pub(super) async fn soon(client: &Client, attempts: &[Attempt]) -> Vec<String> {
    let end = Instant::now() + READY_TIMEOUT;
    let tried: Vec<Option<String>> =
        stream::iter(attempts).map(|attempt| until(client, attempt, end)).buffered(AT_ONCE).collect().await;
    tried.into_iter().flatten().collect()
}

async fn until(client: &Client, attempt: &Attempt, end: Instant) -> Option<String> {
    loop {
        // A Service that does not know its pods yet refuses.
        let failed = match attempt.once(client).await {
            Ok(true) => return None,
            Ok(false) => "no answer".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() > end {
            return Some(format!("{}, without policy, not within {READY_TIMEOUT:?}: {failed}", attempt.title()));
        }
    }
}

/// Result of a case, from the differences.
pub(super) fn outcome(wrong: Vec<String>) -> Outcome {
    if wrong.is_empty() { Outcome::Passed } else { Outcome::Failed(wrong) }
}
