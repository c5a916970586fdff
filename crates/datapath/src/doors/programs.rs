//! Which of the kernel's programs are ours, whichever version of them: by their names.
//!
//! To open a program by its id takes `CAP_SYS_ADMIN`, which an agent does not have. An iterator of ours over all
//! programs tells their names without.

use std::io::{self, Read as _};
use std::sync::{Mutex, PoisonError};

use libbpf_rs::{Iter, Link};

use super::Side;
use crate::Sizes;
use crate::object::{LISTER, load};

/// Bytes that the iterator tells of each: its id, its name.
const RECORD: usize = 20;

/// The iterator, once it was needed.
static ITERATOR: Mutex<Option<Link>> = Mutex::new(None);

/// Whether a program is one of ours for a side. One that has gone is nobody's.
pub(super) fn is_ours(id: u32, side: Side) -> io::Result<bool> {
    Ok(all()?.chunks_exact(RECORD).any(|record| {
        let (number, name) = record.split_at(4);
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        number == id.to_ne_bytes() && name == side.program().as_bytes()
    }))
}

/// What the iterator tells.
fn all() -> io::Result<Vec<u8>> {
    let mut iterator = ITERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    let other = |error: &dyn std::fmt::Display| io::Error::other(error.to_string());
    if iterator.is_none() {
        let object = load(&[LISTER], &Sizes::default(), None).map_err(|error| other(&error))?;
        let program = object.progs_mut().find(|program| program.name() == LISTER);
        let program = program.ok_or_else(|| other(&"the program is missing"))?;
        *iterator = Some(program.attach().map_err(|error| other(&error))?);
    }
    let mut records = Vec::new();
    if let Some(link) = &*iterator {
        Iter::new(link).map_err(|error| other(&error))?.read_to_end(&mut records)?;
    }
    Ok(records)
}
