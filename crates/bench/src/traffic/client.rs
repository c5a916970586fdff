//! The near end: one stream, one request after the other, one connection after the other.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::server::{BASE, PORTS, reset_on_close};
use crate::figures::quantile;

/// The time that a connect may take before it counts as failed.
const PATIENCE_MILLIS: i64 = 500;
/// Size of a request, in bytes.
const REQUEST: usize = 64;

/// Result of one turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    /// Throughput of one stream, Gbit/s.
    pub(crate) gigabits: f64,
    /// Median time of a request on an open connection, µs.
    pub(crate) request_p50: f64,
    /// The 99th percentile, µs.
    pub(crate) request_p99: f64,
    /// New connections per second, one after the other.
    pub(crate) connections: f64,
    /// Median time to connect, µs.
    pub(crate) connect_p50: f64,
    /// The 99th percentile of the time to connect, µs.
    pub(crate) connect_p99: f64,
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gigabits, request_p50, connections, .. } = self;
        write!(f, "{gigabits:.2} Gbit/s, {request_p50:.1} µs, {connections:.0}/s")
    }
}

/// Measures everything once; to be called inside the client's namespace.
pub(crate) fn measure(server: Ipv4Addr, span: Duration) -> anyhow::Result<Rates> {
    let gigabits = stream(server, span)?;
    let requests = requests(server, span)?;
    let (connections, times) = connections(server, span)?;
    Ok(Rates {
        gigabits,
        request_p50: quantile(&requests, 0.5),
        request_p99: quantile(&requests, 0.99),
        connections,
        connect_p50: quantile(&times, 0.5),
        connect_p99: quantile(&times, 0.99),
    })
}

/// True if a connection comes about.
pub(crate) fn connects(server: Ipv4Addr) -> bool {
    dial(server, BASE + 1).is_ok()
}

fn stream(server: Ipv4Addr, span: Duration) -> anyhow::Result<f64> {
    let mut connection = open(server, *b"S")?;
    let block = vec![0; 1 << 17];
    let warm = Instant::now() + span / 5;
    while Instant::now() < warm {
        connection.write_all(&block)?;
    }
    let (begin, mut bytes) = (Instant::now(), 0_u64);
    while begin.elapsed() < span {
        bytes += connection.write(&block)? as u64;
    }
    Ok(float(bytes) * 8e-9 / begin.elapsed().as_secs_f64())
}

fn requests(server: Ipv4Addr, span: Duration) -> anyhow::Result<Vec<f64>> {
    let mut connection = open(server, *b"E")?;
    let mut buffer = [0; REQUEST];
    let (begin, mut times) = (Instant::now(), Vec::new());
    while begin.elapsed() < span {
        let asked = Instant::now();
        connection.write_all(&buffer)?;
        connection.read_exact(&mut buffer)?;
        times.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

fn connections(server: Ipv4Addr, span: Duration) -> anyhow::Result<(f64, Vec<f64>)> {
    let (begin, mut times) = (Instant::now(), Vec::new());
    for port in (1..=PORTS).cycle() {
        let asked = Instant::now();
        let connection = dial(server, BASE + port).with_context(|| format!("connection {}", times.len() + 1))?;
        times.push(asked.elapsed().as_secs_f64() * 1e6);
        drop(connection);
        if begin.elapsed() >= span {
            break;
        }
    }
    Ok((float(times.len() as u64) / begin.elapsed().as_secs_f64(), times))
}

/// An open connection in a mode of the server.
fn open(server: Ipv4Addr, mode: [u8; 1]) -> anyhow::Result<TcpStream> {
    let mut connection = TcpStream::connect(SocketAddrV4::new(server, BASE))?;
    connection.set_nodelay(true)?;
    connection.set_write_timeout(Some(Duration::from_secs(5)))?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    connection.write_all(&mode)?;
    Ok(connection)
}

/// A connection that is reset when it is closed, so that no port lingers.
fn dial(server: Ipv4Addr, port: u16) -> anyhow::Result<OwnedFd> {
    let connection = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&connection, sockopt::SendTimeout, &TimeVal::milliseconds(PATIENCE_MILLIS))?;
    reset_on_close(&connection)?;
    let address = SockaddrIn::from(SocketAddrV4::new(server, port));
    match connect(connection.as_raw_fd(), &address) {
        Ok(()) => Ok(connection),
        Err(error) => bail!("connecting to {address}: {error}"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}
