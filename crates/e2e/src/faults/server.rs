//! The called end in a pod: sends back what it gets, and knows by a caller on the loopback when it was held up itself.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use parking_lot::Mutex;
use ringfence_netns::Namespace;

use super::ledger::Pair;
use super::prober::{End, INTERVAL};

/// Port of first packets. Nobody listens there: the kernel answers with a reset and remembers nothing.
pub(crate) const KNOCK: u16 = 9;
/// Port (UDP) that sends datagrams back.
pub(crate) const ECHO: u16 = 8001;
/// Port (TCP) of connections that stay open.
pub(crate) const STREAM: u16 = 8002;

/// A server that needed so long to answer itself was held up.
const HELD_UP: Duration = Duration::from_millis(300);
/// Time between two looks of a thread whether it shall end.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// When a server was held up.
#[derive(Default)]
pub(crate) struct Load(Mutex<VecDeque<(Instant, Instant)>>);

impl Load {
    /// Writes down what was not answered: as a drop, unless the server did not answer itself either.
    pub(crate) fn judge(&self, sent: Instant, pair: &Pair, what: &str) {
        let held_up = {
            let spans = self.0.lock();
            spans.iter().any(|(from, to)| *from <= Instant::now() && *to >= sent)
        };
        if held_up {
            let text = format!("held up: {}: {what} came back late, as did the server's own", pair.name);
            pair.ledger.note(|counts| counts.held_up += 1, &text);
        } else {
            pair.dropped(sent, what);
        }
    }

    fn add(&self, from: Instant, to: Instant) {
        let mut spans = self.0.lock();
        spans.push_back((from, to));
        if spans.len() > 1000 {
            spans.pop_front();
        }
    }
}

/// Serves from inside a namespace until the guard is dropped.
pub(crate) fn start(namespace: &Namespace, family: IpAddr, load: &Arc<Load>) -> anyhow::Result<End> {
    let any: IpAddr = if family.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { [0; 16].into() };
    let loopback: IpAddr = if family.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { [0, 0, 0, 0, 0, 0, 0, 1].into() };
    let bound = namespace.run(|| -> anyhow::Result<_> {
        let echo = UdpSocket::bind((any, ECHO)).context("cannot serve datagrams")?;
        let listener = TcpListener::bind((any, STREAM)).context("cannot serve connections")?;
        let own = UdpSocket::bind((loopback, 0)).context("cannot call the server itself")?;
        own.connect((loopback, ECHO))?;
        Ok((echo, listener, own))
    });
    let (echo, listener, own) = bound??;
    echo.set_read_timeout(Some(POLL_INTERVAL))?;
    listener.set_nonblocking(true)?;
    own.set_read_timeout(Some(POLL_INTERVAL))?;
    let end = Arc::new(AtomicBool::new(false));
    let stop = [Arc::clone(&end), Arc::clone(&end), Arc::clone(&end)];
    let [first, second, third] = stop;
    thread::spawn(move || send_back(&echo, &first));
    thread::spawn(move || accept(&listener, &second));
    let load = Arc::clone(load);
    thread::spawn(move || call_itself(&own, &load, &third));
    Ok(End(end))
}

fn send_back(socket: &UdpSocket, stop: &AtomicBool) {
    let mut message = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut message) {
            let _ = socket.send_to(&message[..length], from);
        }
    }
}

fn accept(listener: &TcpListener, stop: &Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let stop = Arc::clone(stop);
                thread::spawn(move || serve(stream, &stop));
            }
            Err(_) => thread::sleep(INTERVAL),
        }
    }
}

fn serve(mut stream: TcpStream, stop: &AtomicBool) {
    let set_up = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(POLL_INTERVAL)));
    if set_up.and_then(|()| stream.set_nodelay(true)).is_err() {
        return;
    }
    let mut buffer = [0; 1024];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                if stream.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Calls the server through the loopback, where nothing is enforced.
fn call_itself(socket: &UdpSocket, load: &Load, stop: &AtomicBool) {
    let mut message = [0; 8];
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let sent = Instant::now();
        if socket.send(&number.to_be_bytes()).is_err() {
            thread::sleep(INTERVAL);
            continue;
        }
        // One that is lost, or late by more than that, is not waited for: the span is written down all the same.
        while sent.elapsed() < 2 * HELD_UP && !stop.load(Ordering::Relaxed) {
            if socket.recv(&mut message).is_ok() && u64::from_be_bytes(message) == number {
                break;
            }
        }
        if sent.elapsed() > HELD_UP {
            load.add(sent, Instant::now());
        }
        thread::sleep(INTERVAL);
    }
}
