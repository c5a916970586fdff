//! `agnhost netexec`: answers over HTTP and UDP with what it is asked for: `hostname`, `echo`, `clientip`, `dial`, …

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Query};
use axum::routing::get;
use serde_json::json;
use tokio::net::{TcpListener, UdpSocket};

use super::{Flags, say, usage};

type Parameters = BTreeMap<String, String>;

/// Serves for ever.
pub(super) fn main(arguments: &[String]) -> io::Result<()> {
    let known = ["http-port", "udp-port", "sctp-port", "delay-shutdown", "http-override", "udp-listen-addresses"];
    let flags = Flags::parse(arguments, &known, &[]).map_err(usage)?;
    let http = flags.port("http-port").map_err(usage)?.unwrap_or(8080);
    let udp = flags.port("udp-port").map_err(usage)?.unwrap_or(8081);
    if flags.port("sctp-port").map_err(usage)?.is_some() {
        say("SCTP is not supported by the lab's netexec; serving HTTP and UDP");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move { tokio::try_join!(serve_http(http), serve_udp(udp)).map(|_| ()) })
}

async fn serve_http(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((any_address(), port)).await?;
    say(&format!("Started HTTP server on port {port}"));
    let router = Router::new()
        .route("/", get(|| async { format!("NOW: {}", jiff::Timestamp::now()) }))
        .route("/hostname", get(|| async { hostname() }))
        .route("/hostName", get(|| async { hostname() }))
        .route("/healthz", get(|| async { "" }))
        .route("/echo", get(|Query(query): Query<Parameters>| async move { field(&query, "msg") }))
        .route("/clientip", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { plain(peer).to_string() }))
        .route("/dial", get(|Query(query): Query<Parameters>| async move { dial(&query).await }))
        .route("/exit", get(|Query(query): Query<Parameters>| async move { leave(&query) }));
    axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).await
}

async fn serve_udp(port: u16) -> io::Result<()> {
    let socket = UdpSocket::bind((any_address(), port)).await?;
    say(&format!("Started UDP server on port {port}"));
    let mut buffer = vec![0; 2048];
    loop {
        // An error here tells of an earlier answer that did not arrive.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
        let answer = answer_udp(text.trim(), peer);
        if let Some(answer) = answer {
            let _lost_like_any_datagram = socket.send_to(answer.as_bytes(), peer).await;
        }
    }
}

/// Answer to a datagram: nothing on words it does not know, as the original.
fn answer_udp(text: &str, peer: SocketAddr) -> Option<String> {
    let (command, rest) = text.split_once(' ').unwrap_or((text, ""));
    match command.to_ascii_lowercase().as_str() {
        "hostname" => Some(hostname()),
        "echo" => Some(rest.to_owned()),
        "clientip" => Some(plain(peer).to_string()),
        _ => None,
    }
}

/// Asks other servers and tells what they said, as the original's `/dial` does.
async fn dial(query: &Parameters) -> String {
    let request = field(query, "request");
    let protocol = query.get("protocol").map_or("http", String::as_str).to_owned();
    let tries = query.get("tries").and_then(|tries| tries.parse().ok()).unwrap_or(1_u32).min(100);
    let target = format!("{}:{}", bracketed(&field(query, "host")), field(query, "port"));
    let (mut responses, mut errors) = (Vec::new(), Vec::new());
    for _ in 0..tries {
        match tokio::time::timeout(Duration::from_secs(5), ask(&protocol, &target, &request)).await {
            Ok(Ok(answer)) => responses.push(answer),
            Ok(Err(error)) => errors.push(error.to_string()),
            Err(_elapsed) => errors.push("reading from connection failed: i/o timeout".to_owned()),
        }
    }
    let mut answer = serde_json::Map::new();
    if !responses.is_empty() {
        answer.insert("responses".into(), json!(responses));
    }
    if !errors.is_empty() {
        answer.insert("errors".into(), json!(errors));
    }
    serde_json::Value::Object(answer).to_string()
}

async fn ask(protocol: &str, target: &str, request: &str) -> io::Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    match protocol {
        "udp" => {
            let socket = UdpSocket::bind((any_address(), 0)).await?;
            socket.connect(target).await?;
            socket.send(request.as_bytes()).await?;
            let mut buffer = vec![0; 2048];
            let length = socket.recv(&mut buffer).await?;
            Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned())
        }
        "http" => {
            let mut connection = tokio::net::TcpStream::connect(target).await?;
            let head = format!("GET /{request} HTTP/1.0\r\nHost: {target}\r\n\r\n");
            connection.write_all(head.as_bytes()).await?;
            let mut answer = String::new();
            connection.take(1 << 20).read_to_string(&mut answer).await?;
            Ok(answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
        }
        other => Err(usage(format!("unsupported protocol {other}"))),
    }
}

#[expect(clippy::exit, reason = "the request is to end the program with this code")]
fn leave(query: &Parameters) {
    std::process::exit(query.get("code").and_then(|code| code.parse().ok()).unwrap_or(0))
}

fn field(query: &Parameters, name: &str) -> String {
    query.get(name).cloned().unwrap_or_default()
}

/// One address for both families, or for IPv4 where the kernel has nothing else.
pub(crate) fn any_address() -> IpAddr {
    if std::path::Path::new("/proc/net/if_inet6").exists() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

/// The peer without the IPv6 spelling of IPv4 addresses.
fn plain(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

pub(super) fn hostname() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
