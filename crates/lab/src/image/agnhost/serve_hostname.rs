//! `agnhost serve-hostname`: answers every connection, datagram or HTTP request with the pod's name.

use std::io;

use axum::Router;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, UdpSocket};

use super::netexec::hostname;
use super::{Flags, any_address, say, usage};

/// Serves for ever: HTTP unless told otherwise, on port 9376 as the original.
pub(super) fn main(arguments: &[String]) -> io::Result<()> {
    let flags = Flags::parse(arguments, &["port"], &["tcp", "udp", "http", "close"]).map_err(usage)?;
    let port = flags.port("port").map_err(usage)?.unwrap_or(9376);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    say(&format!("Serving the host name on port {port}"));
    let (tcp, udp) = (flags.is_set("tcp"), flags.is_set("udp"));
    runtime.block_on(async move {
        let http = if flags.text("http").is_some() { flags.is_set("http") } else { !tcp && !udp };
        tokio::try_join!(
            async { if tcp { serve_tcp(port).await } else { Ok(()) } },
            async { if udp { serve_udp(port).await } else { Ok(()) } },
            async { if http && !tcp { serve_http(port).await } else { Ok(()) } },
        )
        .map(|_| ())
    })
}

async fn serve_http(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((any_address(), port)).await?;
    axum::serve(listener, Router::new().fallback(|| async { hostname() })).await
}

async fn serve_tcp(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((any_address(), port)).await?;
    loop {
        let Ok((mut connection, _peer)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            let _client_gone = connection.write_all(hostname().as_bytes()).await;
        });
    }
}

async fn serve_udp(port: u16) -> io::Result<()> {
    let socket = UdpSocket::bind((any_address(), port)).await?;
    let mut buffer = [0; 2048];
    loop {
        let Ok((_, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let _lost_like_any_datagram = socket.send_to(hostname().as_bytes(), peer).await;
    }
}
