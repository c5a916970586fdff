//! Reads what a DNS message says about addresses.

use std::collections::HashMap;
use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{Name, RData, Record};
use ringfence_model::DomainName;

/// Links of a chain of aliases that are followed: more than resolvers do.
const LONGEST_CHAIN: usize = 16;

/// Addresses of a name, as a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The name that was asked for.
    pub(crate) name: DomainName,
    /// Its addresses, and for how many seconds each may be kept.
    pub(crate) addresses: Vec<(IpAddr, u32)>,
}

/// The message is not DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Reads a message. None if it is no answer, or says nothing about addresses.
///
/// Aliases count only where the chain from the name that was asked to the address is whole within the message; an
/// address is kept no longer than the shortest-lived record on the way to it.
pub(crate) fn read(message: &[u8]) -> Result<Option<Answer>, Malformed> {
    let message = Message::from_vec(message).map_err(|_why| Malformed)?;
    let metadata = &message.metadata;
    if metadata.message_type != MessageType::Response
        || metadata.op_code != OpCode::Query
        || metadata.response_code != ResponseCode::NoError
    {
        return Ok(None);
    }
    let [question] = message.queries.as_slice() else { return Ok(None) };
    let Some(name) = name(question.name()) else { return Ok(None) };
    let addresses = addresses(&folded(question.name()), &message.answers);
    Ok((!addresses.is_empty()).then_some(Answer { name, addresses }))
}

/// A name as rules write it. None for one with a character that text would have to hide: no pattern means it, but its
/// text might look as if one did.
fn name(name: &Name) -> Option<DomainName> {
    let text = name.to_ascii();
    (!text.contains('\\')).then(|| DomainName::new(&text))
}

fn folded(name: &Name) -> String {
    name.to_ascii().to_ascii_lowercase()
}

fn addresses(asked: &str, records: &[Record]) -> Vec<(IpAddr, u32)> {
    let mut aliases = HashMap::new();
    let mut found: HashMap<String, Vec<(IpAddr, u32)>> = HashMap::new();
    for record in records {
        let address: IpAddr = match &record.data {
            RData::CNAME(alias) => {
                aliases.insert(folded(&record.name), (folded(&alias.0), record.ttl));
                continue;
            }
            RData::A(address) => address.0.into(),
            RData::AAAA(address) => address.0.into(),
            _ => continue,
        };
        found.entry(folded(&record.name)).or_default().push((address.to_canonical(), record.ttl));
    }
    let (mut at, mut ttl) = (asked.to_owned(), u32::MAX);
    for _ in 0..LONGEST_CHAIN {
        if let Some(mut addresses) = found.remove(&at) {
            for address in &mut addresses {
                address.1 = address.1.min(ttl);
            }
            return addresses;
        }
        let Some((next, until)) = aliases.remove(&at) else { break };
        (at, ttl) = (next, ttl.min(until));
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;
    use hickory_proto::rr::RecordType;
    use hickory_proto::rr::rdata::{A, AAAA, CNAME};
    use proptest::prelude::*;

    use super::*;

    fn absolute(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn message(asked: &str, records: Vec<(&str, u32, RData)>) -> Message {
        let mut message = Message::response(7, OpCode::Query);
        message.add_query(Query::query(absolute(asked), RecordType::A));
        for (name, ttl, data) in records {
            message.add_answer(Record::from_rdata(absolute(name), ttl, data));
        }
        message
    }

    fn a(address: [u8; 4]) -> RData {
        RData::A(A(address.into()))
    }

    fn alias(name: &str) -> RData {
        RData::CNAME(CNAME(absolute(name)))
    }

    fn learnt(message: &Message) -> Option<Answer> {
        read(&message.to_vec().unwrap()).unwrap()
    }

    #[test]
    fn both_families_are_read_and_case_is_folded() {
        let six = RData::AAAA(AAAA("2001:db8::1".parse().unwrap()));
        let answer = message(
            "Www.Example.COM.",
            vec![("www.EXAMPLE.com.", 30, a([192, 0, 2, 1])), ("www.example.com.", 9, six)],
        );
        let answer = learnt(&answer).unwrap();
        assert_eq!(answer.name, DomainName::new("www.example.com"));
        assert_eq!(answer.addresses, [("192.0.2.1".parse().unwrap(), 30), ("2001:db8::1".parse().unwrap(), 9)]);
    }

    #[test]
    fn a_chain_of_aliases_is_folded_into_the_name_that_was_asked() {
        let answer = message(
            "www.example.com.",
            vec![
                ("edge.cdn.net.", 60, a([192, 0, 2, 1])),
                ("www.example.com.", 300, alias("WWW.cdn.net.")),
                ("www.cdn.net.", 20, alias("edge.cdn.net.")),
                ("other.net.", 60, a([192, 0, 2, 99])),
            ],
        );
        let answer = learnt(&answer).unwrap();
        assert_eq!(answer.name, DomainName::new("www.example.com"));
        assert_eq!(answer.addresses, [("192.0.2.1".parse().unwrap(), 20)]);
    }

    #[test]
    fn broken_chains_and_circles_say_nothing() {
        let broken = vec![("www.example.com.", 5, alias("a.net.")), ("b.net.", 5, a([192, 0, 2, 1]))];
        assert_eq!(learnt(&message("www.example.com.", broken)), None);
        let circle = vec![("www.example.com.", 5, alias("a.net.")), ("a.net.", 5, alias("www.example.com."))];
        assert_eq!(learnt(&message("www.example.com.", circle)), None);
    }

    #[test]
    fn questions_errors_and_dots_inside_labels_say_nothing() {
        let records = || vec![("x.example.com.", 5, a([192, 0, 2, 1]))];
        let mut question = message("x.example.com.", records());
        question.metadata.message_type = MessageType::Query;
        assert_eq!(learnt(&question), None);
        let mut failure = message("x.example.com.", records());
        failure.metadata.response_code = ResponseCode::NXDomain;
        assert_eq!(learnt(&failure), None);
        let hidden = Name::from_labels([b"x.example".as_slice(), b"com"]).unwrap();
        let mut inside = Message::response(7, OpCode::Query);
        inside.add_query(Query::query(hidden.clone(), RecordType::A));
        inside.add_answer(Record::from_rdata(hidden, 5, a([192, 0, 2, 1])));
        assert_eq!(learnt(&inside), None);
    }

    #[test]
    fn a_message_that_is_cut_off_anywhere_is_refused_or_read_in_part() {
        let records: Vec<_> = (0..40).map(|n| ("www.example.com.", 5, a([192, 0, 2, n]))).collect();
        let whole = message("www.example.com.", records).to_vec().unwrap();
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]), Err(Malformed), "{length} of {} bytes", whole.len());
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = read(&bytes);
        }

        #[test]
        fn nor_does_a_message_with_bytes_changed(at in proptest::collection::vec((0_usize..120, any::<u8>()), 0..8)) {
            let records = vec![("www.example.com.", 5, alias("a.net.")), ("a.net.", 5, a([192, 0, 2, 1]))];
            let mut bytes = message("www.example.com.", records).to_vec().unwrap();
            for (index, value) in at {
                if let Some(byte) = bytes.get_mut(index) {
                    *byte = value;
                }
            }
            let _ = read(&bytes);
        }
    }
}
