//! Content hashes, which ids are made of.

use ringfence_model::{Action, IpBlock, Name, NamespaceSelection, Peer, Peers, PodSelection, Policy, PolicyId};
use ringfence_model::{PortMatch, Ports, Protocol, Requirement, Rule, Selector};

/// A full hash. Two contents with the same hash are taken to be equal.
pub(super) type Digest = [u8; 32];

/// Ids below are reserved for the constants of `plan`.
const RESERVED: u64 = 16;

/// Shortened ids for tests, so that contents collide.
#[cfg(feature = "testing")]
pub(crate) mod short {
    use std::cell::Cell;

    thread_local! {
        static BYTES: Cell<usize> = const { Cell::new(8) };
    }

    /// Runs work on this thread with short ids.
    pub(crate) fn with<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
        let before = BYTES.replace(bytes);
        let done = work();
        BYTES.set(before);
        done
    }

    pub(super) fn cut(id: &mut [u8; 8]) {
        id.iter_mut().skip(BYTES.get()).for_each(|byte| *byte = 0);
    }
}

/// An unambiguous encoding of a value, to be hashed: everything of variable length is preceded by its length.
#[derive(Default)]
pub(super) struct Content(Vec<u8>);

impl Content {
    /// Starts with the kind of the value.
    pub(super) fn new(kind: &str) -> Self {
        let mut content = Self(Vec::with_capacity(256));
        content.text(kind);
        content
    }

    pub(super) fn digest(&self) -> Digest {
        *blake3::hash(&self.0).as_bytes()
    }

    /// The first 64 bits of the hash, never one of the reserved ids.
    pub(super) fn id(&self) -> u64 {
        Self::id_of(&self.digest())
    }

    /// Same as [`Self::id`], from a hash.
    pub(super) fn id_of(digest: &Digest) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        #[cfg(feature = "testing")]
        short::cut(&mut first);
        u64::from_le_bytes(first).max(RESERVED)
    }

    /// The number of bytes so far.
    pub(super) fn length_so_far(&self) -> usize {
        self.0.len()
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn number(&mut self, number: impl Into<i64>) {
        self.bytes(&number.into().to_le_bytes());
    }

    pub(super) fn length(&mut self, length: usize) {
        self.bytes(&(length as u64).to_le_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.length(text.len());
        self.bytes(text.as_bytes());
    }

    pub(super) fn optional(&mut self, text: Option<&Name>) {
        self.number(u8::from(text.is_some()));
        self.text(text.map_or("", |text| text));
    }

    pub(super) fn policy_id(&mut self, id: &PolicyId) {
        self.number(id.kind as u8);
        self.optional(id.namespace.as_ref());
        self.text(&id.name);
    }

    pub(super) fn policy(&mut self, policy: &Policy) {
        let Policy { id, uid, generation, tier, priority, subject, ingress, egress, rules_withheld } = policy;
        self.policy_id(id);
        self.text(uid);
        self.number(*generation);
        self.number(*tier as u8);
        self.number(*priority);
        self.selection(subject);
        for rules in [ingress, egress] {
            self.number(u8::from(rules.is_some()));
            let rules = rules.as_deref().unwrap_or_default();
            self.length(rules.len());
            for rule in rules {
                self.rule(rule);
            }
        }
        self.number(u8::from(*rules_withheld));
    }

    fn rule(&mut self, rule: &Rule) {
        let Rule { name, action, peers, ports } = rule;
        self.optional(name.as_ref());
        match action {
            Action::Accept => self.number(0),
            Action::Deny => self.number(1),
            Action::Pass => self.number(2),
            Action::Unknown(what) => {
                self.number(3);
                self.text(what);
            }
        }
        match peers {
            Peers::Any => self.length(0),
            Peers::List(peers) => {
                self.length(peers.len() + 1);
                for peer in peers {
                    self.peer(peer);
                }
            }
        }
        match ports {
            Ports::Any => self.length(0),
            Ports::List(ports) => {
                self.length(ports.len() + 1);
                for port in ports {
                    self.port(port);
                }
            }
        }
    }

    fn peer(&mut self, peer: &Peer) {
        match peer {
            Peer::Pods(selection) => {
                self.number(0);
                self.selection(selection);
            }
            Peer::Block(block) => {
                self.number(1);
                self.block(block);
            }
            Peer::Unknown(what) => {
                self.number(2);
                self.text(what);
            }
            Peer::Nodes(selector) => {
                self.number(3);
                self.selector(selector);
            }
            Peer::Domain(pattern) => {
                self.number(4);
                self.text(&pattern.to_string());
            }
        }
    }

    pub(super) fn block(&mut self, block: &IpBlock) {
        self.length(block.except().len());
        for net in std::iter::once(block.cidr()).chain(block.except().iter().copied()) {
            match net.addr() {
                std::net::IpAddr::V4(address) => self.bytes(&address.to_ipv6_mapped().octets()),
                std::net::IpAddr::V6(address) => self.bytes(&address.octets()),
            }
            self.bytes(&[u8::from(net.addr().is_ipv4()), net.prefix_len()]);
        }
    }

    fn port(&mut self, port: &PortMatch) {
        match port {
            PortMatch::Range(range) => {
                self.number(0);
                self.bytes(&[range.protocol.0]);
                self.number(range.first);
                self.number(range.last);
            }
            PortMatch::Named { protocol, name } => {
                self.number(1);
                self.number(protocol.map_or(-1, |Protocol(number)| i16::from(number)));
                self.text(name);
            }
            PortMatch::Unknown(what) => {
                self.number(2);
                self.text(what);
            }
        }
    }

    pub(super) fn selection(&mut self, selection: &PodSelection) {
        match &selection.namespaces {
            NamespaceSelection::Named(name) => {
                self.number(0);
                self.text(name);
            }
            NamespaceSelection::Matching(selector) => {
                self.number(1);
                self.selector(selector);
            }
        }
        self.selector(&selection.pods);
    }

    fn selector(&mut self, selector: &Selector) {
        self.length(selector.requirements().count());
        for requirement in selector.requirements() {
            let (kind, key, values) = match requirement {
                Requirement::In { key, values } => (0, key, Some(values)),
                Requirement::NotIn { key, values } => (1, key, Some(values)),
                Requirement::Exists { key } => (2, key, None),
                Requirement::DoesNotExist { key } => (3, key, None),
            };
            self.number(kind);
            self.text(key);
            self.length(values.map_or(0, std::collections::BTreeSet::len));
            for value in values.into_iter().flatten() {
                self.text(value);
            }
        }
    }
}
