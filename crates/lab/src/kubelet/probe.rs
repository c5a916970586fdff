//! Probes: is a container started, alive, ready? Asked from the node's own network, as a kubelet asks.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use ringfence_netns::Namespace;

use crate::container::config::ContainerDirectory;
use crate::container::start_piped;

/// Target of a container's probe.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Name of the node's network namespace.
    pub node_namespace: String,
    /// Address of the pod.
    pub address: Option<IpAddr>,
    /// Directory of the container.
    pub directory: ContainerDirectory,
}

/// Intervals and limits of a probe, with the API's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timing {
    /// Before the first question.
    pub delay: Duration,
    /// Between questions.
    pub period: Duration,
    /// For one answer.
    pub timeout: Duration,
    /// Failures in a row that mean no.
    pub failures: u32,
    /// Successes in a row that mean yes.
    pub successes: u32,
}

impl Timing {
    /// Of a probe.
    pub(super) fn of(probe: &Probe) -> Self {
        let seconds = |value: Option<i32>, default: u64, least: u64| {
            Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default).max(least))
        };
        let count =
            |value: Option<i32>, default| value.and_then(|value| u32::try_from(value).ok()).unwrap_or(default).max(1);
        Self {
            delay: seconds(probe.initial_delay_seconds, 0, 0),
            period: seconds(probe.period_seconds, 10, 1),
            timeout: seconds(probe.timeout_seconds, 1, 1),
            failures: count(probe.failure_threshold, 3),
            successes: count(probe.success_threshold, 1),
        }
    }
}

/// Asks once; an error says why the answer is no.
pub(super) async fn ask(probe: &Probe, container: &Container, target: &Target) -> io::Result<()> {
    let timeout = Timing::of(probe).timeout;
    if let Some(command) = probe.exec.as_ref().and_then(|exec| exec.command.clone()) {
        let child = start_piped(&target.directory, &command, false)?;
        let output = tokio::time::timeout(timeout, child.wait_with_output())
            .await
            .map_err(|_elapsed| io::Error::new(io::ErrorKind::TimedOut, "command timed out"))??;
        return if output.status.success() { Ok(()) } else { Err(io::Error::other("command failed")) };
    }
    let (port, host, http) = if let Some(http) = &probe.http_get {
        (&http.port, http.host.clone(), Some(http.path.clone().unwrap_or_else(|| "/".into())))
    } else if let Some(tcp) = &probe.tcp_socket {
        (&tcp.port, tcp.host.clone(), None)
    } else {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the lab has exec, httpGet and tcpSocket probes"));
    };
    let port = resolve(port, container)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the container declares no port of that name"))?;
    let address = match host.filter(|host| !host.is_empty()) {
        Some(host) => host.parse().map_err(io::Error::other)?,
        None => target.address.ok_or_else(|| io::Error::other("the pod has no address"))?,
    };
    let (namespace, to) = (target.node_namespace.clone(), SocketAddr::new(address, port));
    let asking = tokio::task::spawn_blocking(move || {
        let node = Namespace::open(&namespace).map_err(io::Error::other)?;
        node.run(|| connect(to, http.as_deref(), timeout)).map_err(io::Error::other)?
    });
    asking.await.map_err(io::Error::other)?
}

fn connect(to: SocketAddr, http: Option<&str>, timeout: Duration) -> io::Result<()> {
    let mut connection = TcpStream::connect_timeout(&to, timeout)?;
    let Some(path) = http else { return Ok(()) };
    connection.set_read_timeout(Some(timeout))?;
    connection.set_write_timeout(Some(timeout))?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: kube-probe/ringfence-lab\r\nConnection: close\r\n\r\n"
    );
    connection.write_all(request.as_bytes())?;
    let mut head = [0; 64];
    let length = connection.read(&mut head)?;
    let text = String::from_utf8_lossy(head.get(..length).unwrap_or_default());
    match text.split_whitespace().nth(1).and_then(|status| status.parse::<u16>().ok()) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(io::Error::other(format!("HTTP probe failed with statuscode: {status}"))),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP")),
    }
}

fn resolve(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let declared = container.ports.iter().flatten();
            declared.filter(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port).next()?
        }
    };
    u16::try_from(number).ok()
}
