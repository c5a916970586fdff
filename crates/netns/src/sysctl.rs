//! Kernel settings of a namespace: `/proc/sys/net` shows those of the reading thread's namespace.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Error, Namespace, Result};

impl Namespace {
    /// Writes a setting below `net`, such as `net/ipv4/ip_forward`, inside the namespace.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = path(key);
        self.run(|| fs::write(&path, value))?
            .map_err(|cause| Error::new("write setting", format!("{key}={value} in {}", self.name()), cause))
    }

    /// Writes several settings inside the namespace, stopping at the first that fails.
    pub fn set_sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            settings.iter().try_for_each(|(key, value)| {
                fs::write(path(key), value)
                    .map_err(|cause| Error::new("write setting", format!("{key}={value} in {}", self.name()), cause))
            })
        })?
    }

    /// Reads a setting below `net` inside the namespace, without the line end.
    pub fn sysctl(&self, key: &str) -> Result<String> {
        let path = path(key);
        let text = self
            .run(|| fs::read_to_string(&path))?
            .map_err(|cause| Error::new("read setting", format!("{key} in {}", self.name()), cause))?;
        Ok(text.trim_end().to_owned())
    }
}

fn path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}
