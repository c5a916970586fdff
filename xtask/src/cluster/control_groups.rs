//! The control groups of a node's pods, and the processes in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::process::{output, signal};

/// Where control groups are.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// Makes the control group that holds all pods of a node, for each controller.
pub(super) fn make(name: &str) -> anyhow::Result<()> {
    let root = Path::new(CONTROL_GROUPS);
    if let Ok(controllers) = fs::read_to_string(root.join("cgroup.controllers")) {
        let group = root.join(name);
        fs::create_dir_all(&group)?;
        for controller in controllers.split_whitespace() {
            for parent in [root, &group] {
                // One that cannot be passed on is not needed: the kubelet says which it misses.
                let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        return Ok(());
    }
    for controller in fs::read_dir(root)? {
        let parent = controller?.path();
        if !parent.join("cgroup.procs").exists() {
            continue;
        }
        let group = parent.join(name);
        fs::create_dir_all(&group).with_context(|| format!("cannot make {}", group.display()))?;
        // A new group of `cpuset` has none, and takes no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read_to_string(parent.join(file)) {
                fs::write(group.join(file), value)?;
            }
        }
    }
    Ok(())
}

/// Kills what runs in the pods of a node, and the shims of its runtime, which has this socket; whether there was any.
pub(super) fn kill_all(name: &str, socket: &str) -> bool {
    let ids = processes(|id| is_within(id, name) || is_shim(id, socket));
    for id in &ids {
        signal("KILL", id);
    }
    !ids.is_empty()
}

/// Removes the groups of a node, in which no process may be any more.
pub(super) fn remove(name: &str) -> anyhow::Result<()> {
    for group in of(name) {
        output(Command::new("find").arg(&group).args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]))?;
    }
    Ok(())
}

/// The control groups of a node that there are.
fn of(name: &str) -> Vec<PathBuf> {
    let root = Path::new(CONTROL_GROUPS);
    let parents = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    parents.chain([root.to_path_buf()]).map(|parent| parent.join(name)).filter(|group| group.is_dir()).collect()
}

/// Ids of the processes that match.
fn processes(matches: impl Fn(&str) -> bool) -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    ids.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && matches(name)).collect()
}

/// Whether a process is in the control group of a node.
fn is_within(id: &str, name: &str) -> bool {
    let groups = fs::read_to_string(format!("/proc/{id}/cgroup")).unwrap_or_default();
    groups.lines().any(|line| line.rsplit(':').next().and_then(|path| path.split('/').nth(1)) == Some(name))
}

/// Whether a process watches over a container for the runtime with this socket.
fn is_shim(id: &str, socket: &str) -> bool {
    let words = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&words);
    words.contains("containerd-shim") && words.split('\0').any(|word| word == socket)
}
