//! Recognises the programs of every version of Ringfence by their names.
//!
//! Opening a program by its id needs `CAP_SYS_ADMIN`, which an agent does not have. A BPF iterator over all programs
//! reads their names without it.

use std::io::{self, Read as _};
use std::sync::{Mutex, PoisonError};

use libbpf_rs::{Iter, Link};

use super::LinkDirection;
use crate::Sizes;
use crate::object::{LIST_PROGRAM, load};

/// Bytes of a record of the iterator: id and name of a program.
const RECORD: usize = 20;

/// The iterator, loaded when it is needed first.
static ITERATOR: Mutex<Option<Link>> = Mutex::new(None);

/// True if a program belongs to Ringfence and is for a direction. False if the program is gone.
pub(super) fn is_ours(id: u32, direction: LinkDirection) -> io::Result<bool> {
    Ok(all()?.chunks_exact(RECORD).any(|record| {
        let (number, name) = record.split_at(4);
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        number == id.to_ne_bytes() && name == direction.program().as_bytes()
    }))
}

/// Reads all records of the iterator.
fn all() -> io::Result<Vec<u8>> {
    let mut iterator = ITERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    let other = |error: &dyn std::fmt::Display| io::Error::other(error.to_string());
    if iterator.is_none() {
        let object = load(&[LIST_PROGRAM], &Sizes::default(), None).map_err(|error| other(&error))?;
        let program = object.progs_mut().find(|program| program.name() == LIST_PROGRAM);
        let program = program.ok_or_else(|| other(&"the program is missing"))?;
        *iterator = Some(program.attach().map_err(|error| other(&error))?);
    }
    let mut records = Vec::new();
    if let Some(link) = &*iterator {
        Iter::new(link).map_err(|error| other(&error))?.read_to_end(&mut records)?;
    }
    Ok(records)
}
