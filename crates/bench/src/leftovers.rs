//! Things that runs make, and that killed ones left: network namespaces and pins, both named after the process.

use std::path::{Path, PathBuf};

use ringfence_netns::Namespace;

const BPFFS: &str = "/sys/fs/bpf";

/// Pin directory of a datapath of this name.
pub(crate) fn pins(name: &str) -> PathBuf {
    Path::new(BPFFS).join(name)
}

/// Removes what a run left that was killed: names begin with this and the number of the process.
pub(crate) fn remove(prefix: &str) -> anyhow::Result<()> {
    let pinned = std::fs::read_dir(BPFFS).map_or_else(|_none| Vec::new(), |entries| entries.flatten().collect());
    for name in pinned.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()) {
        if is_dead(prefix, &name) {
            ringfence_datapath::remove(&pins(&name))?;
        }
    }
    for name in Namespace::list(prefix)? {
        if is_dead(prefix, &name) {
            Namespace::delete(&name)?;
        }
    }
    Ok(())
}

fn is_dead(prefix: &str, name: &str) -> bool {
    let Some(rest) = name.strip_prefix(prefix) else { return false };
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    !digits.is_empty() && !Path::new("/proc").join(digits).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_process_made_is_left_over() {
        assert!(!is_dead("rfbench", &format!("rfbench{}-0n", std::process::id())));
        assert!(is_dead("rfbench", "rfbench4194999-0n"), "there is no process of such a number");
        assert!(!is_dead("rfbench", "rfbench") && !is_dead("rfbench", "other4194999"));
    }
}
