//! The files of an image, by path.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::elf;

/// Debian's directories of shared libraries.
const LIBRARY_DIRS: &[&str] = &["/lib/{arch}-linux-gnu", "/usr/lib/{arch}-linux-gnu", "/lib64", "/usr/lib64"];
/// Debian's directory of copyright notices.
const NOTICES: &str = "/usr/share/doc";

/// A file to be.
pub(super) struct FileEntry {
    /// Its permissions.
    pub(super) mode: u32,
    /// Its content.
    pub(super) content: Vec<u8>,
}

/// Files by absolute path.
#[derive(Default)]
pub(super) struct Files {
    entries: BTreeMap<String, FileEntry>,
    /// Files of this machine that were taken.
    taken: Vec<PathBuf>,
}

impl Files {
    /// The files in the order of their paths.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &FileEntry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// The number that there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Content of a file that was added.
    pub(super) fn content(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        Ok(self.entries.get(path).with_context(|| format!("the image has no {path}"))?.content.clone())
    }

    /// Takes a program or library of this machine to a path.
    pub(super) fn add(&mut self, source: &Path, path: &str) -> anyhow::Result<()> {
        let content = std::fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        self.entries.insert(path.to_owned(), FileEntry { mode: 0o755, content });
        Ok(())
    }

    /// Takes a program of this machine to the same path, with the loader and the libraries it needs.
    pub(super) fn add_program(&mut self, source: &Path) -> anyhow::Result<()> {
        self.add_needed(vec![source.to_path_buf()])
    }

    /// Takes the loader and the libraries that a program needs which was taken.
    pub(super) fn add_libraries_of(&mut self, path: &str) -> anyhow::Result<()> {
        let needs = elf::needs(&self.content(path)?).with_context(|| format!("cannot read {path}"))?;
        let libraries = needs.libraries.iter().map(|library| find_library(library));
        let mut wanted = libraries.collect::<anyhow::Result<Vec<_>>>().with_context(|| path.to_owned())?;
        wanted.extend(needs.loader.map(PathBuf::from));
        self.add_needed(wanted)
    }

    fn add_needed(&mut self, mut wanted: Vec<PathBuf>) -> anyhow::Result<()> {
        while let Some(path) = wanted.pop() {
            let name = path.to_str().with_context(|| format!("{} is not text", path.display()))?;
            if self.entries.contains_key(name) {
                continue;
            }
            self.add(&path, name)?;
            self.taken.push(path.clone());
            let needs = elf::needs(&self.content(name)?).with_context(|| format!("cannot read {name}"))?;
            wanted.extend(needs.loader.map(PathBuf::from));
            for library in needs.libraries {
                wanted.push(find_library(&library).with_context(|| format!("{name} needs {library}"))?);
            }
        }
        Ok(())
    }

    /// Takes the copyright notices of the packages that files came from.
    pub(super) fn add_notices(&mut self) -> anyhow::Result<()> {
        for package in packages(&self.taken)? {
            let path = format!("{NOTICES}/{package}/copyright");
            let content = std::fs::read(&path).with_context(|| format!("cannot read {path}"))?;
            self.entries.insert(path, FileEntry { mode: 0o644, content });
        }
        Ok(())
    }
}

fn find_library(name: &str) -> anyhow::Result<PathBuf> {
    let dirs = LIBRARY_DIRS.iter().map(|dir| dir.replace("{arch}", std::env::consts::ARCH));
    let mut candidates = dirs.map(|dir| Path::new(&dir).join(name));
    candidates.find(|path| path.exists()).with_context(|| format!("no {name} in the directories of libraries"))
}

/// Names of the Debian packages that files belong to.
fn packages(files: &[PathBuf]) -> anyhow::Result<std::collections::BTreeSet<String>> {
    let mut packages = std::collections::BTreeSet::new();
    for file in files {
        let owner = owner(file)?.with_context(|| {
            format!(
                "no package has {}\nhint: the image is made of Debian packages, on Debian or Ubuntu",
                file.display()
            )
        })?;
        packages.insert(owner);
    }
    Ok(packages)
}

/// The package of a file. Where `/lib` is a link to `/usr/lib`, a package may know the file by either path.
fn owner(file: &Path) -> anyhow::Result<Option<String>> {
    let real = file.canonicalize()?;
    let short = real.strip_prefix("/usr").map(|rest| Path::new("/").join(rest));
    for path in [Some(file.to_path_buf()), Some(real), short.ok()].into_iter().flatten() {
        let output = Command::new("dpkg-query").arg("--search").arg(&path).output().context("dpkg-query")?;
        let text = String::from_utf8_lossy(&output.stdout);
        if output.status.success()
            && let Some((package, _)) = text.split_once(": ")
        {
            return Ok(package.split([':', ',']).next().map(str::to_owned));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_brings_its_libraries_and_nothing_else() {
        let mut files = Files::default();
        files.add_program(Path::new("/bin/true")).unwrap();
        let paths: Vec<&str> = files.iter().map(|(path, _)| path).collect();
        assert!(paths.contains(&"/bin/true"), "{paths:?}");
        assert!(paths.iter().any(|path| path.contains("/libc.so")), "{paths:?}");
        assert!(paths.iter().any(|path| path.contains("/ld-linux")), "{paths:?}");
        assert!(paths.len() <= 4, "{paths:?}");
    }

    #[test]
    fn a_missing_library_is_named() {
        assert!(find_library("libnothing.so.0").unwrap_err().to_string().contains("libnothing.so.0"));
    }
}
