//! Detects, from inside a container, that the file system of the pins is no longer mounted on the node.
//!
//! A container has its own mount of the same file system. That mount stays if the node's is unmounted, and its pins end
//! with the container. If it receives mount events of the node (`HostToContainer`), the kernel lists the peer group it
//! receives from (`master:` in `mountinfo`, see `proc_pid_mountinfo(5)`) as long as that group has a member.

use std::fs;
use std::path::Path;

/// The mounts that a thread of this process sees.
const TABLE: &str = "/proc/thread-self/mountinfo";

/// True if the mount of a path receives events from another mount.
pub(crate) fn receives(path: &Path) -> bool {
    fs::read_to_string(TABLE).is_ok_and(|table| receives_by(&table, path))
}

fn receives_by(table: &str, path: &Path) -> bool {
    let mounts = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split(' ').take_while(|word| *word != "-").collect();
        let point = Path::new(*words.get(4)?);
        path.starts_with(point)
            .then(|| (point.as_os_str().len(), words[6..].iter().any(|tag| tag.starts_with("master:"))))
    });
    // The innermost mount point, and of several mounts there the last.
    mounts.max_by_key(|(length, _)| *length).is_some_and(|(_, receives)| receives)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_counts_and_of_two_the_upper() {
        let table = "20 1 0:1 / / rw shared:1 - ext4 /dev/x rw\n\
                     30 20 0:2 / /sys rw,nosuid shared:2 master:9 - sysfs sysfs rw\n\
                     40 30 0:3 / /sys/fs/bpf rw - bpf bpf rw\n\
                     41 30 0:3 / /sys/fs/bpf rw,relatime master:8 - bpf bpf rw\n";
        assert!(receives_by(table, Path::new("/sys/fs/bpf/ringfence")));
        assert!(receives_by(table, Path::new("/sys/kernel")));
        assert!(!receives_by(table, Path::new("/run/x")));
        let alone = table.replace(" master:8", "");
        assert!(!receives_by(&alone, Path::new("/sys/fs/bpf/ringfence")));
        assert!(!receives_by("torn", Path::new("/x")));
    }
}
