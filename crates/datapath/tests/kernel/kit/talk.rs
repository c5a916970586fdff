//! Echo servers and clients inside namespaces.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, sendto, setsockopt, socket, sockopt,
};

use super::space::Space;

/// Long enough for a packet that is let through, on a busy machine with retransmissions.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Longer than any answer takes, unless it is lost.
const AGAIN: Duration = Duration::from_secs(1);
/// Short enough to wait for an answer that is dropped.
const SILENCE: Duration = Duration::from_millis(400);

/// Link-local addresses end in `%` and the index of the interface.
fn socket_address(address: &str, port: u16) -> SocketAddr {
    let text = if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
    text.parse().unwrap()
}

/// Sends an ICMP echo request.
pub(crate) fn ping(space: &Space, to: &str) {
    send_icmp(space, "0.0.0.0", to, &[8, 0, 0xf7, 0xfd, 0, 1, 0, 1]);
}

fn send_icmp(space: &Space, from: &str, to: &str, message: &[u8]) {
    let [own, address] =
        [from, to].map(|address| SockaddrIn::from(std::net::SocketAddrV4::new(address.parse().unwrap(), 0)));
    space.enter(|| {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Icmp).unwrap();
        bind(raw.as_raw_fd(), &own).unwrap();
        sendto(raw.as_raw_fd(), message, &address, MsgFlags::empty()).unwrap();
    });
}

/// An echo server for TCP and UDP at one port, until it is dropped.
pub(crate) struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    pub(crate) fn new(space: &Space, address: &str, port: u16) -> Self {
        let at = socket_address(address, port);
        let (tcp, udp) = space.enter(|| (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap()));
        let stop = Arc::new(AtomicBool::new(false));
        tcp.set_nonblocking(true).unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (stop_tcp, stop_udp) = (Arc::clone(&stop), Arc::clone(&stop));
        let threads = vec![
            thread::spawn(move || accept(&tcp, &stop_tcp)),
            thread::spawn(move || {
                let mut buffer = [0; 10_000];
                while !stop_udp.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = udp.recv_from(&mut buffer) {
                        let _ = udp.send_to(&buffer[..length.min(32)], from);
                    }
                }
            }),
        ];
        Self { stop, threads }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, stop: &Arc<AtomicBool>) {
    let mut served = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let stop = Arc::clone(stop);
                served.push(thread::spawn(move || echo(stream, &stop)));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(5)),
            Err(_) => break,
        }
    }
    for thread in served {
        let _ = thread.join();
    }
}

