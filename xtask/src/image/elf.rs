//! Requirements of a program, read from its ELF headers.

use anyhow::Context as _;
use goblin::elf::Elf;

/// Files that a program needs to start.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Path of the dynamic loader.
    pub(super) loader: Option<String>,
    /// Names of shared libraries.
    pub(super) libraries: Vec<String>,
}

impl Needs {
    /// True if it needs nothing but a kernel.
    pub(super) fn is_static(&self) -> bool {
        self.loader.is_none() && self.libraries.is_empty()
    }
}

/// Reads the headers of a program or library.
pub(super) fn needs(content: &[u8]) -> anyhow::Result<Needs> {
    let elf = Elf::parse(content).context("this is no ELF file")?;
    let libraries = elf.libraries.iter().map(|name| (*name).to_owned()).collect();
    Ok(Needs { loader: elf.interpreter.map(str::to_owned), libraries })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_this_machine_needs_its_loader_and_libc() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needs = needs(&own).unwrap();
        assert!(!needs.is_static());
        assert!(needs.loader.unwrap().contains("ld-linux"));
        assert!(needs.libraries.iter().any(|name| name.starts_with("libc.so")));
    }

    #[test]
    fn other_files_are_refused() {
        assert!(needs(b"#!/bin/sh\n").is_err());
        assert!(needs(b"").is_err());
    }
}
