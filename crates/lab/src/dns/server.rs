//! DNS over UDP and TCP: bounded, and silent towards what is not a question.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::zone::{Answer, DOMAIN, Kind, Value};
use crate::image::agnhost::any_address;

/// The time that answers may be kept, in seconds: short, since pods come and go.
const TTL: u32 = 5;
/// Largest answer over UDP to those who do not say they take more, in bytes.
const PLAIN_UDP: u16 = 512;
/// Connections at a time, and how long one may be silent.
const MAX_CONNECTIONS: usize = 256;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks up a name.
pub(super) trait LookUp: Fn(&str, Kind) -> Answer + Send + Sync + 'static {}
impl<F: Fn(&str, Kind) -> Answer + Send + Sync + 'static> LookUp for F {}

/// Answers on a port for ever.
pub(super) async fn serve(port: u16, look_up: Arc<impl LookUp>) -> io::Result<()> {
    let address = SocketAddr::new(any_address(), port);
    let udp = UdpSocket::bind(address).await?;
    let tcp = TcpListener::bind(address).await?;
    tracing::info!(%address, "answering");
    tokio::try_join!(serve_udp(udp, Arc::clone(&look_up)), serve_tcp(tcp, look_up)).map(|_| ())
}

async fn serve_udp(socket: UdpSocket, look_up: Arc<impl LookUp>) -> io::Result<()> {
    let mut buffer = vec![0; 4096];
    loop {
        // An error here tells of an earlier answer that did not arrive.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let Some(answer) = buffer.get(..length).and_then(|bytes| answer(bytes, true, &*look_up)) else { continue };
        let _lost_like_any_datagram = socket.send_to(&answer, peer).await;
    }
}

async fn serve_tcp(listener: TcpListener, look_up: Arc<impl LookUp>) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok((connection, _peer)) = listener.accept().await else { continue };
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
        let look_up = Arc::clone(&look_up);
        tokio::spawn(async move {
            // A client that goes away or talks nonsense concerns nobody else.
            let _ended = converse(connection, &*look_up).await;
            drop(place);
        });
    }
}

async fn converse(mut connection: TcpStream, look_up: &impl LookUp) -> io::Result<()> {
    loop {
        let length = tokio::time::timeout(REQUEST_TIMEOUT, connection.read_u16()).await??;
        let mut question = vec![0; usize::from(length)];
        tokio::time::timeout(REQUEST_TIMEOUT, connection.read_exact(&mut question)).await??;
        let Some(answer) = answer(&question, false, look_up) else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        connection.write_u16(length).await?;
        connection.write_all(&answer).await?;
    }
}

/// The answer to a message; none if it is no question.
fn answer(bytes: &[u8], over_udp: bool, look_up: &impl LookUp) -> Option<Vec<u8>> {
    let question = Message::from_vec(bytes).ok()?;
    if question.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
    reply.metadata.recursion_desired = question.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    if let Some(query) = question.queries.first() {
        reply.add_query(query.clone());
    }
    match (question.metadata.op_code, question.queries.as_slice()) {
        (OpCode::Query, [query]) => fill(&mut reply, query, look_up)?,
        (OpCode::Query, _) => reply.metadata.response_code = ResponseCode::FormErr,
        _ => reply.metadata.response_code = ResponseCode::NotImp,
    }
    let limit = question.edns.as_ref().map_or(PLAIN_UDP, |edns| edns.max_payload().max(PLAIN_UDP));
    if question.edns.is_some() {
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_max_payload(1232);
        reply.set_edns(edns);
    }
    let encoded = reply.to_vec().ok()?;
    if over_udp && encoded.len() > usize::from(limit) {
        return reply.truncate().to_vec().ok();
    }
    Some(encoded)
}

