//! `agnhost connect HOST:PORT`: tries one connection and prints how it failed: TIMEOUT, REFUSED, DNS, OTHER.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::time::Duration;

use super::{Flags, complain};

/// Message sent over UDP: both `netexec` and `serve-hostname` answer it.
const UDP_WORD: &[u8] = b"hostname";

pub(super) fn main(arguments: &[String]) -> Result<i32, String> {
    let flags = Flags::parse(arguments, &["timeout", "protocol", "data"], &[])?;
    let [target] = flags.rest.as_slice() else {
        return Err(format!("accepts 1 arg(s), received {}", flags.rest.len()));
    };
    let timeout = flags.text("timeout").map_or(Ok(None), |text| parse_duration(text).map(Some))?;
    let protocol = flags.text("protocol").unwrap_or("tcp").to_ascii_lowercase();
    let address = match target.to_socket_addrs().map(|mut addresses| addresses.next()) {
        Ok(Some(address)) => address,
        Ok(None) => return Ok(failed("DNS", "no address")),
        Err(error) => return Ok(failed("DNS", &error.to_string())),
    };
    let outcome = match protocol.as_str() {
        "tcp" => tcp(address, timeout),
        "udp" => udp(address, timeout),
        "sctp" => Err(io::Error::new(io::ErrorKind::Unsupported, "the lab's programs do not speak SCTP")),
        other => return Err(format!("unsupported protocol: {other}")),
    };
    Ok(match outcome {
        Ok(()) => 0,
        Err(error) => failed(word(&error), &error.to_string()),
    })
}

fn tcp(address: SocketAddr, timeout: Option<Duration>) -> io::Result<()> {
    match timeout {
        Some(timeout) => TcpStream::connect_timeout(&address, timeout)?,
        None => TcpStream::connect(address)?,
    };
    Ok(())
}

fn udp(address: SocketAddr, timeout: Option<Duration>) -> io::Result<()> {
    let local: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(local)?;
    socket.set_read_timeout(timeout)?;
    socket.connect(address)?;
    socket.send(UDP_WORD)?;
    socket.recv(&mut [0; 1024])?;
    Ok(())
}

/// The one word that says how a connection failed.
fn word(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "TIMEOUT",
        io::ErrorKind::ConnectionRefused => "REFUSED",
        _ => "OTHER",
    }
}

fn failed(word: &str, detail: &str) -> i32 {
    // The original prints the word and, for what it has no word for, the error.
    complain(&if word == "OTHER" { format!("{word}: {detail}") } else { word.to_owned() });
    1
}

/// A duration as Go writes it: `3s`, `500ms`, `1m30s`. Zero means none.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("invalid argument {text:?} for \"--timeout\" flag: no duration such as 3s or 500ms");
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale = match unit {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(invalid()),
        };
        let number: f64 = number.parse().map_err(|_detail| invalid())?;
        total += Duration::try_from_secs_f64(number * scale).map_err(|_detail| invalid())?;
        rest = tail;
    }
    // The system's connect refuses a timeout of nothing.
    Ok(total.max(Duration::from_micros(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(parse_duration("3s"), Ok(Duration::from_secs(3)));
        assert_eq!(parse_duration("1m1.5s"), Ok(Duration::from_millis(61_500)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "3", "s", "3x", "-1s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn refusal_and_silence_are_told_apart() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        assert!(tcp(open, Some(Duration::from_secs(5))).is_ok());
        drop(listener);
        assert_eq!(word(&tcp(open, Some(Duration::from_secs(5))).unwrap_err()), "REFUSED");
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = udp(silent.local_addr().unwrap(), Some(Duration::from_millis(50))).unwrap_err();
        assert_eq!(word(&error), "TIMEOUT");
    }
}
