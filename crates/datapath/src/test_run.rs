//! Runs the kernel program on packets by hand (`BPF_PROG_TEST_RUN`), with the maps that enforce policy.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use libbpf_rs::{MapCore as _, MapFlags, MapHandle, Object, ProgramInput as Input, ProgramMut};
use ringfence_engine::RuleId;
use ringfence_model::{Direction, Protocol};
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::abi::{Address, TestRunValue};
use crate::events::{DropReason, side};
use crate::object::{TEST_PROGRAM, load};
use crate::{Error, Sizes};

/// The context of a packet that a test run cannot provide: interfaces, and the state of its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about a packet, named where they are given")]
pub struct PacketContext {
    /// Index of the interface the packet arrived on; none if this node sent it.
    pub interface: Option<u32>,
    /// Index of the interface the packet leaves by, if any.
    pub out_interface: Option<u32>,
    /// State of connection tracking.
    pub conntrack: Conntrack,
    /// The connection that a related packet is about.
    pub related_to: Option<TrackedConnection>,
    /// Destination of the client's packets, if a node translated it.
    pub original_destination: Option<SocketAddr>,
    /// True if connection tracking picked up the connection in the middle, so client and server may be confused.
    pub picked_up: bool,
    /// True if the destination was translated. The program looks at that only if source and destination are the same.
    pub translated: bool,
    /// True if the packet is for a socket of this node.
    pub local_in: bool,
    /// True if the flow table is used.
    pub flows: bool,
    /// True if the verdict is counted and reported.
    pub notify: bool,
}

/// State of connection tracking of a packet (`enum ip_conntrack_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conntrack {
    /// The packet is not tracked.
    None,
    /// The packet opens a connection.
    #[default]
    New,
    /// The packet belongs to a connection that was allowed and has not been answered yet.
    Unanswered,
    /// The packet is from the client of a connection that has been answered.
    Established,
    /// The packet is from the server.
    Reply,
    /// The packet is about another connection.
    Related,
}

/// The connection that a packet is about: its client before source NAT, and its server after destination NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackedConnection {
    /// The client.
    pub source: IpAddr,
    /// The server.
    pub destination: IpAddr,
    /// IP protocol.
    pub protocol: Protocol,
    /// Port of the destination; 0 for protocols without ports.
    pub port: u16,
}

/// The verdict of a test run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestVerdict {
    /// True if the packet may pass.
    pub accepted: bool,
    /// The reason, if the packet was dropped.
    pub dropped: Option<DropReason>,
    /// The side that decided, if a policy was evaluated.
    pub direction: Option<Direction>,
    /// True if policy denied the original destination, not the server that answers.
    pub by_original: bool,
    /// The result of the source's egress policy.
    pub egress: PolicyResult,
    /// The result of the destination's ingress policy.
    pub ingress: PolicyResult,
    /// True if the verdict came from the flow table and no policy was evaluated.
    pub hit: bool,
    /// Average time of one run.
    pub duration: Duration,
}

/// The result of one side's policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyResult {
    /// The address is no local pod.
    NotAPod,
    /// The pod talks to its own address.
    OwnAddress,
    /// The node talks to its own pod.
    LocalNode,
    /// The packet is neighbour discovery.
    NeighbourDiscovery,
    /// The packet is an error about a known connection.
    Related,
    /// A rule decided, or the default if no policy selects the pod.
    Decided(RuleId),
    /// Policy was not evaluated, because the other side had denied the packet or it was dropped for another reason.
    NotEvaluated,
}

impl PolicyResult {
    fn new(code: u8, rule_id: u64) -> Self {
        match code {
            0 => Self::NotAPod,
            1 => Self::OwnAddress,
            2 => Self::LocalNode,
            3 => Self::NeighbourDiscovery,
            4 => Self::Related,
            5 => Self::Decided(RuleId(rule_id)),
            _ => Self::NotEvaluated,
        }
    }
}

/// The program, loaded for test runs.
#[derive(Debug)]
pub struct TestRun {
    object: Object,
    map: MapHandle,
}

const ETHERNET_HEADER: usize = 14;
/// `sizeof(struct nf_hook_state)`. All pointers in it have to be null.
const HOOK_STATE: usize = 48;
const POST_ROUTING: u8 = 4;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

