//! Links and maps held open, so that they stay in force whatever becomes of their pins, and what is done about that.
//!
//! The kernel forgets a link with its last reference, and a packet then passes unjudged. A pin is one reference, and
//! anybody may remove it: a script that cleans up, an unmounted file system. The process is the other.

use std::fs;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use libbpf_rs::{Link, MapHandle, Object};

use crate::Error;
use crate::kernel::pin;
use crate::links::{self, Hook};
use crate::object::MAPS;
use crate::pins::Pins;
use crate::table::open_map;

/// Everything of a version that is pinned, each with its path.
#[derive(Debug)]
pub(crate) struct Kept {
    links: Vec<(PathBuf, Link)>,
    maps: Vec<(PathBuf, MapHandle)>,
}

impl Kept {
    /// Opens all links there are, also those of another version that are still to be replaced, and our maps.
    pub(crate) fn open(pins: &Pins) -> Result<Self, Error> {
        let mut links = Vec::new();
        for directory in pins.all_links()? {
            for path in links::entries(&directory)? {
                let link = links::open(&path)?;
                links.push((path, link));
            }
        }
        let directory = pins.maps();
        let maps = MAPS.map(|name| Ok((directory.join(name), open_map(&directory, name)?)));
        Ok(Self { links, maps: maps.into_iter().collect::<Result<_, Error>>()? })
    }

    /// Pins what is pinned no more. Returns how many pins were missing.
    pub(crate) fn pin(&self) -> Result<usize, Error> {
        let mut missing = 0;
        for (path, map) in &self.maps {
            missing += usize::from(restore(path, map.as_fd())?);
        }
        // Links come last: an agent that finds them may count on the maps.
        for (path, link) in &self.links {
            missing += usize::from(restore(path, link.as_fd())?);
        }
        Ok(missing)
    }

    /// Ends what the links do, also of those whose pins are gone.
    pub(crate) fn detach(self) {
        for (path, link) in self.links {
            if let Err(error) = link.detach() {
                tracing::debug!(%error, path = %path.display(), "the link goes when it is closed");
            }
        }
    }

    /// Attaches the program where one of its links was detached. Returns how many were.
    pub(crate) fn attach(&mut self, program: &Object) -> Result<usize, Error> {
        let mut detached = 0;
        for (path, link) in &mut self.links {
            let Some(hook) = Hook::of(path) else { continue };
            let Some(again) = hook.attach_anew(program, link)? else { continue };
            detached += 1;
            *link = again;
            // The pin is of the link that is dead; it is missing for as long as it takes to pin the new one.
            match fs::remove_file(&*path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::path("remove", &*path)(error));
                }
                _ => {}
            }
        }
        Ok(detached)
    }
}

/// Puts a pin back that is not there. True if it was not.
fn restore(path: &Path, object: BorrowedFd<'_>) -> Result<bool, Error> {
    if path.exists() {
        return Ok(false);
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(Error::path("create", directory))?;
    }
    pin(object, path).map_err(Error::path("pin anew at", path))?;
    Ok(true)
}
