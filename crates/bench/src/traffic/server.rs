//! The far end: takes a stream in, answers requests, accepts and closes.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use ringfence_netns::Namespace;

use super::processor::pin;

/// Port for streams (first byte `S`) and requests (first byte `E`).
pub(crate) const BASE: u16 = 7000;
/// So many ports after it accept and close.
pub(crate) const PORTS: u16 = 16;

/// Listens in the namespace; threads serve until the process ends, on one processor.
pub(crate) fn start(namespace: &Namespace, processor: usize) -> anyhow::Result<()> {
    let listen = |port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
    let listeners = namespace.run(|| (BASE..=BASE + PORTS).map(listen).collect::<Result<Vec<_>, _>>())??;
    for (port, listener) in (BASE..).zip(listeners) {
        thread::spawn(move || {
            if pin(processor).is_ok() {
                accept(&listener, port == BASE, processor);
            }
        });
    }
    Ok(())
}

fn accept(listener: &TcpListener, keep: bool, processor: usize) {
    for connection in listener.incoming().flatten() {
        if keep {
            thread::spawn(move || pin(processor).is_ok() && serve(connection).is_ok());
        } else if reset_on_close(&connection).is_err() {
            return;
        }
    }
}

fn serve(mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut mode = [0];
    connection.read_exact(&mut mode)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        let length = connection.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        if mode == *b"E" {
            connection.write_all(&buffer[..length])?;
        }
    }
}

/// Lets closing send a reset.
pub(crate) fn reset_on_close(connection: &impl AsFd) -> nix::Result<()> {
    setsockopt(connection, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })
}
