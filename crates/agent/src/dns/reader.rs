//! From a packet to what it teaches.

use std::collections::BTreeSet;

use ringfence_model::DomainName;

use super::answer::{self, Answer};
use super::learner::Learner;
use super::packet::{self, Carried, Flow};
use super::stream::Streams;
use crate::metrics::Meters;

/// Reads packets and learns.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) learner: Learner,
    streams: Streams,
}

/// Result of a packet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Brought {
    /// The change that has to be in the kernel before the packet may go on; 0 if none.
    pub(super) awaits: u64,
    /// Names with addresses that were new.
    pub(super) changed: BTreeSet<DomainName>,
    /// Answers that concern a rule, for the journal.
    pub(super) answers: Vec<Answer>,
}

impl Reader {
    /// Reads a packet at a time in milliseconds. What is new in it belongs to a change with this number.
    pub(super) fn read(&mut self, bytes: &[u8], now: u64, change: u64, meters: &Meters) -> Brought {
        let mut brought = Brought::default();
        match packet::read(bytes) {
            Some(Carried::Datagram(message)) => self.message(message, now, change, meters, &mut brought),
            Some(Carried::Segment(flow, segment)) => match self.streams.take(flow, segment, now / 1000) {
                Ok(messages) => {
                    for message in messages {
                        self.message(&message, now, change, meters, &mut brought);
                    }
                    self.hold(flow, &mut brought);
                }
                Err(_unread) => {
                    meters.answers_unread.inc();
                }
            },
            None => {
                meters.answers_unread.inc();
            }
        }
        brought
    }

    fn hold(&mut self, flow: Flow, brought: &mut Brought) {
        self.streams.hold(flow, brought.awaits);
        brought.awaits = brought.awaits.max(self.streams.awaits(flow));
    }

    fn message(&mut self, message: &[u8], now: u64, change: u64, meters: &Meters, brought: &mut Brought) {
        meters.answers.inc();
        let answer = match answer::read(message) {
            Ok(Some(answer)) => answer,
            Ok(None) => return,
            Err(answer::Malformed) => {
                meters.answers_unread.inc();
                return;
            }
        };
        let learnt = self.learner.learn(&answer, now, change);
        if learnt.refused > 0 && meters.names_refused.inc_by(learnt.refused as u64) == 0 {
            tracing::error!(
                name = %answer.name, refused = learnt.refused,
                "no room for more addresses of names: connections to them are denied; further ones are only counted"
            );
        }
        if learnt.new > 0 {
            brought.changed.insert(answer.name.clone());
        }
        if learnt.awaits > 0 {
            brought.awaits = brought.awaits.max(learnt.awaits);
            brought.answers.push(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use hickory_proto::op::{Message, OpCode, Query};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record, RecordType};
    use ringfence_model::DomainPattern;

    use super::*;

    fn answer(name: &str, last: u8) -> Vec<u8> {
        let name = Name::from_ascii(name).unwrap();
        let mut message = Message::response(1, OpCode::Query);
        message.add_query(Query::query(name.clone(), RecordType::A));
        message.add_answer(Record::from_rdata(name, 60, RData::A(A([192, 0, 2, last].into()))));
        message.to_vec().unwrap()
    }

    fn udp(payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(53, 4000).write(&mut packet, payload).unwrap();
        packet
    }

    fn tcp(sequence: u32, syn: bool, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(53, 4000, sequence, 9).ack(1);
        let builder = if syn { builder.syn() } else { builder };
        builder.write(&mut packet, payload).unwrap();
        packet
    }

    fn reader() -> (Reader, Meters) {
        let mut reader = Reader::default();
        reader.learner.ask_for([DomainPattern::new("*.example.com")].into());
        (reader, Meters::new())
    }

    #[test]
    fn only_what_concerns_a_rule_is_held() {
        let (mut reader, meters) = reader();
        let brought = reader.read(&udp(&answer("www.example.com.", 1)), 0, 1, &meters);
        assert_eq!((brought.awaits, brought.changed.len(), brought.answers.len()), (1, 1, 1));
        let again = reader.read(&udp(&answer("www.example.com.", 1)), 0, 2, &meters);
        assert_eq!((again.awaits, again.changed.len()), (1, 0), "nothing new, but the first may still be on its way");
        assert_eq!(reader.read(&udp(&answer("www.example.net.", 1)), 0, 3, &meters), Brought::default());
        assert_eq!(reader.read(&udp(b"nonsense"), 0, 4, &meters), Brought::default());
        assert_eq!((meters.answers.get(), meters.answers_unread.get()), (4, 1));
    }

    #[test]
    fn over_tcp_the_piece_that_makes_a_message_whole_is_held() {
        let (mut reader, meters) = reader();
        let (first, second) = (answer("a.example.com.", 1), answer("b.example.com.", 2));
        let frame = |message: &[u8]| [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat();
        let stream = [frame(&first), frame(&second)].concat();
        let (head, tail) = stream.split_at(20);
        assert_eq!(reader.read(&tcp(100, true, b""), 0, 1, &meters), Brought::default());
        assert_eq!(reader.read(&tcp(101, false, head), 0, 1, &meters), Brought::default());
        let brought = reader.read(&tcp(121, false, tail), 0, 1, &meters);
        assert_eq!((brought.awaits, brought.changed.len()), (1, 2));
        assert_eq!(reader.read(&tcp(121, false, tail), 0, 2, &meters).awaits, 1, "sent again");
    }

    #[test]
    fn packets_with_answers_survive_hostile_input() {
        let stream = [&200_u16.to_be_bytes()[..], &answer("b.example.com.", 2)].concat();
        let seeds = [
            udp(&answer("www.example.com.", 1)),
            tcp(7, true, b""),
            tcp(8, false, &stream),
            tcp(8 + u32::try_from(stream.len()).unwrap(), false, &[0; 200]),
        ];
        let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
        ringfence_fuzz::hostile(&seeds, |bytes| {
            let (mut reader, meters) = reader();
            // A stream's packets come one after the other; each choice spoils one of them.
            for (now, seed) in (0..).zip(&seeds) {
                let _ = reader.read(seed, now, 1, &meters);
                let _ = reader.read(bytes, now, 2, &meters);
            }
            assert!(
                reader.learner.names().all(|name| name.as_str().ends_with("example.com")),
                "a name nobody asked for"
            );
        });
    }
}
