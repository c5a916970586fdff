//! The files of a directory of network configurations, and how they are replaced.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// Ending of the name of a file that is still being written. No runtime reads such files.
const UNFINISHED: &str = ".ringfence-new";

/// Time after a file was replaced in which somebody may write into the old one: who opens a file in order to write does
/// so at once.
const REPLACED_GRACE: Duration = Duration::from_secs(10);

/// A directory of network configurations.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// Texts by file name, in the order runtimes look at them.
    pub(crate) texts: BTreeMap<String, String>,
    /// Files that runtimes may see and this process does not, and why: links that lead out of what is mounted here.
    pub(crate) lost: BTreeMap<String, String>,
}

impl Files {
    /// Reads what runtimes take for configurations, through links as they do.
    pub(crate) fn read(conf_dir: &Path) -> io::Result<Self> {
        let mut files = Self::default();
        for entry in fs::read_dir(conf_dir)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
            let known = path.extension().is_some_and(|kind| kind == "conf" || kind == "conflist" || kind == "json");
            if !known {
                continue;
            }
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // A file that is gone again is no link any more.
                    if let Ok(to) = fs::read_link(&path) {
                        files.lost.insert(name, dangling(&to));
                    }
                    continue;
                }
                _ => continue,
            }
            match fs::read_to_string(&path) {
                Ok(text) => drop(files.texts.insert(name, text)),
                // Gone again, or not text: nothing a runtime could use either.
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }
}

fn dangling(to: &Path) -> String {
    format!(
        "it is a link to {}, which is not there, or not to be seen from the agent's container; hint: put the file \
         itself into the directory",
        to.display()
    )
}

/// True if a directory was removed while this process goes on seeing it: a mount stays on what it was made of.
pub(crate) fn is_gone(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|metadata| metadata.nlink() == 0)
}

/// Replaces a file of our own in one step, with the permissions it has.
pub(crate) fn rewrite(path: &Path, text: &str) -> io::Result<()> {
    replace(path, mode(path), |file| file.write_all(text.as_bytes()))
}

/// A file that was replaced, held open: who had opened it just before may yet write into it, and not know that it is
/// gone.
#[derive(Debug)]
pub(crate) struct Replaced {
    path: PathBuf,
    old: fs::File,
    before: String,
    after: String,
    at: Instant,
}

impl Replaced {
    /// True if somebody may still write into it.
    pub(crate) fn is_recent(&self) -> bool {
        self.at.elapsed() < REPLACED_GRACE
    }

    /// Puts back what somebody wrote into it since, if that is whole, in place of what was made of the text before.
    /// What took its place then; none if there was nothing to be done.
    pub(crate) fn recover(&self) -> io::Result<Option<Self>> {
        let mut text = Vec::new();
        let mut old = &self.old;
        old.rewind()?;
        old.read_to_end(&mut text)?;
        let theirs = String::from_utf8(text).ok().filter(|text| *text != self.before);
        match theirs.filter(|text| serde_json::from_str::<serde_json::Value>(text).is_ok()) {
            // If the file is another by now, somebody wrote it later still.
            Some(theirs) => update(&self.path, &self.after, &theirs),
            None => Ok(None),
        }
    }
}

/// Replaces somebody else's file in one step, unless its text is not `before` any more: then nothing is changed, none
/// is returned, and one has to look again. A link stays, and what it leads to is replaced.
///
/// Old and new change places, and what came out is compared with what was read, then and later ([`Replaced::recover`]).
/// So nobody's newer text is lost, not even if it was written at the very last instant.
pub(crate) fn update(path: &Path, before: &str, after: &str) -> io::Result<Option<Replaced>> {
    let path = &match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        path => path?,
    };
    let beside = beside(path);
    let replaced = |old| {
        let (path, before, after) = (path.clone(), before.to_owned(), after.to_owned());
        Some(Replaced { path, old, before, after, at: Instant::now() })
    };
    let updated = (|| {
        write_beside(&beside, mode(path), |file| file.write_all(after.as_bytes()))?;
        let old = fs::File::open(path)?;
        if fs::read(path)? != before.as_bytes() {
            return Ok(None);
        }
        match exchange(&beside, path) {
            Err(Errno::EINVAL | Errno::ENOSYS) => return fs::rename(&beside, path).map(|()| replaced(old)),
            exchanged => exchanged?,
        }
        if fs::read(&beside)? == before.as_bytes() {
            return Ok(replaced(fs::File::open(&beside)?));
        }
        exchange(&beside, path)?;
        if fs::read(&beside)? != after.as_bytes() {
            // Somebody wrote into ours meanwhile: that is newer still.
            exchange(&beside, path)?;
        }
        Ok(None)
    })();
    remove(&beside)?;
    match updated {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        updated => updated,
    }
}

fn exchange(one: &Path, other: &Path) -> nix::Result<()> {
    renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE)
}

/// Permissions of a file, or those of a new one.
fn mode(path: &Path) -> u32 {
    fs::metadata(path).map_or(0o644, |metadata| metadata.permissions().mode() & 0o777)
}

/// A program, held open: what is installed is of this agent's version, also where its file was replaced meanwhile.
pub(crate) struct Program(fs::File);

impl Program {
    /// The program in a file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let error = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        fs::File::open(path).map(Self).map_err(error)
    }

    /// The program of that name which was installed together with this one.
    pub(crate) fn beside(name: &str) -> io::Result<Self> {
        Self::open(&std::env::current_exe()?.with_file_name(name))
    }

    /// Copies it to where others may be running it: they go on with the old one.
    pub(crate) fn install(&self, to: &Path) -> io::Result<()> {
        let mut program = &self.0;
        program.rewind()?;
        replace(to, 0o755, |file| io::copy(&mut program, file).map(drop))
    }
}

/// Writes a file beside and renames it, so that readers see the old or the new one.
fn replace(path: &Path, mode: u32, write: impl FnOnce(&mut fs::File) -> io::Result<()>) -> io::Result<()> {
    let beside = beside(path);
    let written = write_beside(&beside, mode, write).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

fn write_beside(beside: &Path, mode: u32, write: impl FnOnce(&mut fs::File) -> io::Result<()>) -> io::Result<()> {
    let mut file = fs::File::create(beside)?;
    write(&mut file)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!("{name}{UNFINISHED}"))
}

/// Removes what an agent that died left unfinished.
pub(crate) fn tidy(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(UNFINISHED) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Removes a file. One that is not there is no error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
