//! Manifest files and their content.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use crate::diagnostic::{Diagnostic, Location, Severity};

type Source = Result<(String, String), Box<Diagnostic>>;

/// File name extensions of manifests in a directory.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// Reads a file, every manifest below a directory in order of name, or `-`.
pub(super) fn read(path: &Path) -> Vec<Source> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        let result = io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes);
        return vec![text("-", result)];
    }
    if !path.is_dir() {
        return vec![file(path)];
    }
    let mut sources = Vec::new();
    directory(path, &mut sources);
    if sources.is_empty() {
        let diagnostic =
            about(path, Severity::Warning, "no manifests here", Some("files must end in .yaml, .yml or .json"));
        sources.push(Err(diagnostic));
    }
    sources
}

fn directory(path: &Path, sources: &mut Vec<Source>) {
    let entries = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut entries = match entries {
        Ok(entries) => entries,
        Err(error) => return sources.push(Err(about(path, Severity::Error, &format!("cannot read: {error}"), None))),
    };
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        // Links to directories are not followed, as by kubectl: they may lead in circles.
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => directory(&path, sources),
            Ok(_)
                if path.extension().is_some_and(|end| ENDINGS.iter().any(|known| end == *known)) && !path.is_dir() =>
            {
                sources.push(file(&path));
            }
            Ok(_) => {}
            Err(error) => sources.push(Err(about(&path, Severity::Error, &format!("cannot read: {error}"), None))),
        }
    }
}

fn file(path: &Path) -> Source {
    text(&path.display().to_string(), fs::read(path))
}

fn text(name: &str, bytes: io::Result<Vec<u8>>) -> Source {
    let path = Path::new(name);
    let bytes = bytes.map_err(|error| about(path, Severity::Error, &format!("cannot read: {error}"), None))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok((name.to_owned(), text)),
        Err(error) => {
            let message = format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to());
            Err(about(path, Severity::Error, &message, Some("save the file as UTF-8")))
        }
    }
}

fn about(path: &Path, severity: Severity, message: &str, hint: Option<&str>) -> Box<Diagnostic> {
    let location = Location { file: path.display().to_string().into(), line: 0, column: 0 };
    let hint = hint.map(str::to_owned);
    Box::new(Diagnostic { location: Some(location), hint, ..Diagnostic::new(severity, message) })
}
