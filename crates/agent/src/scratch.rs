//! Network namespaces for tests.

use ringfence_netns::Namespace;

/// A namespace that goes with the test.
pub(crate) struct Scratch(pub(crate) Namespace);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        Self(Namespace::create(&format!("rf-agent-test-{}-{name}", std::process::id())).unwrap())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        Namespace::delete(self.0.name()).unwrap();
    }
}

/// True if there can be any: says why not; where `CI` is set that is a failure.
pub(crate) fn can_run() -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "CI must run this as root");
    if !root {
        println!("skipped: needs root");
    }
    root
}
