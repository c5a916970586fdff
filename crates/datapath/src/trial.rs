//! Asks the kernel program what it would do with a packet (`BPF_PROG_TEST_RUN`), on the maps that enforce.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use libbpf_rs::{MapCore as _, MapFlags, MapHandle, Object, ProgramInput as Input, ProgramMut};
use ringfence_engine::CauseId;
use ringfence_model::{Direction, Protocol};
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::abi::{Address, TrialValue};
use crate::events::{Drop, side};
use crate::object::{TRIAL_PROGRAM, load};
use crate::{Error, Sizes};

/// Where a packet comes from and what is known of its connection: what a test run cannot tell the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about a packet, named where they are given")]
pub struct Circumstances {
    /// Index of the interface it arrived on; none if this node made it.
    pub interface: Option<u32>,
    /// Index of the interface it leaves by, if any.
    pub out_interface: Option<u32>,
    /// What connection tracking says.
    pub conntrack: Conntrack,
    /// The connection a related packet is about.
    pub about: Option<About>,
    /// Whom its opener called, if a node rewrote that.
    pub called: Option<SocketAddr>,
    /// Connection tracking came upon its connection in the middle, and may be wrong about who opened it.
    pub guessed: bool,
    /// Its destination was rewritten. The program looks at that only where source and destination are the same.
    pub translated: bool,
    /// It is for a socket of this node.
    pub local_in: bool,
    /// The flow table may answer, and remembers.
    pub flows: bool,
    /// What is decided is counted and reported.
    pub tell: bool,
}

/// What connection tracking says of a packet (`enum ip_conntrack_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conntrack {
    /// Nothing.
    None,
    /// It opens a connection.
    #[default]
    New,
    /// It belongs to a connection that was let through and not answered yet.
    Unanswered,
    /// It belongs to one that was answered.
    Established,
    /// It answers one.
    Reply,
    /// It is about another connection.
    Related,
}

/// A connection as it was opened, before its source and after its destination were translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Who opened it.
    pub source: IpAddr,
    /// Who answers.
    pub destination: IpAddr,
    /// IP protocol.
    pub protocol: Protocol,
    /// Port of the destination; 0 for protocols without ports.
    pub port: u16,
}

/// What the program said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Whether the packet may pass.
    pub accepted: bool,
    /// Why it was dropped, if it was.
    pub dropped: Option<Drop>,
    /// Whose verdict decided, if a policy was asked.
    pub direction: Option<Direction>,
    /// It was denied to whom the opener called, not to who answers.
    pub as_called: bool,
    /// Why the source said what it said.
    pub egress: Ground,
    /// Why the destination said what it said.
    pub ingress: Ground,
    /// The flow table answered; then nobody was asked.
    pub hit: bool,
    /// Time one run took, on average.
    pub duration: Duration,
}

/// Why an end said what it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// It is no local pod.
    NotAPod,
    /// A pod talks to its own address.
    OwnAddress,
    /// The node talks to its pod.
    LocalNode,
    /// Neighbour discovery.
    NeighbourDiscovery,
    /// An error about a known connection.
    Related,
    /// Policy, or that there is none.
    Decided(CauseId),
    /// The other end had denied already, or the packet was dropped for another reason.
    NotAsked,
}

impl Ground {
    fn new(code: u8, cause: u64) -> Self {
        match code {
            0 => Self::NotAPod,
            1 => Self::OwnAddress,
            2 => Self::LocalNode,
            3 => Self::NeighbourDiscovery,
            4 => Self::Related,
            5 => Self::Decided(CauseId(cause)),
            _ => Self::NotAsked,
        }
    }
}

/// The program, loaded to be run by hand.
#[derive(Debug)]
pub struct Trial {
    object: Object,
    circumstances: MapHandle,
}

const ETHERNET_HEADER: usize = 14;
/// `sizeof(struct nf_hook_state)`; all pointers have to be null.
const HOOK_STATE: usize = 48;
const POST_ROUTING: u8 = 4;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

impl Trial {
    pub(crate) fn load(sizes: &Sizes, maps: &Path) -> Result<Self, Error> {
        let object = load(&[TRIAL_PROGRAM], sizes, Some(maps))?;
        let map = object.maps().find(|map| map.name() == "trial").ok_or_else(|| missing("the BPF map `trial`"))?;
        let circumstances = MapHandle::try_from(&map).map_err(Error::bpf("open the BPF map `trial`"))?;
        Ok(Self { object, circumstances })
    }

