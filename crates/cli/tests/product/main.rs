//! The product as a person uses it: the `ringfence` program, a lab, and real packets.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a failed step fails the test, a skipped test says so")]

mod across_nodes;
mod addresses;
mod by_hand;
mod clerk;
mod cluster;
mod families;
mod kit;
mod life;
#[path = "../../../lab/tests/api/limited.rs"]
mod limited;
mod links;
mod nodes;
mod plugin;
mod primary;
mod room;
mod sidecars;
mod sudden_death;
mod surroundings;
mod tour;
mod traces;
mod udp;
