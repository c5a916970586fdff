//! A layer of an image: a compressed tar archive in which only paths, permissions and contents count.

use std::collections::BTreeSet;
use std::io::Write as _;

use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

use super::files::Files;
use super::oci::digest;

/// A layer.
pub(crate) struct Layer {
    /// Compressed.
    pub(super) bytes: Vec<u8>,
    /// Digest of what is compressed.
    pub(super) diff_id: String,
}

/// Packs files: ordered by path, owned by root, as old as time itself.
pub(super) fn pack(files: &Files) -> anyhow::Result<Layer> {
    let mut builder = Builder::new(Vec::new());
    for directory in directories(files) {
        let mut header = header(EntryType::Directory, 0o755, 0);
        builder.append_data(&mut header, format!("{}/", &directory[1..]), &[][..])?;
    }
    for (path, file) in files.iter() {
        let mut header = header(EntryType::Regular, file.mode, file.content.len() as u64);
        builder.append_data(&mut header, &path[1..], file.content.as_slice())?;
    }
    Layer::of_tar(&builder.into_inner()?)
}

impl Layer {
    /// Compresses a tar archive.
    pub(crate) fn of_tar(plain: &[u8]) -> anyhow::Result<Self> {
        // No name and no time in the header of the compressed stream.
        let mut compressed = GzBuilder::new().mtime(0).write(Vec::new(), Compression::new(6));
        compressed.write_all(plain)?;
        Ok(Self { bytes: compressed.finish()?, diff_id: digest(plain) })
    }
}

/// The header of an entry that says nothing of the machine or the time it was made on.
pub(super) fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

/// Every directory above a file, parents first.
fn directories(files: &Files) -> BTreeSet<String> {
    let mut directories = BTreeSet::new();
    for (path, _) in files.iter() {
        let slashes = path.match_indices('/').map(|(index, _)| index).filter(|index| *index > 0);
        directories.extend(slashes.map(|index| path[..index].to_owned()));
    }
    directories
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn entries_are_ordered_and_tell_nothing_of_the_machine() {
        let mut files = Files::default();
        files.add(Path::new("/proc/self/cmdline"), "/usr/bin/b").unwrap();
        files.add(Path::new("/proc/self/cmdline"), "/a").unwrap();
        let layer = pack(&files).unwrap();
        let mut archive = tar::Archive::new(GzDecoder::new(layer.bytes.as_slice()));
        let mut paths = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0, 0, 0));
            paths.push(entry.path().unwrap().display().to_string());
        }
        assert_eq!(paths, ["usr/", "usr/bin/", "a", "usr/bin/b"]);
    }
}
