//! Hostile inputs for whatever reads bytes from outside.
//!
//! A fuzz target is a test that reads what [`hostile`] gives it: seeds, changed in ways that chance chooses. In
//! `cargo test` each reads some thousand inputs; `RINGFENCE_CASES` makes that as many as you like. An input that makes
//! a target panic is made smaller and printed. Targets of public functions are in this crate's tests, others beside
//! what they try, in tests called `…_survive_hostile_input`.
#![forbid(unsafe_code)]

use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, TestRunner};

/// Inputs that a target reads, unless `RINGFENCE_CASES` says otherwise.
const CASES: u32 = 3000;
/// Most bytes that decide about an input.
const MOST_CHOICES: usize = 96;

/// Most changes that are made to a seed.
const MOST_CHANGES: usize = 24;
/// Longest input, in bytes: what is read is bounded by whoever reads it, and that bound has tests of its own.
const LONGEST: usize = 1 << 16;

/// Pieces that formats give a meaning: of YAML, JSON, names, numbers, escapes, nesting.
const PIECES: &[&[u8]] = &[
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\n---\n",
    b"\n...\n",
    b"\t",
    b"%YAML 9.9\n",
    b"# ",
    b"&a ",
    b"*a",
    b"<<: *a\n",
    b"!!binary ",
    b"!x ",
    b"- ",
    b": ",
    b"? ",
    b"| \n",
    b">+9\n",
    b"~",
    b"null",
    b"\"",
    b"'",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"{}",
    b"[]",
    b"0",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"4294967296",
    b"65536",
    b".inf",
    b"0x7fffffff",
    b"0.0.0.0/0",
    b"::/129",
    b"255.255.255.256",
    b"fe80::1%eth0",
    b"..",
    b"/",
    b"a.b.c/d",
    b"*.",
    b"\xc3\x28",
    b"\xf0\x9f\x92\xa9",
];

/// Lets a target read many inputs that are made of seeds.
///
/// # Panics
/// The target panicked: with the smallest input found that makes it.
pub fn hostile(seeds: &[&[u8]], target: impl Fn(&[u8])) {
    let told = std::env::var("RINGFENCE_CASES").ok().and_then(|cases| cases.parse().ok());
    let config = Config { cases: told.unwrap_or(CASES), failure_persistence: None, ..Config::default() };
    let run = TestRunner::new(config).run(&vec(any::<u8>(), 0..MOST_CHOICES), |choices| {
        target(&input(seeds, &choices));
        Ok(())
    });
    if let Err(error) = run {
        panic!("{error}");
    }
}

/// An input made by choices: a seed with changes, or now and then the choices themselves.
///
/// Equal choices give equal inputs, so what a fuzzer found can be read again.
fn input(seeds: &[&[u8]], choices: &[u8]) -> Vec<u8> {
    let mut choices = Choices(choices);
    let which = usize::from(choices.byte()) % (seeds.len() + 1);
    let Some(seed) = seeds.get(which) else { return choices.0.to_vec() };
    let mut text = seed.to_vec();
    for _ in 0..MOST_CHANGES {
        if choices.0.is_empty() || text.len() > LONGEST {
            break;
        }
        change(&mut text, seeds, &mut choices);
    }
    text.truncate(LONGEST);
    text
}

fn change(text: &mut Vec<u8>, seeds: &[&[u8]], choices: &mut Choices<'_>) {
    let kind = choices.byte();
    let at = choices.place(text.len());
    match kind % 8 {
        0 => {
            let with = choices.byte();
            text.get_mut(at).into_iter().for_each(|byte| *byte ^= with);
        }
        1 => drop(text.drain(at..choices.place_after(at, text.len()))),
        2 => {
            let piece = text[at..choices.place_after(at, text.len())].to_vec();
            text.splice(at..at, piece);
        }
        // Deep nesting, and long runs of one thing.
        3 => {
            let piece = PIECES[usize::from(choices.byte()) % PIECES.len()];
            let times = 1 << (choices.byte() % 12);
            text.splice(at..at, piece.repeat(times).into_iter().take(LONGEST));
        }
        4 => {
            let other = seeds[usize::from(choices.byte()) % seeds.len()];
            let from = choices.place(other.len());
            let to = choices.place_after(from, other.len());
            text.splice(at..at, other[from..to].iter().copied());
        }
        5 => text.truncate(at),
        _ => {
            let piece = PIECES[usize::from(choices.byte()) % PIECES.len()];
            text.splice(at..at, piece.iter().copied());
        }
    }
}

/// Bytes that decide.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    /// The next; zero when there are no more.
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A place in something of this length, its end included.
    fn place(&mut self, length: usize) -> usize {
        let choice = usize::from(self.byte()) << 8 | usize::from(self.byte());
        (choice * (length + 1)) >> 16
    }

    /// One that is not before another.
    fn place_after(&mut self, start: usize, length: usize) -> usize {
        // Mostly near: what formats have in one place is short.
        let far = self.byte();
        start + if far < 224 { usize::from(far).min(length - start) } else { self.place(length - start) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_decide_alone() {
        let seeds: &[&[u8]] = &[b"first seed", b"second"];
        assert_eq!(input(seeds, &[]), b"first seed");
        assert_eq!(input(seeds, &[1]), b"second");
        assert_eq!(input(seeds, &[2, 7, 8]), [7, 8]);
        let choices: Vec<u8> = (0..=255).cycle().take(700).collect();
        assert_eq!(input(seeds, &choices), input(seeds, &choices));
        assert_ne!(input(seeds, &choices), b"first seed");
    }

    #[test]
    fn a_target_that_cannot_read_an_input_is_found() {
        let naive = |bytes: &[u8]| assert!(std::str::from_utf8(bytes).is_ok(), "not text");
        assert!(std::panic::catch_unwind(|| hostile(&[b"text"], naive)).is_err());
        hostile(&[b"text"], |bytes| assert!(bytes.len() <= LONGEST));
    }

    #[test]
    fn inputs_are_bounded_whatever_is_chosen() {
        for seed in 0_u8..=255 {
            let choices: Vec<u8> = (0..400_u16).map(|n| (n * 31).to_le_bytes()[0] ^ seed).collect();
            assert!(input(&[b"some seed"], &choices).len() <= LONGEST);
        }
    }
}
