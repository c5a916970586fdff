//! TCP connections with access to both ends, and hand-made resets.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket};

use super::space::Space;
use super::talk::checksum;

/// Long enough for a packet that is let through, even if it was dropped before and is sent again.
const TIMEOUT: Duration = Duration::from_secs(8);
/// Long enough for a second transmission to arrive if it is let through.
const SILENCE: Duration = Duration::from_millis(700);
/// The time between two checks.
const PAUSE: Duration = Duration::from_millis(5);

const ETHERNET: usize = 14;
const IPV4: usize = 20;

/// A connection over IPv4.
pub(crate) struct Ends {
    client: TcpStream,
    server: TcpStream,
    said: u64,
    /// Receives all packets of the client.
    tap: OwnedFd,
}

impl Ends {
    /// Opens a connection, which has to be let through.
    pub(crate) fn new(client: &Space, server: &Space, address: &str, port: u16) -> Self {
        let at: SocketAddrV4 = format!("{address}:{port}").parse().unwrap();
        let listener = server.enter(|| TcpListener::bind(at)).unwrap();
        let tap = client.enter(|| {
            let all = SockProtocol::EthAll;
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, all).unwrap()
        });
        let client = client.enter(|| TcpStream::connect_timeout(&at.into(), TIMEOUT)).unwrap();
        let (server, _) = listener.accept().unwrap();
        for end in [&client, &server] {
            end.set_nonblocking(true).unwrap();
            end.set_nodelay(true).unwrap();
        }
        Self { client, server, said: 0, tap }
    }

    /// True if the server receives what the client sends now.
    pub(crate) fn client_reaches(&mut self) -> bool {
        self.said += 1;
        says(&self.client, &self.server, self.said, TIMEOUT)
    }

    pub(crate) fn server_reaches(&mut self) -> bool {
        self.said += 1;
        says(&self.server, &self.client, self.said, TIMEOUT)
    }

    pub(crate) fn both_ways(&mut self) -> bool {
        self.client_reaches() && self.server_reaches()
    }

    /// True if the server receives nothing of what the client sends.
    pub(crate) fn client_is_cut(&mut self) -> bool {
        self.said += 1;
        !says(&self.client, &self.server, self.said, SILENCE)
    }

    pub(crate) fn server_is_cut(&mut self) -> bool {
        self.said += 1;
        !says(&self.server, &self.client, self.said, SILENCE)
    }

    /// Returns the sequence number of the next byte from the client.
    fn next_byte(&self, source: SocketAddrV4, destination: SocketAddrV4) -> u32 {
        let mut next = None;
        let mut frame = [0; 2048];
        while let Ok(length) = recv(self.tap.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            next = end_of(&frame[..length], source, destination).or(next);
        }
        next.expect("the client has said something")
    }
}

/// Returns the sequence number after the last byte of a segment from one end to the other.
fn end_of(frame: &[u8], source: SocketAddrV4, destination: SocketAddrV4) -> Option<u32> {
    let packet = frame.get(ETHERNET..)?;
    let ends = [source.ip().octets(), destination.ip().octets()].concat();
    let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    if packet.get(12..20)? != ends || packet.get(IPV4..IPV4 + 4)? != ports || packet[9] != 6 {
        return None;
    }
    let number = u32::from_be_bytes(packet.get(IPV4 + 4..IPV4 + 8)?.try_into().ok()?);
    let header = IPV4 + usize::from(packet.get(IPV4 + 12)? >> 4) * 4;
    let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    Some(number.wrapping_add(u32::try_from(length.checked_sub(header)?).ok()?))
}

/// Sends a number, and waits until the other end has read it.
fn says(mut from: &TcpStream, mut to: &TcpStream, number: u64, patience: Duration) -> bool {
    if from.write_all(&number.to_be_bytes()).is_err() {
        return false;
    }
    let end = Instant::now() + patience;
    let mut word = [0; 8];
    // Numbers have eight bytes and are never cut in two: they are sent one by one.
    while Instant::now() < end {
        match to.read(&mut word) {
            Ok(8) if u64::from_be_bytes(word) == number => return true,
            Ok(8) => {}
            Ok(length) => panic!("{length} bytes of a number"),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
    false
}

/// Resets a connection for everything that sees the client's packets, except the server: the first router drops the
/// reset.
pub(crate) fn reset_that_dies(client: &Space, ends: &Ends) {
    let (std::net::SocketAddr::V4(source), std::net::SocketAddr::V4(destination)) =
        (ends.client.local_addr().unwrap(), ends.client.peer_addr().unwrap())
    else {
        panic!("IPv4");
    };
    let number = ends.next_byte(source, destination);
    let packet = reset(source, destination, number);
    let to = SockaddrIn::from(destination);
    client.enter(|| {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw).unwrap();
        sendto(raw.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
    });
}

fn reset(source: SocketAddrV4, destination: SocketAddrV4, number: u32) -> Vec<u8> {
    const RST: u8 = 4;
    let addresses: Vec<u8> = [source, destination].iter().flat_map(|end| Ipv4Addr::octets(end.ip())).collect();
    let mut segment = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    segment.extend(number.to_be_bytes());
    segment.extend([0, 0, 0, 0, 5 << 4, RST, 0, 0, 0, 0, 0, 0]);
    let pseudo = [&addresses[..], &[0, 6, 0, 20], &segment].concat();
    segment[16..18].copy_from_slice(&checksum(&pseudo));
    // The kernel fills in length and checksum of the header.
    [&[0x45, 0, 0, 40, 0, 0, 0, 0, 1, 6, 0, 0][..], &addresses, &segment].concat()
}
