//! A container whose seccomp profile forbids `bpf()` without `CAP_SYS_ADMIN`, as the default of CRI-O and podman does
//! (`seccomp.json` of containers/common). The error names the profile. Tried with a real `runc`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ringfence_datapath::features;

/// The effect of the default profile on a container with the agent's capabilities: error 1, `EPERM`.
const PROFILE: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}"#;
const CAPABILITIES: &str = r#"["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]"#;

/// A bundle of `runc` that is removed with the test.
struct Bundle(PathBuf);

impl Bundle {
    /// Runs the test `child` of this program with the agent's capabilities.
    fn run(&self, profile: &str) -> String {
        let program = std::env::current_exe().unwrap();
        let binds = ["/usr", "/lib", "/lib64", "/bin", "/sys"].map(str::to_owned).to_vec();
        let binds = binds.into_iter().chain([program.display().to_string()]).filter(|path| Path::new(path).exists());
        let bind = |path: String| {
            format!(r#"{{"destination": "{path}", "type": "bind", "source": "{path}", "options": ["rbind", "ro"]}}"#)
        };
        let proc = r#"{"destination": "/proc", "type": "proc", "source": "proc"}"#.to_owned();
        let mounts = [proc].into_iter().chain(binds.map(bind)).collect::<Vec<_>>().join(", ");
        let config = format!(
            r#"{{"ociVersion": "1.0.2", "process": {{"user": {{"uid": 0, "gid": 0}}, "cwd": "/",
                "args": ["{}", "--exact", "seccomp::child", "--ignored", "--nocapture"], "noNewPrivileges": true,
                "capabilities": {{"bounding": {CAPABILITIES}, "effective": {CAPABILITIES},
                "permitted": {CAPABILITIES}}}}},
                "root": {{"path": "root", "readonly": false}}, "mounts": [{mounts}],
                "linux": {{"namespaces": [{{"type": "mount"}}, {{"type": "pid"}}], "seccomp": {profile}}}}}"#,
            program.display()
        );
        fs::write(self.0.join("config.json"), config).unwrap();
        let mut runc = Command::new("runc");
        runc.arg("--root").arg(self.0.join("state")).args(["run", &format!("rfdp-{}", std::process::id())]);
        let output = runc.current_dir(&self.0).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn a_profile_that_forbids_the_system_call_is_named() {
    if !crate::kit::can_run() {
        return;
    }
    if Command::new("runc").arg("--version").output().is_err() {
        eprintln!("skipped: there is no runc\nhint: apt install runc");
        return;
    }
    let bundle = Bundle(std::env::temp_dir().join(format!("rfdp-{}-seccomp", std::process::id())));
    fs::create_dir_all(bundle.0.join("root")).unwrap();
    let said = bundle.run(PROFILE);
    assert!(said.contains("forbidden by the seccomp profile") && said.contains("--seccomp Unconfined"), "{said}");
    assert!(!said.contains("netfilter programs"), "the kernel is not to blame: {said}");
    // Without that rule of the profile, the same container can do everything that is needed.
    let said = bundle.run(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#);
    assert!(said.contains("missing: []"), "{said}");
}

/// Runs inside the container and prints the missing features.
#[test]
#[ignore = "is run by another test, in a container"]
fn child() {
    eprintln!("missing: {:?}", features::probe().missing.iter().map(ToString::to_string).collect::<Vec<_>>());
}
