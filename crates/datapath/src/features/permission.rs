//! Permission of this process to use `bpf()`, and the cause if it is denied.

use std::fs;

use libbpf_rs::libbpf_sys::bpf_map_create_opts;
use libbpf_rs::{ErrorKind, MapHandle, MapType};

/// Number of the capability for maps and programs (`capability.h`).
const CAP_BPF: u32 = 39;
/// State of a process with a seccomp filter (`Seccomp:` in `/proc/PID/status`).
const FILTERED: &str = "2";

/// Returns the cause why `bpf()` is not permitted, or none if it is. Without permission, features of the kernel cannot
/// be probed.
pub(super) fn denied() -> Option<String> {
    let options = bpf_map_create_opts { sz: size_of::<bpf_map_create_opts>() as u64, ..Default::default() };
    let refused = MapHandle::create(MapType::Array, Some("ringfence_probe"), 4, 4, 1, &options).err()?;
    if refused.kind() != ErrorKind::PermissionDenied {
        return None;
    }
    Some(cause(&fs::read_to_string("/proc/self/status").unwrap_or_default()))
}

/// Determines from the status of the process what forbids `bpf()`.
fn cause(status: &str) -> String {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let capabilities = field("CapEff:").and_then(|set| u64::from_str_radix(set, 16).ok()).unwrap_or(0);
    let capable = capabilities & (1 << CAP_BPF) != 0;
    if capable && field("Seccomp:") == Some(FILTERED) {
        return "the system call bpf() is forbidden by the seccomp profile of this container, though it has CAP_BPF: \
                CRI-O's default profile does that. hint: another profile for the agent (`ringfence install --seccomp \
                Unconfined`, in the chart seccompProfile.type)"
            .into();
    }
    if capable {
        return "the system call bpf() is not permitted, though this process has CAP_BPF. hint: a security module may \
                forbid it; see the kernel's log"
            .into();
    }
    "the system call bpf() takes CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, which this process does not have".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_forbids_it_is_told_by_what_the_kernel_says_of_the_process() {
        let status =
            |capabilities: u64, seccomp: u8| format!("Name:\tx\nCapEff:\t{capabilities:016x}\nSeccomp:\t{seccomp}\n");
        assert!(cause(&status(1 << CAP_BPF, 2)).contains("seccomp profile"));
        assert!(cause(&status(1 << CAP_BPF, 0)).contains("security module"));
        assert!(cause(&status(1 << 12, 2)).contains("takes CAP_BPF"));
        assert!(cause("").contains("takes CAP_BPF"));
    }
}
