//! A lab of its own.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use ringfence_lab::place::Place;

/// A lab of its own, taken down when dropped.
pub(super) struct Lab {
    program: PathBuf,
    place: Place,
}

impl Lab {
    /// Starts it.
    pub(super) fn up(program: PathBuf, nodes: usize) -> anyhow::Result<Self> {
        let place = Place::at(format!("/run/ringfence-bench-{}", std::process::id()));
        let lab = Self { program, place };
        lab.run(&["up", "--nodes", &nodes.to_string()])?;
        Ok(lab)
    }

    /// Its place.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Takes it down, and says if that fails.
    pub(super) fn down(&self) -> anyhow::Result<()> {
        self.run(&["down"])
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command.args(["lab", "--dir"]).arg(self.place.root()).args(arguments).stdout(Stdio::null());
        let status = command.status().with_context(|| format!("{} cannot be started", self.program.display()))?;
        if !status.success() {
            bail!("ringfence lab {} failed ({status})", arguments.join(" "));
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.down();
    }
}
