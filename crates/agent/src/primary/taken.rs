//! Addresses of this node in use, as `host-local` records them: a directory for each network, in it a file for each
//! address, which names the sandbox and its interface in two lines.
//!
//! `ringfence uninstall` takes the directory away, and pods may run on. Whoever is the network plugin next must not
//! give their addresses a second time. `host-local` frees what is written here like its own: by the name of the
//! sandbox.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use ringfence_api::WaitRequest;

use crate::cni_cache::INTERFACE;

/// Ending of the name of the directory that is there while addresses are written down.
const UNFINISHED: &str = "-unfinished";

/// Writes down the addresses that sandboxes of a network have, the newest last, where no address is written down, or an
/// agent before this one did not get to the end. `is_here`: whether a sandbox with this address is on the node now, for
/// results of sandboxes that are gone may be left. How many are written down.
pub(super) fn recall<E: From<io::Error>>(
    directory: &Path,
    network: &str,
    sandboxes: impl IntoIterator<Item = WaitRequest>,
    mut is_here: impl FnMut(IpAddr) -> Result<bool, E>,
) -> Result<usize, E> {
    let store = directory.join(network);
    let unfinished = directory.join(format!("{network}{UNFINISHED}"));
    if !unfinished.try_exists()? && knows_any(&store)? {
        return Ok(0);
    }
    let mut taken = BTreeMap::new();
    for sandbox in sandboxes.into_iter().filter(|sandbox| sandbox.network.as_deref() == Some(network)) {
        let Some(container) = sandbox.container else { continue };
        for address in sandbox.addresses {
            if is_here(address)? {
                // The newest has it, if two results name the same address.
                taken.insert(address, container.clone());
            }
        }
    }
    let mut written = 0;
    if !taken.is_empty() {
        fs::create_dir_all(&store)?;
        fs::create_dir_all(&unfinished)?;
    }
    for (address, container) in taken {
        let draft = unfinished.join(address.to_string());
        fs::write(&draft, format!("{container}\r\n{INTERFACE}"))?;
        // As a whole, and never in place of what `host-local` wrote.
        match fs::hard_link(&draft, store.join(address.to_string())) {
            Ok(()) => written += 1,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
    }
    forget(&unfinished)?;
    Ok(written)
}

/// Removes a directory and all that is written down in it. One that is not there is no error.
pub(super) fn forget(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// True if any address is recorded. That the directory is there says nothing: `host-local` makes it also at `DEL`.
fn knows_any(store: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(store) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    for entry in entries {
        if entry?.file_name().to_str().is_some_and(|name| name.parse::<IpAddr>().is_ok()) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    const HOST_LOCAL: &str = "/usr/lib/cni/host-local";

    /// A directory that goes with the test.
    struct Dir(std::path::PathBuf);

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn dir(test: &str) -> Dir {
        Dir(std::env::temp_dir().join(format!("ringfence-taken-{test}-{}", std::process::id())))
    }

    fn sandbox(container: &str, network: &str, addresses: &[&str]) -> WaitRequest {
        WaitRequest {
            namespace: "a".into(),
            name: container.into(),
            uid: "u".into(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            container: Some(container.into()),
            network: Some(network.into()),
            links: Vec::new(),
            hardware_address: None,
            timeout_ms: 0,
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_here_is_taken_and_nothing_else() {
        let dir = dir("here");
        let gone: IpAddr = "10.244.1.9".parse().unwrap();
        let here = |address: IpAddr| io::Result::Ok(address != gone);
        let sandboxes = [
            sandbox("old", "pods", &["10.244.1.7"]),
            sandbox("new", "pods", &["10.244.1.7", "fd00:10:244:1::7"]),
            sandbox("gone", "pods", &["10.244.1.9"]),
            sandbox("other", "more", &["10.244.1.8"]),
        ];
        let none = || io::Result::<bool>::Err(io::Error::other("nobody is to be asked"));
        assert_eq!(recall(&dir.0, "pods", [], |_| none()).unwrap(), 0);
        assert!(!dir.0.exists(), "nothing is made for nothing");
        assert_eq!(recall(&dir.0, "pods", sandboxes.clone(), here).unwrap(), 2);
        assert_eq!(names(&dir.0), ["pods"]);
        assert_eq!(names(&dir.0.join("pods")), ["10.244.1.7", "fd00:10:244:1::7"]);
        assert_eq!(fs::read_to_string(dir.0.join("pods/10.244.1.7")).unwrap(), "new\r\neth0");
        fs::remove_file(dir.0.join("pods/10.244.1.7")).unwrap();
        assert_eq!(recall(&dir.0, "pods", sandboxes, |_| none()).unwrap(), 0, "what is written down is right");
    }

    #[test]
    fn what_was_not_finished_is_finished() {
        let dir = dir("unfinished");
        fs::create_dir_all(dir.0.join("pods-unfinished")).unwrap();
        fs::write(dir.0.join("pods-unfinished/10.244.1.8"), "torn").unwrap();
        fs::create_dir_all(dir.0.join("pods")).unwrap();
        fs::write(dir.0.join("pods/10.244.1.7"), "c7\r\neth0").unwrap();
        let sandboxes = [sandbox("other", "pods", &["10.244.1.7"]), sandbox("c8", "pods", &["10.244.1.8"])];
        assert_eq!(recall(&dir.0, "pods", sandboxes, |_| io::Result::Ok(true)).unwrap(), 1);
        assert_eq!(names(&dir.0), ["pods"]);
        assert_eq!(fs::read_to_string(dir.0.join("pods/10.244.1.7")).unwrap(), "c7\r\neth0", "stays as it was");
        assert_eq!(fs::read_to_string(dir.0.join("pods/10.244.1.8")).unwrap(), "c8\r\neth0");
    }

    #[test]
    fn host_local_takes_it_for_its_own() {
        if !Path::new(HOST_LOCAL).exists() {
            let why = format!("{HOST_LOCAL} is missing; hint: apt install containernetworking-plugins");
            assert!(std::env::var_os("CI").is_none(), "{why}");
            println!("skipped: {why}");
            return;
        }
        let dir = dir("host-local");
        let sandboxes = [sandbox("c2", "pods", &["10.244.1.2"]), sandbox("c3", "pods", &["10.244.1.3"])];
        host_local(&dir.0, "DEL", "c8");
        assert_eq!(names(&dir.0.join("pods")), ["lock"], "it makes the directory also for nothing");
        assert_eq!(recall(&dir.0, "pods", sandboxes, |_| io::Result::Ok(true)).unwrap(), 2);
        assert!(host_local(&dir.0, "ADD", "c9").contains("10.244.1.4/24"), "the first that nobody has");
        assert_eq!(
            names(&dir.0.join("pods")),
            ["10.244.1.2", "10.244.1.3", "10.244.1.4", "last_reserved_ip.0", "lock"]
        );
        host_local(&dir.0, "DEL", "c2");
        assert_eq!(names(&dir.0.join("pods")), ["10.244.1.3", "10.244.1.4", "last_reserved_ip.0", "lock"]);
    }

    /// The answer of `host-local`, whose first addresses are .1 for the gateway, .2, .3, …
    fn host_local(directory: &Path, command: &str, container: &str) -> String {
        let conf = serde_json::json!({ "cniVersion": "1.0.0", "name": "pods", "type": "ptp", "ipam": {
            "type": "host-local", "dataDir": directory, "ranges": [[{ "subnet": "10.244.1.0/24" }]] } });
        let mut child = Command::new(HOST_LOCAL)
            .envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", container), ("CNI_IFNAME", "eth0")])
            .envs([("CNI_NETNS", "/proc/self/ns/net"), ("CNI_PATH", "/usr/lib/cni")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }
}
