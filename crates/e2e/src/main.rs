//! Tries Ringfence on a cluster.
#![forbid(unsafe_code)]

fn main() {}
