//! The files of the repository, as values.

use std::collections::BTreeMap;

use xshell::{Shell, cmd};

/// Path from the root of the repository → text. Files that are not text hold an empty one.
#[derive(Debug, Default)]
pub(crate) struct Tree(BTreeMap<String, String>);

impl Tree {
    /// Every file git knows or would take in.
    pub(crate) fn read(sh: &Shell) -> anyhow::Result<Self> {
        let listed = cmd!(sh, "git ls-files --cached --others --exclude-standard").quiet().read()?;
        let files = listed.lines().filter(|path| sh.path_exists(path));
        let text = |path: &str| sh.read_file(path).unwrap_or_default();
        Ok(Self(files.map(|path| (path.to_owned(), text(path))).collect()))
    }

    /// A tree made up for a test.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
    }

    /// The text of a file.
    pub(crate) fn get(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// True if there is such a file or folder.
    pub(crate) fn holds(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        self.0.contains_key(path) || self.0.keys().any(|file| file.starts_with(&format!("{path}/")))
    }

    /// Path and text of each file whose path ends so.
    pub(crate) fn ending(&self, suffix: &str) -> impl Iterator<Item = (&str, &str)> {
        self.iter().filter(move |(path, _)| path.ends_with(suffix))
    }

    /// Path and text of each file.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// The number of files.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
