//! An open connection that a policy denies.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use ringfence_e2e::pod;
use serde_json::{Value, json};

use super::{Bench, CLIENT, SERVER, deny, server_pod};
use crate::traffic::{client, processor, server};

/// How long the connection is watched.
const LENGTH: Duration = Duration::from_secs(10);
/// When it is denied.
const DENIED_AFTER: Duration = Duration::from_secs(2);
/// When a new connection is tried.
const TRIED_AFTER: Duration = Duration::from_secs(4);
/// Between two requests.
const INTERVAL: Duration = Duration::from_millis(10);
/// What a request carries, in bytes.
const REQUEST: usize = 64;

/// What became of the connection, in either direction of the denial.
pub(super) fn run(bench: &Bench) -> anyhow::Result<Value> {
    let [near, far] = bench.two_nodes()?;
    let (from, to) = bench.runtime.block_on(async {
        for name in [CLIENT, SERVER] {
            bench.cluster.namespace(name, &json!({})).await?;
        }
        let from = bench.cluster.run(&server_pod(CLIENT, "client", &near)).await?;
        anyhow::Ok((from, bench.cluster.run(&server_pod(SERVER, "server", &far)).await?))
    })?;
    server::start(&pod::network(&to)?, processor::last_processor()?)?;
    let (network, address) = (pod::network(&from)?, pod::address::<Ipv4Addr>(&to)?);
    let mut figures = json!({});
    for (direction, namespace) in [("Ingress", SERVER), ("Egress", CLIENT)] {
        let policy = deny(namespace, direction);
        let (held, connects) = std::thread::scope(|scope| {
            let begun = Instant::now();
            let holder = scope.spawn(|| network.run(|| hold(address)));
            std::thread::sleep(DENIED_AFTER.saturating_sub(begun.elapsed()));
            let denied = bench.runtime.block_on(bench.cluster.apply(&policy));
            std::thread::sleep(TRIED_AFTER.saturating_sub(begun.elapsed()));
            let connects = network.run(|| client::connects(address));
            let held = holder.join().map_err(|_panic| anyhow::anyhow!("the client ended"));
            denied?;
            anyhow::Ok((held???, connects?))
        })?;
        bench.runtime.block_on(bench.cluster.delete(&policy))?;
        std::thread::sleep(DENIED_AFTER);
        figures[direction.to_lowercase()] = json!({"new_connects": connects, "open": held});
    }
    Ok(figures)
}

/// Asks again and again on one connection.
fn hold(server: Ipv4Addr) -> anyhow::Result<Value> {
    let mut connection = TcpStream::connect(SocketAddrV4::new(server, server::BASE))?;
    connection.set_nodelay(true)?;
    connection.write_all(b"E")?;
    let (begun, mut last, mut silence, mut answers) = (Instant::now(), Instant::now(), Duration::ZERO, 0);
    let mut buffer = [0; REQUEST];
    let mut state = "open";
    while let Some(left) = LENGTH.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
        connection.set_read_timeout(Some(left))?;
        let answered = connection.write_all(&buffer).and_then(|()| connection.read_exact(&mut buffer));
        match answered {
            Ok(()) => {
                silence = silence.max(last.elapsed());
                (last, answers) = (Instant::now(), answers + 1);
                std::thread::sleep(INTERVAL);
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                break;
            }
            Err(_closed) => {
                state = "closed";
                break;
            }
        }
    }
    let silence = silence.max(last.elapsed());
    Ok(json!({"answers": answers, "longest_silence_ms": u64::try_from(silence.as_millis())?, "state": state}))
}