fn echo(mut stream: TcpStream, stop: &AtomicBool) {
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                if stream.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// An open TCP connection.
pub(crate) struct Connection(TcpStream);

impl Connection {
    fn open(space: &Space, to: &str, port: u16, timeout: Duration) -> Option<Self> {
        let to = socket_address(to, port);
        space.enter(|| TcpStream::connect_timeout(&to, timeout)).ok().map(Self)
    }

    /// Opens a connection, which has to be let through.
    pub(crate) fn new(space: &Space, to: &str, port: u16) -> Self {
        Self::open(space, to, port, TIMEOUT).unwrap_or_else(|| panic!("{} cannot connect to {to}:{port}", space.name))
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    fn echoes(&mut self, bytes: usize, timeout: Duration) -> bool {
        self.0.set_read_timeout(Some(timeout)).unwrap();
        self.0.set_write_timeout(Some(timeout)).unwrap();
        let sent = vec![7; bytes];
        let mut received = vec![0; bytes];
        self.0.write_all(&sent).is_ok() && self.0.read_exact(&mut received).is_ok() && received == sent
    }

    /// True if bytes come back.
    pub(crate) fn lives(&mut self) -> bool {
        self.echoes(10, TIMEOUT)
    }

    /// True if many bytes come back.
    pub(crate) fn carries(&mut self, bytes: usize) -> bool {
        self.echoes(bytes, TIMEOUT)
    }

    /// True if nothing comes back.
    pub(crate) fn is_dead(&mut self) -> bool {
        !self.echoes(10, SILENCE)
    }
}

/// True if a TCP connection opens and carries bytes.
pub(crate) fn reaches(space: &Space, to: &str, port: u16) -> bool {
    Connection::open(space, to, port, TIMEOUT).is_some_and(|mut connection| connection.lives())
}

/// True if a TCP connection does not open.
pub(crate) fn is_refused(space: &Space, to: &str, port: u16) -> bool {
    Connection::open(space, to, port, SILENCE).is_none()
}

/// A UDP socket for one peer.
pub(crate) struct Datagrams(UdpSocket);

impl Datagrams {
    pub(crate) fn new(space: &Space, from: &str, to: &str, port: u16) -> Self {
        Self::bound(space, socket_address(from, 0), to, port)
    }

    /// Binds to a port.
    pub(crate) fn bound(space: &Space, from: impl ToSocketAddrs, to: &str, port: u16) -> Self {
        let to = socket_address(to, port);
        let from = from.to_socket_addrs().unwrap().next().unwrap();
        Self(space.enter(|| {
            let socket = UdpSocket::bind(from).unwrap();
            socket.connect(to).unwrap();
            socket
        }))
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    fn answered(&self, bytes: usize, timeout: Duration) -> bool {
        self.0.set_read_timeout(Some(timeout)).unwrap();
        self.0.send(&vec![7; bytes]).is_ok() && self.0.recv(&mut [0; 64]).is_ok()
    }

    /// True if a datagram is answered. Parallel tests may fill a processor's queue, which loses datagrams, so a
    /// datagram without an answer is sent again.
    pub(crate) fn live(&self, bytes: usize) -> bool {
        let end = Instant::now() + TIMEOUT;
        while Instant::now() < end {
            if self.answered(bytes, AGAIN) {
                return true;
            }
        }
        false
    }

    pub(crate) fn are_dead(&self, bytes: usize) -> bool {
        !self.answered(bytes, SILENCE)
    }

    /// True if a datagram arrives without another being sent.
    pub(crate) fn arrives(&self) -> bool {
        self.0.set_read_timeout(Some(SILENCE)).unwrap();
        self.0.recv(&mut [0; 64]).is_ok()
    }

    /// Sends a datagram and does not wait.
    pub(crate) fn are_dead_at_once(&self) {
        self.0.send(&[7; 10]).unwrap();
    }
}

/// A stream of datagrams that counts how many arrive.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<u64>>,
    receiver: Option<JoinHandle<u64>>,
}

/// The time between two datagrams of a flood.
const PACE: Duration = Duration::from_micros(500);

impl Flood {
    pub(crate) fn new(from: &Space, to: &Space, address: &str, port: u16) -> Self {
        let at = socket_address(address, port);
        let socket = to.enter(|| UdpSocket::bind(at).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        // The receiver may wait on a busy machine, and losses in the network only are to be measured.
        setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).unwrap();
        let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let source = from.enter(|| UdpSocket::bind(any).unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sender = thread::spawn(move || {
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                sent += u64::from(source.send_to(&[7; 10], at).is_ok());
                thread::sleep(PACE);
            }
            sent
        });
        let stopped = Arc::clone(&stop);
        let receiver = thread::spawn(move || {
            let mut received = 0;
            loop {
                match socket.recv(&mut [0; 64]) {
                    Ok(_) => received += 1,
                    Err(_) if stopped.load(Ordering::Relaxed) => return received,
                    Err(_) => {}
                }
            }
        });
        Self { stop, sender: Some(sender), receiver: Some(receiver) }
    }

    /// Returns the number of datagrams sent and the number of datagrams received.
    pub(crate) fn end(mut self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let join = |thread: &mut Option<JoinHandle<u64>>| thread.take().unwrap().join().unwrap();
        (join(&mut self.sender), join(&mut self.receiver))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A UDP socket that never answers.
pub(crate) struct Sink(UdpSocket);

impl Sink {
    pub(crate) fn new(space: &Space, address: &str, port: u16) -> Self {
        let at = socket_address(address, port);
        Self(space.enter(|| UdpSocket::bind(at).unwrap()))
    }

    /// True if a datagram arrives.
    pub(crate) fn receives(&self) -> bool {
        self.0.set_read_timeout(Some(SILENCE)).unwrap();
        self.0.recv(&mut [0; 64]).is_ok()
    }
}

impl Datagrams {
    /// True if an error arrived: port unreachable.
    pub(crate) fn are_refused(&self) -> bool {
        self.0.set_read_timeout(Some(SILENCE)).unwrap();
        self.0.recv(&mut [0; 64]).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    }
}

/// Sends a hand-made ICMP error (port unreachable) to a sender of datagrams, from an address of the space.
pub(crate) fn unreachable(space: &Space, own: &str, datagrams: &Datagrams, (from, to, port): (&str, &str, u16)) {
    let source_port = datagrams.0.local_addr().unwrap().port();
    let mut about = vec![0x45, 0, 0, 38, 0, 1, 0, 0, 64, 17, 0, 0];
    for address in [from, to] {
        about.extend(address.parse::<std::net::Ipv4Addr>().unwrap().octets());
    }
    let checksum = checksum(&about);
    about[10..12].copy_from_slice(&checksum);
    for number in [source_port, port, 18, 0] {
        about.extend(number.to_be_bytes());
    }
    let mut error = vec![3, 3, 0, 0, 0, 0, 0, 0];
    error.extend(about);
    let checksum = self::checksum(&error);
    error[2..4].copy_from_slice(&checksum);
    send_icmp(space, own, from, &error);
}

/// The internet checksum of an even number of bytes (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!u16::try_from(folded).unwrap()).to_be_bytes()
}
