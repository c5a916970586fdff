//! Every source file is part of a crate.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::code::code_only;
use super::tree::Tree;

/// Findings: a `.rs` file that no module declares.
pub(crate) fn check(tree: &Tree, roots: &BTreeMap<String, String>) -> Vec<Finding> {
    let mut declared = BTreeSet::new();
    for root in roots.keys() {
        walk(tree, root, &folder_of(root), &mut declared);
    }
    let stray = tree.ending(".rs").filter(|(path, _)| !declared.contains(*path));
    stray.map(|(path, _)| Finding::new(path, None, "no module declares this file")).collect()
}

/// Marks a file and the files of the modules it declares, which are looked for in `folder`.
fn walk(tree: &Tree, path: &str, folder: &str, declared: &mut BTreeSet<String>) {
    let Some(text) = tree.get(path) else { return };
    if !declared.insert(path.to_owned()) {
        return;
    }
    for Declaration { name, path: named } in declarations(text) {
        if let Some(named) = named {
            let file = normal(&format!("{}/{named}", folder_of(path)));
            let inner = folder_of(&file);
            walk(tree, &file, &inner, declared);
            continue;
        }
        let inner = format!("{folder}/{name}");
        walk(tree, &format!("{inner}.rs"), &inner, declared);
        walk(tree, &format!("{inner}/mod.rs"), &inner, declared);
    }
}

struct Declaration {
    name: String,
    /// Of a `#[path]` attribute.
    path: Option<String>,
}

/// `mod name;` with any visibility and attributes before it.
fn declarations(text: &str) -> Vec<Declaration> {
    let code = code_only(text);
    let mut found = Vec::new();
    let mut path = None;
    for (line, original) in code.lines().zip(text.lines()) {
        let line = line.trim();
        if line.starts_with("#[path") {
            path = original.split('"').nth(1).map(str::to_owned);
        }
        let words: Vec<&str> = line.rsplit(']').next().unwrap_or(line).split_whitespace().collect();
        if let [visibility @ .., "mod", name] = words.as_slice()
            && visibility.iter().all(|word| word.starts_with("pub") || word.ends_with(')') || *word == "in")
            && let Some(name) = name.strip_suffix(';')
        {
            // `mod r#loop;` is in loop.rs.
            let name = name.strip_prefix("r#").unwrap_or(name);
            found.push(Declaration { name: name.to_owned(), path: path.take() });
        }
    }
    found
}

fn folder_of(path: &str) -> String {
    path.rsplit_once('/').map_or_else(String::new, |(folder, _)| folder.to_owned())
}

/// Resolves `.` and `..`.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strays(files: &[(&str, &str)]) -> Vec<String> {
        let roots = [("a/src/lib.rs", "a"), ("a/tests/it.rs", "a")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        check(&Tree::of(files), &BTreeMap::from(roots)).into_iter().map(|finding| finding.place).collect()
    }

    #[test]
    fn declared_files_are_found() {
        let files: &[(&str, &str)] = &[
            ("a/src/lib.rs", "mod b;\npub(crate) mod c;\n#[cfg(test)]\nmod d;\npub(in crate::x) mod e;\nmod r#loop;"),
            ("a/src/b.rs", "#[path = \"../odd/f.rs\"]\nmod g;"),
            ("a/src/c/mod.rs", "pub mod h;"),
            ("a/src/c/h.rs", ""),
            ("a/src/d.rs", ""),
            ("a/src/e.rs", ""),
            ("a/src/loop.rs", ""),
            ("a/odd/f.rs", ""),
            ("a/tests/it.rs", "mod common;"),
            ("a/tests/common/mod.rs", ""),
        ];
        assert_eq!(strays(files), [""; 0]);
    }

    #[test]
    fn others_are_strays() {
        let files: &[(&str, &str)] = &[
            ("a/src/lib.rs", "mod b; // mod c;\n/* mod d; */ \"mod e;\";\nmod f { }"),
            ("a/src/b.rs", ""),
            ("a/src/c.rs", ""),
            ("a/src/d.rs", ""),
            ("a/src/e.rs", "mod deep;"),
            ("a/src/e/deep.rs", ""),
            ("a/src/f.rs", ""),
        ];
        assert_eq!(strays(files), ["a/src/c.rs", "a/src/d.rs", "a/src/e.rs", "a/src/e/deep.rs", "a/src/f.rs"]);
    }
}