impl TestRun {
    pub(crate) fn load(sizes: &Sizes, maps: &Path) -> Result<Self, Error> {
        let object = load(&[TEST_PROGRAM], sizes, Some(maps))?;
        let map =
            object.maps().find(|map| map.name() == "test_run").ok_or_else(|| missing("the BPF map `test_run`"))?;
        let map = MapHandle::try_from(&map).map_err(Error::bpf("open the BPF map `test_run`"))?;
        Ok(Self { object, map })
    }

    /// Runs the program `repeat` times on a packet, which begins with its IP header. The header has to be complete,
    /// without options and extension headers, because the kernel refuses other packets.
    pub fn run(&self, packet: &[u8], context: &PacketContext, repeat: u32) -> Result<TestVerdict, Error> {
        let failed = || Error::bpf("run the BPF program by hand");
        let value = TestRunValue::from(context);
        self.map.update(&0u32.to_ne_bytes(), value.as_bytes(), MapFlags::ANY).map_err(failed())?;
        let ipv6 = packet.first().is_some_and(|byte| byte >> 4 == 6);
        let mut frame = vec![0; ETHERNET_HEADER];
        frame[12..].copy_from_slice(&if ipv6 { 0x86ddu16 } else { 0x0800 }.to_be_bytes());
        frame.extend_from_slice(packet);
        let mut state = [0; HOOK_STATE];
        state[0] = POST_ROUTING;
        state[1] = if ipv6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 };
        let input = Input { context_in: Some(&mut state), data_in: Some(&frame), repeat, ..Input::default() };
        let output = self.program()?.test_run(input).map_err(failed())?;
        let bytes = self.map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY).map_err(failed())?;
        let value = bytes.and_then(|bytes| TestRunValue::read_from_bytes(&bytes).ok());
        let value = value.ok_or_else(|| missing("the verdict of the program"))?;
        Ok(test_verdict(&value, output.duration))
    }

    fn program(&self) -> Result<ProgramMut<'_>, Error> {
        let found = self.object.progs_mut().find(|program| program.name() == TEST_PROGRAM);
        found.ok_or_else(|| missing("the BPF program to run by hand"))
    }
}

fn missing(what: &str) -> Error {
    Error::bpf(format!("find {what}"))(libbpf_rs::Error::from_raw_os_error(nix::libc::ENOENT))
}

fn test_verdict(value: &TestRunValue, duration: Duration) -> TestVerdict {
    let accepted = value.accepted != 0;
    let direction = side(value.direction);
    let rule_id = if direction == Some(Direction::Egress) { value.egress_rule_id } else { value.ingress_rule_id };
    TestVerdict {
        accepted,
        dropped: (!accepted).then(|| DropReason::new(value.reason, rule_id, false)),
        direction,
        by_original: value.by_original != 0,
        egress: PolicyResult::new(value.egress_result, value.egress_rule_id),
        ingress: PolicyResult::new(value.ingress_result, value.ingress_rule_id),
        hit: value.hit != 0,
        duration,
    }
}

impl From<&PacketContext> for TestRunValue {
    fn from(given: &PacketContext) -> Self {
        let conntrack = match given.conntrack {
            Conntrack::None => 0xff,
            Conntrack::Established => 0,
            Conntrack::Related => 1,
            Conntrack::New | Conntrack::Unanswered => 2,
            Conntrack::Reply => 3,
        };
        let end = |end: fn(TrackedConnection) -> IpAddr| {
            given.related_to.map_or(Address { bytes: [0; 16] }, |connection| end(connection).into())
        };
        Self {
            interface: given.interface.unwrap_or(0),
            out_interface: given.out_interface.unwrap_or(0),
            conntrack,
            translated: given.translated.into(),
            local_in: given.local_in.into(),
            flags: u8::from(given.flows) | u8::from(given.notify) << 1,
            accepted: 0,
            reason: 0,
            direction: 0,
            egress_result: 0,
            ingress_result: 0,
            hit: 0,
            established: (given.conntrack == Conntrack::Unanswered).into(),
            error_protocol: given.related_to.map_or(0, |connection| connection.protocol.0),
            error_port: given.related_to.map_or(0, |connection| connection.port),
            original_port: given.original_destination.map_or(0, |original_destination| original_destination.port()),
            egress_rule_id: 0,
            ingress_rule_id: 0,
            error_client: end(|connection| connection.source),
            error_server: end(|connection| connection.destination),
            original_destination: given
                .original_destination
                .map_or(Address { bytes: [0; 16] }, |original_destination| original_destination.ip().into()),
            picked_up: given.picked_up.into(),
            by_original: 0,
            zero: [0; 6],
        }
    }
}
