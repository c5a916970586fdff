//! Links and maps held open, so that they stay in force without pins, and the repair of both.
//!
//! The kernel detaches a link with its last reference, and packets then pass unchecked. A pin is one reference, and
//! others may remove it: a cleanup script, or an unmounted file system. The process holds another one.

use std::fs;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use libbpf_rs::{Link, MapHandle, Object};

use crate::Error;
use crate::kernel::pin;
use crate::links::{self, Hook};
use crate::object::MAPS;
use crate::pins::Pins;
use crate::typed_map::open_map;

/// All pinned links and maps of a version, each with its path.
#[derive(Debug)]
pub(crate) struct PinnedObjects {
    links: Vec<(PathBuf, Link)>,
    maps: Vec<(PathBuf, MapHandle)>,
}

impl PinnedObjects {
    /// Opens all links, including those of another version that will be replaced, and the maps of this version.
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

    /// Pins everything whose pin is missing. Returns the number of missing pins.
    pub(crate) fn pin(&self) -> Result<usize, Error> {
        let mut missing = 0;
        for (path, map) in &self.maps {
            missing += usize::from(restore(path, map.as_fd())?);
        }
        // Links come last: an agent that finds them relies on the maps.
        for (path, link) in &self.links {
            missing += usize::from(restore(path, link.as_fd())?);
        }
        Ok(missing)
    }

    /// Detaches the links, including those whose pins are missing.
    pub(crate) fn detach(self) {
        for (path, link) in self.links {
            if let Err(error) = link.detach() {
                tracing::debug!(%error, path = %path.display(), "the link is detached when it is closed");
            }
        }
    }

    /// Attaches the program again where its link was detached. Returns the number of such links.
    pub(crate) fn attach(&mut self, program: &Object) -> Result<usize, Error> {
        let mut detached = 0;
        for (path, link) in &mut self.links {
            let Some(hook) = Hook::of(path) else { continue };
            let Some(again) = hook.reattach(program, link)? else { continue };
            detached += 1;
            *link = again;
            // The pin refers to the detached link. The new link is pinned later, and until then there is no pin.
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

/// Pins an object unless something is pinned there. Returns true if the pin was missing.
fn restore(path: &Path, object: BorrowedFd<'_>) -> Result<bool, Error> {
    if path.exists() {
        return Ok(false);
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(Error::path("create", directory))?;
    }
    pin(object, path).map_err(Error::path("pin again at", path))?;
    Ok(true)
}
