//! Puts together the messages that come over TCP.
//!
//! A client cannot read past a gap. So it is enough to hold the segment that makes a message whole: those that came out
//! of order before it may go their way.

use std::collections::{BTreeMap, HashMap};

use super::packet::{Flow, Segment};

/// Streams at a time; further ones are not read.
const MOST_STREAMS: usize = 256;
/// Bytes of a stream kept because something before them is missing.
const MOST_AHEAD: usize = 64 << 10;
/// Seconds after which a silent stream gives its place to a new one.
const SILENCE: u64 = 30;

/// All streams.
#[derive(Debug, Default)]
pub(crate) struct Streams(HashMap<Flow, Stream>);

/// One stream.
#[derive(Debug, Default)]
struct Stream {
    /// Sequence number of the next byte.
    next: u32,
    /// Segments that arrived before a missing one, by sequence number.
    ahead: BTreeMap<u32, Vec<u8>>,
    /// The beginning of a message.
    partial: Vec<u8>,
    /// The change that has to be in the kernel before anything goes on to the client.
    awaits: u64,
    /// When something came last, in seconds.
    active: u64,
}

impl Streams {
    /// Takes in a segment; gives back the messages it made whole.
    ///
    /// # Errors
    /// [`Unread`] if the stream is not, or not any more, followed.
    pub(crate) fn take(&mut self, flow: Flow, segment: Segment<'_>, now: u64) -> Result<Vec<Vec<u8>>, Unread> {
        if segment.syn {
            return self.begin(flow, segment.sequence.wrapping_add(1), now);
        }
        let Some(stream) = self.0.get_mut(&flow) else {
            return if segment.payload.is_empty() { Ok(Vec::new()) } else { Err(Unread) };
        };
        stream.active = now;
        let taken = stream.take(segment);
        if segment.end || taken.is_err() {
            self.0.remove(&flow);
        }
        taken
    }

    fn begin(&mut self, flow: Flow, next: u32, now: u64) -> Result<Vec<Vec<u8>>, Unread> {
        if self.0.len() >= MOST_STREAMS {
            self.0.retain(|_, stream| stream.active + SILENCE > now);
        }
        if self.0.len() >= MOST_STREAMS {
            return Err(Unread);
        }
        self.0.insert(flow, Stream { next, active: now, ..Stream::default() });
        Ok(Vec::new())
    }

    /// The client of this stream must not read on before a change is in the kernel.
    pub(crate) fn hold(&mut self, flow: Flow, change: u64) {
        if let Some(stream) = self.0.get_mut(&flow) {
            stream.awaits = stream.awaits.max(change);
        }
    }

    /// The change that has to be in the kernel before a packet of this stream may go on: also one sent again.
    pub(crate) fn awaits(&self, flow: Flow) -> u64 {
        self.0.get(&flow).map_or(0, |stream| stream.awaits)
    }
}

/// A stream that is not read: there are too many, its beginning was not seen, or too much is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unread;

impl Stream {
    fn take(&mut self, segment: Segment<'_>) -> Result<Vec<Vec<u8>>, Unread> {
        // The client may have read the longer of two that begin at one place.
        let before = self.ahead.get(&segment.sequence).map_or(0, Vec::len);
        if segment.payload.len() > before {
            self.ahead.insert(segment.sequence, segment.payload.to_vec());
        }
        while let Some((sequence, bytes)) = self.ready() {
            self.ahead.remove(&sequence);
            let known = self.next.wrapping_sub(sequence) as usize;
            if let Some(new) = bytes.get(known..) {
                self.partial.extend(new);
                self.next = self.next.wrapping_add(u32::try_from(new.len()).map_err(|_too_long| Unread)?);
            }
        }
        if self.ahead.values().map(Vec::len).sum::<usize>() > MOST_AHEAD {
            return Err(Unread);
        }
        Ok(self.messages())
    }

    /// A piece that begins at or before the next byte.
    fn ready(&self) -> Option<(u32, Vec<u8>)> {
        let begins = |sequence: u32| self.next.wrapping_sub(sequence) < 1 << 31;
        self.ahead.iter().find(|(sequence, _)| begins(**sequence)).map(|(sequence, bytes)| (*sequence, bytes.clone()))
    }

