//! The web server that stands in for nginx where the machine has none: one welcome page on port 80.

use std::io;
use std::net::Ipv6Addr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The page nginx shows in the lab, whichever program serves it.
pub const WELCOME: &str = "<!DOCTYPE html>\n<html>\n<head>\n<title>Welcome to nginx!</title>\n</head>\n<body>\n\
    <h1>Welcome to nginx!</h1>\n<p>This page is served by a pod of the Ringfence lab.</p>\n</body>\n</html>\n";

/// Longest request head, in bytes.
const MAX_HEAD: u64 = 16 * 1024;
/// The time that a client may take over a request.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// Serves the page for ever.
pub async fn serve() -> io::Result<()> {
    // One socket for both families, or IPv4 alone where the kernel has no IPv6.
    let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind("0.0.0.0:80").await?,
    };
    loop {
        let Ok((connection, _peer)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            // A client that goes away or talks nonsense concerns nobody else.
            let _ended = tokio::time::timeout(REQUEST_TIMEOUT, answer(connection)).await;
        });
    }
}

async fn answer(connection: TcpStream) -> io::Result<()> {
    let (read, mut write) = connection.into_split();
    let mut reader = BufReader::new(tokio::io::AsyncReadExt::take(read, MAX_HEAD));
    let mut first = String::new();
    reader.read_line(&mut first).await?;
    let mut line = String::new();
    while reader.read_line(&mut line).await? > 2 {
        line.clear();
    }
    let mut words = first.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, body) = match (method, path) {
        ("GET" | "HEAD", "/" | "/index.html") => ("200 OK", WELCOME),
        ("GET" | "HEAD", _) => ("404 Not Found", "<h1>404 Not Found</h1>\n"),
        _ => ("405 Not Allowed", "<h1>405 Not Allowed</h1>\n"),
    };
    let shown = if method == "HEAD" { "" } else { body };
    let answer = format!(
        "HTTP/1.1 {status}\r\nServer: nginx\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: \
         close\r\n\r\n{shown}",
        body.len()
    );
    write.write_all(answer.as_bytes()).await?;
    write.shutdown().await
}
