//! The files of a directory of network configurations, and how they are replaced.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Ending of the name of a file that is still being written. No runtime reads such files.
const UNFINISHED: &str = ".ringfence-new";

/// Texts of the configurations, by file name, in the order runtimes look at them.
pub(crate) fn configurations(conf_dir: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(conf_dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let known =
            Path::new(&name).extension().is_some_and(|kind| kind == "conf" || kind == "conflist" || kind == "json");
        // Through links, as runtimes do.
        if !known || !fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        match fs::read_to_string(entry.path()) {
            Ok(text) => drop(files.insert(name, text)),
            // Gone again, or not text: nothing a runtime could use either.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

/// Replaces a configuration in one step, with the permissions it has.
pub(crate) fn rewrite(path: &Path, text: &str) -> io::Result<()> {
    let mode = fs::metadata(path).map_or(0o644, |metadata| metadata.permissions().mode() & 0o777);
    replace(path, mode, |file| file.write_all(text.as_bytes()))
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
    let written = (|| {
        let mut file = fs::File::create(&beside)?;
        write(&mut file)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
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