    /// Takes out whole messages: each has its length before it (RFC 1035 4.2.2).
    fn messages(&mut self) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        let mut rest = self.partial.as_slice();
        while let Some((length, after)) = rest.split_first_chunk()
            && let Some((message, after)) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))
        {
            messages.push(message.to_vec());
            rest = after;
        }
        self.partial = rest.to_vec();
        messages
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1000;

    fn flow(port: u16) -> Flow {
        ("10.0.0.1:53".parse().unwrap(), ([10, 0, 0, 2], port).into())
    }

    fn segment(sequence: u32, payload: &[u8]) -> Segment<'_> {
        Segment { sequence, syn: false, end: false, payload }
    }

    fn syn(sequence: u32) -> Segment<'static> {
        Segment { sequence, syn: true, end: false, payload: &[] }
    }

    fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
        let frame = |message: &Vec<u8>| [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat();
        messages.iter().flat_map(frame).collect()
    }

    #[test]
    fn a_stream_whose_beginning_was_not_seen_is_not_read() {
        let mut streams = Streams::default();
        assert_eq!(streams.take(flow(1), segment(5, &[]), NOW), Ok(vec![]));
        assert_eq!(streams.take(flow(1), segment(5, b"\0\x01x"), NOW), Err(Unread));
    }

    #[test]
    fn a_stream_with_too_much_missing_is_given_up() {
        let mut streams = Streams::default();
        streams.take(flow(1), syn(0), NOW).unwrap();
        let piece = vec![0; 40_000];
        assert_eq!(streams.take(flow(1), segment(100, &piece), NOW), Ok(vec![]));
        assert_eq!(streams.take(flow(1), segment(50_100, &piece), NOW), Err(Unread));
        assert_eq!(streams.take(flow(1), segment(1, b"\0\x01x"), NOW), Err(Unread));
    }

    #[test]
    fn streams_are_bounded_and_silent_ones_give_way() {
        let mut streams = Streams::default();
        for port in 0..256 {
            streams.take(flow(port), syn(0), NOW).unwrap();
        }
        assert_eq!(streams.take(flow(999), syn(0), NOW + 1), Err(Unread));
        assert_eq!(streams.take(flow(999), syn(0), NOW + SILENCE), Ok(vec![]));
    }

    #[test]
    fn what_is_sent_again_waits_for_the_same_change() {
        let mut streams = Streams::default();
        streams.take(flow(1), syn(0), NOW).unwrap();
        assert_eq!(streams.take(flow(1), segment(1, b"\0\x01x"), NOW).unwrap(), [b"x"]);
        streams.hold(flow(1), 7);
        assert_eq!(streams.take(flow(1), segment(1, b"\0\x01x"), NOW), Ok(vec![]));
        assert_eq!(streams.awaits(flow(1)), 7);
    }

    proptest! {
        /// However a stream is cut up, reordered and sent again, the same messages come out in order; also where the
        /// sequence numbers begin again from 0.
        #[test]
        fn messages_come_out_whole(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..6),
            cuts in proptest::collection::vec(0_usize..1500, 0..8),
            order in any::<u64>(),
            start in prop_oneof![any::<u32>(), Just(u32::MAX - 20)],
        ) {
            let bytes = framed(&messages);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let mut pieces: Vec<_> = cuts.windows(2).map(|edge| (edge[0], &bytes[edge[0]..edge[1]])).collect();
            pieces.extend(pieces.clone().into_iter().take(2));
            let mut order = order;
            for index in (1..pieces.len()).rev() {
                order = order.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                pieces.swap(index, usize::try_from(order >> 33).unwrap() % (index + 1));
            }
            let mut streams = Streams::default();
            streams.take(flow(1), syn(start), NOW).unwrap();
            let mut out = Vec::new();
            for (at, piece) in pieces {
                let sequence = start.wrapping_add(1).wrapping_add(u32::try_from(at).unwrap());
                out.extend(streams.take(flow(1), segment(sequence, piece), NOW).unwrap());
            }
            prop_assert_eq!(out, messages);
        }

        #[test]
        fn nothing_makes_it_panic(
            pieces in proptest::collection::vec((any::<u32>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..40),
        ) {
            let mut streams = Streams::default();
            streams.take(flow(1), syn(0), NOW).unwrap();
            for (sequence, piece) in pieces {
                let _ = streams.take(flow(1), segment(sequence, &piece), NOW);
            }
        }
    }
}
