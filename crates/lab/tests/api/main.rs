//! The embedded API as clients see it: kube-rs within the process, and the real kubectl over TLS.
#![cfg(test)]

mod client;
mod fake;
mod kubectl;
mod lifecycle;
mod limited;
mod policies;
mod watching;
