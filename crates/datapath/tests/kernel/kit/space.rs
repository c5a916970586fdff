//! Network namespaces that are removed when they are dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use ringfence_datapath::{Config, Datapath, Sizes};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace.
pub(crate) struct Space {
    pub(crate) name: String,
}

impl Space {
    /// Creates a namespace with its loopback interface up.
    pub(crate) fn new(role: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let space = Self { name: format!("rfdp-{}-{number}-{role}", std::process::id()) };
        host(&["ip", "netns", "add", &space.name]);
        space.run("ip link set lo up");
        space
    }

    /// Runs a closure on a thread inside.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = Path::new("/run/netns").join(&self.name);
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                let namespace = File::open(path).unwrap();
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The same without `CAP_SYS_ADMIN`, as an agent in its container.
    pub(crate) fn enter_without_admin<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.enter(|| {
            drop_admin();
            work()
        })
    }

    /// Runs a command inside, which has to succeed.
    pub(crate) fn run(&self, line: &str) -> String {
        let output = self.try_run(line);
        assert!(
            output.status.success(),
            "{line:?} in {}: {}{}",
            self.name,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a shell command line inside.
    pub(crate) fn try_run(&self, line: &str) -> Output {
        self.enter(|| Command::new("sh").args(["-c", line]).output().unwrap())
    }

    /// Returns the index of an interface inside.
    pub(crate) fn index(&self, interface: &str) -> u32 {
        let output = self.run(&format!("ip -o link show dev {interface}"));
        output.split(':').next().unwrap().trim().parse().unwrap()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

/// Runs a command outside, which has to succeed.
pub(crate) fn host(command: &[&str]) {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A pin directory that is removed with all pins when it is dropped.
pub(crate) struct PinDir(pub(crate) PathBuf);

impl PinDir {
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("rfdp-{}-{number}", std::process::id())))
    }

    pub(crate) fn config(&self) -> Config {
        Config { sizes: small(), ..Config::new(&self.0) }
    }
}

impl Drop for PinDir {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Map sizes so small that many tests can run at once.
pub(crate) fn small() -> Sizes {
    Sizes {
        endpoints: 256,
        ipcache: 4096,
        ipcache_cidrs: 1024,
        policy: 1 << 14,
        port_ranges: 1 << 14,
        rule_counters: 4096,
        closed_cidrs: 16,
        pod_cidrs: 16,
        infra_addresses: 64,
        flows: 4096,
        drop_dedup: 512,
        events: 1 << 18,
    }
}

/// A datapath in a namespace of its own, for tests that need no network.
pub(crate) struct Bench {
    pub(crate) space: Space,
    pub(crate) pins: PinDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { space: Space::new("bench"), pins: PinDir::new() }
    }

    pub(crate) fn open(&self) -> Datapath {
        self.open_with(self.pins.config())
    }

    pub(crate) fn open_with(&self, config: Config) -> Datapath {
        self.space.enter(|| Datapath::open(config)).unwrap()
    }
}

/// Takes `CAP_SYS_ADMIN` from the calling thread (capabilities(7)).
#[expect(unsafe_code, reason = "no library that is used here wraps capget and capset")]
fn drop_admin() {
    const VERSION_3: u32 = 0x2008_0522;
    const ADMIN: u32 = 21;
    let header = [VERSION_3, 0];
    // Effective, permitted and inheritable ones, the lower 32 and the rest.
    let mut sets = [0_u32; 6];
    // SAFETY: the kernel reads the two words of the header, and writes or reads the six of the sets.
    unsafe {
        assert_eq!(nix::libc::syscall(nix::libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()), 0);
        sets[0] &= !(1 << ADMIN);
        assert_eq!(nix::libc::syscall(nix::libc::SYS_capset, header.as_ptr(), sets.as_ptr()), 0);
    }
}
