//! The metadata the server gives.

use jiff::Timestamp;
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;

/// Letters of generated names: no vowels, so that no words come out, and none that look alike.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Now, to the second, as metadata tells time.
pub(crate) fn now() -> String {
    after(0)
}

/// So many seconds from now.
pub(super) fn after(seconds: i64) -> String {
    let now = Timestamp::now().as_second();
    let then = Timestamp::from_second(now.saturating_add(seconds)).unwrap_or(Timestamp::MAX);
    then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The random end of a generated name.
pub(super) fn random_suffix() -> String {
    let mut random = rand::rng();
    (0..5).filter_map(|_| ALPHABET.choose(&mut random)).map(|letter| char::from(*letter)).collect()
}

/// A random (version 4) UUID.
pub(super) fn uid() -> String {
    let mut bytes: [u8; 16] = rand::rng().random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let number = u128::from_be_bytes(bytes);
    let hex = format!("{number:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