fn fill(reply: &mut Message, query: &Query, look_up: &impl LookUp) -> Option<()> {
    let kind = match query.query_type() {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SRV => Kind::Srv,
        _ => Kind::Other,
    };
    let asked = query.name().to_ascii().to_ascii_lowercase();
    let found = look_up(asked.trim_end_matches('.'), kind);
    reply.metadata.authoritative = true;
    let empty = match found {
        Answer::Absent => {
            reply.metadata.response_code = ResponseCode::NXDomain;
            true
        }
        Answer::Found(values) => {
            for value in &values {
                reply.add_answer(Record::from_rdata(query.name().clone(), TTL, data(value)?));
            }
            values.is_empty()
        }
    };
    // How long "there is none" may be kept is told by the zone's own record.
    if empty && asked.trim_end_matches('.').ends_with(DOMAIN) {
        reply.add_authority(start_of_authority()?);
    }
    Some(())
}

fn data(value: &Value) -> Option<RData> {
    Some(match value {
        Value::Address(std::net::IpAddr::V4(address)) => RData::A(A(*address)),
        Value::Address(std::net::IpAddr::V6(address)) => RData::AAAA(AAAA(*address)),
        Value::Server(port, name) => RData::SRV(SRV::new(0, 100, *port, absolute(name)?)),
        Value::Alias(name) => RData::CNAME(CNAME(absolute(name)?)),
    })
}

fn start_of_authority() -> Option<Record> {
    let zone = absolute(DOMAIN)?;
    let server = absolute(&format!("ns.dns.{DOMAIN}"))?;
    let contact = absolute(&format!("hostmaster.{DOMAIN}"))?;
    Some(Record::from_rdata(zone, TTL, RData::SOA(SOA::new(server, contact, 1, 7200, 1800, 86400, TTL))))
}

fn absolute(name: &str) -> Option<Name> {
    Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, kind: RecordType, over_udp: bool, count: u8) -> Message {
        let look_up = move |name: &str, _kind: Kind| match name {
            "web.shop.svc.cluster.local" => {
                let addresses = (0..count).map(|number| Value::Address([10, 97, 0, number].into()));
                Answer::Found(addresses.collect())
            }
            "empty.shop.svc.cluster.local" => Answer::Found(Vec::new()),
            _ => Answer::Absent,
        };
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let bytes = answer(&question.to_vec().unwrap(), over_udp, &look_up).unwrap();
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!(reply.metadata.id, question.metadata.id);
        reply
    }

    #[test]
    fn names_are_answered_whatever_their_case() {
        let reply = ask("Web.Shop.SVC.cluster.local.", RecordType::A, true, 2);
        assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NoError, 2));
    }

    #[test]
    fn absent_and_empty_names_say_how_long_that_holds() {
        let reply = ask("nope.shop.svc.cluster.local.", RecordType::A, true, 0);
        assert_eq!((reply.metadata.response_code, reply.authorities.len()), (ResponseCode::NXDomain, 1));
        let reply = ask("empty.shop.svc.cluster.local.", RecordType::AAAA, true, 0);
        assert_eq!((reply.metadata.response_code, reply.authorities.len()), (ResponseCode::NoError, 1));
        assert_eq!(ask("example.org.", RecordType::A, true, 0).authorities.len(), 0);
    }

    #[test]
    fn long_answers_are_cut_over_udp_and_whole_over_tcp() {
        let cut = ask("web.shop.svc.cluster.local.", RecordType::A, true, 200);
        assert!(cut.metadata.truncation);
        let whole = ask("web.shop.svc.cluster.local.", RecordType::A, false, 200);
        assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 200));
    }

    #[test]
    fn nonsense_gets_no_answer() {
        let look_up = |_: &str, _: Kind| Answer::Absent;
        assert_eq!(answer(b"", true, &look_up), None);
        assert_eq!(answer(b"nonsense of some length", true, &look_up), None);
        let reply = Message::response(7, OpCode::Query).to_vec().unwrap();
        assert_eq!(answer(&reply, true, &look_up), None);
    }
}