    /// Runs the program `repeat` times on a packet, which begins with its IP header. The kernel takes no packet
    /// without a whole one (without options and extension headers).
    pub fn run(&self, packet: &[u8], circumstances: &Circumstances, repeat: u32) -> Result<Tried, Error> {
        let failed = || Error::bpf("run the BPF program by hand");
        let value = TrialValue::from(circumstances);
        self.circumstances.update(&0u32.to_ne_bytes(), value.as_bytes(), MapFlags::ANY).map_err(failed())?;
        let ipv6 = packet.first().is_some_and(|byte| byte >> 4 == 6);
        let mut frame = vec![0; ETHERNET_HEADER];
        frame[12..].copy_from_slice(&if ipv6 { 0x86ddu16 } else { 0x0800 }.to_be_bytes());
        frame.extend_from_slice(packet);
        let mut state = [0; HOOK_STATE];
        state[0] = POST_ROUTING;
        state[1] = if ipv6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 };
        let input = Input { context_in: Some(&mut state), data_in: Some(&frame), repeat, ..Input::default() };
        let output = self.program()?.test_run(input).map_err(failed())?;
        let bytes = self.circumstances.lookup(&0u32.to_ne_bytes(), MapFlags::ANY).map_err(failed())?;
        let value = bytes.and_then(|bytes| TrialValue::read_from_bytes(&bytes).ok());
        let value = value.ok_or_else(|| missing("what the program said"))?;
        Ok(tried(&value, output.duration))
    }

    fn program(&self) -> Result<ProgramMut<'_>, Error> {
        let found = self.object.progs_mut().find(|program| program.name() == TRIAL_PROGRAM);
        found.ok_or_else(|| missing("the BPF program to run by hand"))
    }
}

fn missing(what: &str) -> Error {
    Error::bpf(format!("find {what}"))(libbpf_rs::Error::from_raw_os_error(nix::libc::ENOENT))
}

fn tried(value: &TrialValue, duration: Duration) -> Tried {
    let accepted = value.accepted != 0;
    let direction = side(value.direction);
    let cause = if direction == Some(Direction::Egress) { value.egress_cause } else { value.ingress_cause };
    Tried {
        accepted,
        dropped: (!accepted).then(|| Drop::new(value.reason, cause, false)),
        direction,
        as_called: value.as_called != 0,
        egress: Ground::new(value.egress_ground, value.egress_cause),
        ingress: Ground::new(value.ingress_ground, value.ingress_cause),
        hit: value.hit != 0,
        duration,
    }
}

impl From<&Circumstances> for TrialValue {
    fn from(given: &Circumstances) -> Self {
        let conntrack = match given.conntrack {
            Conntrack::None => 0xff,
            Conntrack::Established => 0,
            Conntrack::Related => 1,
            Conntrack::New | Conntrack::Unanswered => 2,
            Conntrack::Reply => 3,
        };
        let about = |about: fn(About) -> IpAddr| {
            given.about.map_or(Address { bytes: [0; 16] }, |connection| about(connection).into())
        };
        Self {
            interface: given.interface.unwrap_or(0),
            out_interface: given.out_interface.unwrap_or(0),
            conntrack,
            translated: given.translated.into(),
            local_in: given.local_in.into(),
            flags: u8::from(given.flows) | u8::from(given.tell) << 1,
            accepted: 0,
            reason: 0,
            direction: 0,
            egress_ground: 0,
            ingress_ground: 0,
            hit: 0,
            open: (given.conntrack == Conntrack::Unanswered).into(),
            about_protocol: given.about.map_or(0, |about| about.protocol.0),
            about_port: given.about.map_or(0, |about| about.port),
            called_port: given.called.map_or(0, |called| called.port()),
            egress_cause: 0,
            ingress_cause: 0,
            about_source: about(|about| about.source),
            about_destination: about(|about| about.destination),
            called: given.called.map_or(Address { bytes: [0; 16] }, |called| called.ip().into()),
            guessed: given.guessed.into(),
            as_called: 0,
            zero: [0; 6],
        }
    }
}
