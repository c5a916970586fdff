//! The plugin in directories as they are found on nodes.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::*;

struct Dir(PathBuf);

impl Dir {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringfence-chain-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, value: &Value) {
        fs::write(self.0.join(name), value.to_string()).unwrap();
    }

    fn types(&self, name: &str) -> Vec<String> {
        conflist::types(&fs::read_to_string(self.0.join(name)).unwrap())
    }

    fn try_value(&self, name: &str) -> Option<Value> {
        serde_json::from_str(&fs::read_to_string(self.0.join(name)).ok()?).ok()
    }

    fn value(&self, name: &str) -> Value {
        self.try_value(name).unwrap()
    }

    fn chain(&self) -> Chain {
        Chain { conf_dir: self.0.clone(), bin_dir: self.0.join("bin") }
    }

    fn names(&self) -> Vec<String> {
        Files::read(&self.0).unwrap().texts.into_keys().collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let removed = fs::remove_dir_all(&self.0);
        // A test that failed may have left a keeper that goes on writing; the failure is what is to be told.
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

/// The state after a look.
fn look(dir: &Dir, member: &Value) -> api::CniConfig {
    keep(&dir.0, member, &mut Vec::new()).unwrap().0
}

/// Any will do.
fn program() -> Program {
    Program::open(Path::new("/proc/self/exe")).unwrap()
}

fn list() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [{ "type": "bridge" }, { "type": "portmap" }] })
}

#[test]
fn a_list_is_added_to_and_again_when_it_is_rewritten() {
    let dir = Dir::new("list");
    let member = conflist::entry("/run/a.sock");
    assert!(look(&dir, &member).error.is_some(), "there is nothing to follow");
    dir.write("10-pods.conflist", &list());
    for _ in 0..2 {
        let state = look(&dir, &member);
        assert_eq!((state.file.as_deref(), state.error), (Some("10-pods.conflist"), None));
        assert_eq!(state.plugins, ["bridge", "portmap"]);
        assert_eq!(dir.types("10-pods.conflist"), [PLUGIN, "bridge", "portmap", PLUGIN]);
    }
    dir.write("10-pods.conflist", &list());
    look(&dir, &member);
    assert_eq!(dir.types("10-pods.conflist"), [PLUGIN, "bridge", "portmap", PLUGIN]);
    remove(&dir.chain()).unwrap();
    assert_eq!(dir.types("10-pods.conflist"), ["bridge", "portmap"]);
}

#[test]
fn the_first_configuration_counts_and_a_single_one_is_wrapped() {
    let dir = Dir::new("single");
    let member = conflist::entry("/run/a.sock");
    dir.write("10-pods.conf", &json!({ "cniVersion": "0.4.0", "name": "pods", "type": "ptp" }));
    dir.write("20-more.conflist", &list());
    assert_eq!(look(&dir, &member).file.as_deref(), Some(WRAPPER));
    assert_eq!(dir.types(WRAPPER), [PLUGIN, "ptp", PLUGIN]);
    assert_eq!(dir.names(), [WRAPPER, "10-pods.conf", "20-more.conflist"], "nothing is left beside");
    dir.write("10-pods.conf", &json!({ "cniVersion": "0.4.0", "name": "pods", "type": "bridge" }));
    look(&dir, &member);
    assert_eq!(dir.types(WRAPPER), [PLUGIN, "bridge", PLUGIN]);
    fs::remove_file(dir.0.join("10-pods.conf")).unwrap();
    assert_eq!(look(&dir, &member).file.as_deref(), Some("20-more.conflist"));
    assert_eq!(dir.names(), ["20-more.conflist"]);
    assert_eq!(dir.types("20-more.conflist").last().unwrap(), PLUGIN);
}

#[test]
fn a_configuration_that_hides_the_list_made_of_it_is_told() {
    let dir = Dir::new("hidden");
    dir.write("00-a.conf", &json!({ "name": "pods", "type": "ptp" }));
    let error = look(&dir, &conflist::entry("/s")).error.unwrap();
    assert!(error.starts_with("runtimes take 00-a.conf before 00-ringfence.conflist"), "{error}");
}

#[test]
fn removal_leaves_everything_as_it_was() {
    let dir = Dir::new("remove");
    dir.write("10-pods.conf", &json!({ "name": "pods", "type": "ptp" }));
    look(&dir, &conflist::entry("/s"));
    fs::create_dir_all(dir.chain().bin_dir).unwrap();
    program().install(&dir.chain().bin_dir.join(PLUGIN)).unwrap();
    assert_ne!(fs::metadata(dir.0.join("bin").join(PLUGIN)).unwrap().permissions().mode() & 0o100, 0);
    remove(&dir.chain()).unwrap();
    assert_eq!(dir.names(), ["10-pods.conf"]);
    assert!(!dir.0.join("bin").join(PLUGIN).exists());
    remove(&dir.chain()).unwrap();
}

#[test]
fn what_no_runtime_could_use_is_passed_over() {
    let dir = Dir::new("usable");
    fs::create_dir_all(dir.0.join("00-directory.conf")).unwrap();
    fs::write(dir.0.join("01-torn.conflist"), "{\"plugins\": [").unwrap();
    dir.write("02-no-list.conflist", &json!({ "type": "bridge" }));
    dir.write("03-a-list.conf", &list());
    dir.write(".04-hidden.conflist", &list());
    let state = look(&dir, &conflist::entry("/s"));
    assert_eq!(state.file.as_deref(), Some(".04-hidden.conflist"), "runtimes read hidden files");
    fs::remove_file(dir.0.join(".04-hidden.conflist")).unwrap();
    assert!(look(&dir, &conflist::entry("/s")).error.is_some());
}

#[test]
fn a_plugin_that_bypasses_the_stack_is_refused_and_its_configuration_left_as_it_was() {
    let dir = Dir::new("bypass");
    let member = conflist::entry("/s");
    let bypass = json!({ "name": "pods", "plugins": [{ "type": "macvlan" }] });
    dir.write("10-pods.conflist", &json!({ "name": "pods", "plugins": [{ "type": "macvlan" }, member] }));
    let state = look(&dir, &member);
    assert!(state.bypass.unwrap().contains("macvlan"));
    assert_eq!((state.file, state.error), (None, None));
    let text = fs::read_to_string(dir.0.join("10-pods.conflist")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), bypass);
}

/// Waits for a state that fulfils a condition.
fn told(messages: &std::sync::mpsc::Receiver<Message>, what: &str, condition: impl Fn(&api::CniConfig) -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match messages.recv_timeout(left) {
            Ok(Message::Chain(state)) if condition(&state) => return,
            Ok(Message::Ask(Question::InSync(reply))) => reply.send(()).unwrap(),
            Ok(_) => {}
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

#[test]
fn whatever_happens_to_the_directories_is_noticed() {
    let dir = Dir::new("watch");
    let chain = Chain { conf_dir: dir.0.join("net.d"), bin_dir: dir.0.join("bin") };
    let (keeper, messages) = keeper(&chain);
    told(&messages, "nothing is there", |state| state.error.is_some());
    let file = chain.conf_dir.join("10-pods.conflist");
    let there = |state: &api::CniConfig| state.file.as_deref() == Some("10-pods.conflist");
    let types = || conflist::types(&fs::read_to_string(&file).unwrap_or_default());
    fs::write(&file, list().to_string()).unwrap();
    told(&messages, "a new file", there);
    assert_eq!(types(), [PLUGIN, "bridge", "portmap", PLUGIN]);
    // Rewritten in place, then replaced by another.
    fs::write(&file, list().to_string()).unwrap();
    told(&messages, "a file that is rewritten", |state| there(state) && types().len() == 4);
    fs::remove_dir_all(&chain.conf_dir).unwrap();
    told(&messages, "the directory is gone", |state| state.error.is_some());
    let made = Instant::now() + Duration::from_secs(20);
    while fs::write(&file, list().to_string()).is_err() {
        assert!(Instant::now() < made, "the directory is made again");
        std::thread::yield_now();
    }
    told(&messages, "a file in the new directory", |state| there(state) && types().len() == 4);
    fs::remove_file(chain.bin_dir.join(PLUGIN)).unwrap();
    told(&messages, "the program is gone", |_| chain.bin_dir.join(PLUGIN).exists());
    end(&keeper, messages);
}

fn multus(more: &Value) -> Value {
    let mut conf = json!({ "cniVersion": "0.3.1", "name": "multus-cni-network", "type": "multus-shim" });
    conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    conf
}

#[test]
fn beside_multus_nothing_is_written_that_no_runtime_takes() {
    let dir = Dir::new("multus");
    let member = conflist::entry("/s");
    let conf = multus(&json!({ "clusterNetwork": "/host/etc/cni/net.d/10-flannel.conflist" }));
    dir.write("00-multus.conf", &conf);
    dir.write("10-flannel.conflist", &list());
    dir.write("20-more.conflist", &json!({ "name": "more", "plugins": [{ "type": "bridge" }, member] }));
    for _ in 0..2 {
        let state = look(&dir, &member);
        assert_eq!((state.file.as_deref(), state.error), (Some("10-flannel.conflist"), None));
        assert_eq!(dir.names(), ["00-multus.conf", "10-flannel.conflist", "20-more.conflist"]);
        assert_eq!(dir.types("10-flannel.conflist"), [PLUGIN, "bridge", "portmap", PLUGIN]);
        assert_eq!(dir.types("20-more.conflist"), ["bridge"]);
        assert_eq!(dir.value("00-multus.conf"), conf);
    }
    // By the network's name; and one that an earlier version led astray.
    dir.write("00-multus.conf", &multus(&json!({ "clusterNetwork": "pods" })));
    assert_eq!(look(&dir, &member).file.as_deref(), Some("10-flannel.conflist"));
    dir.write("00-multus.conf", &multus(&json!({ "clusterNetwork": "/host/etc/cni/net.d/00-ringfence.conflist" })));
    dir.write(WRAPPER, &json!({ "ringfence.wraps": "00-multus.conf", "plugins": [{ "type": "multus-shim" }, member] }));
    let error = look(&dir, &member).error.unwrap();
    assert!(error.contains("clusterNetwork: 00-ringfence.conflist") && error.contains("start Multus anew"), "{error}");
    assert!(!dir.names().contains(&WRAPPER.to_owned()), "Multus would call itself");
    assert_eq!(dir.types("10-flannel.conflist"), ["bridge", "portmap"], "nobody takes it");
}

#[test]
fn delegates_that_multus_holds_itself_are_chained_there() {
    let dir = Dir::new("delegates");
    let member = conflist::entry("/s");
    // Also where the file sorts behind a list that could be made of it.
    for name in ["00-multus.conf", "70-multus.conf"] {
        let conf = multus(&json!({ "type": "multus", "delegates": [list(), { "type": "macvtap-of-others" }] }));
        dir.write(name, &conf);
        let state = look(&dir, &member);
        assert_eq!((state.file.as_deref(), state.error), (Some(name), None));
        assert_eq!(dir.names(), [name]);
        let delegate = dir.value(name)["delegates"][0].to_string();
        assert_eq!(conflist::types(&delegate), [PLUGIN, "bridge", "portmap", PLUGIN]);
        remove(&dir.chain()).unwrap();
        assert_eq!(dir.value(name), conf);
        fs::remove_file(dir.0.join(name)).unwrap();
    }
}

#[test]
fn ours_is_in_no_list_but_the_first() {
    let dir = Dir::new("first");
    let member = conflist::entry("/s");
    dir.write("87-podman-bridge.conflist", &list());
    look(&dir, &member);
    assert_eq!(dir.types("87-podman-bridge.conflist").len(), 4);
    fs::write(dir.0.join("10-pods.conflist"), "{\"plugins\": [").unwrap();
    assert_eq!(look(&dir, &member).file.as_deref(), Some("87-podman-bridge.conflist"), "the first is being written");
    dir.write("10-pods.conflist", &list());
    assert_eq!(look(&dir, &member).file.as_deref(), Some("10-pods.conflist"));
    assert_eq!(dir.types("87-podman-bridge.conflist"), ["bridge", "portmap"]);
    dir.write("05-single.conf", &json!({ "name": "pods", "type": "ptp" }));
    assert_eq!(look(&dir, &member).file.as_deref(), Some(WRAPPER));
    assert_eq!(dir.types("10-pods.conflist"), ["bridge", "portmap"]);
}

#[test]
fn links_are_written_through_and_one_that_leads_nowhere_is_told() {
    let dir = Dir::new("links");
    let member = conflist::entry("/s");
    fs::create_dir_all(dir.0.join("real")).unwrap();
    dir.write("real/pods", &list());
    std::os::unix::fs::symlink("real/pods", dir.0.join("10-pods.conflist")).unwrap();
    let types = || dir.types("real/pods");
    assert_eq!(look(&dir, &member).error, None);
    assert_eq!(types().len(), 4);
    // Its owner writes on where it always did.
    dir.write("real/pods", &list());
    look(&dir, &member);
    assert_eq!(types().len(), 4);
    remove(&dir.chain()).unwrap();
    assert_eq!(types().len(), 2);
    assert!(dir.0.join("10-pods.conflist").is_symlink());
    assert_eq!(fs::read_dir(dir.0.join("real")).unwrap().count(), 1, "nothing is left beside");
    dir.write("20-more.conflist", &list());
    look(&dir, &member);
    fs::remove_file(dir.0.join("real/pods")).unwrap();
    let state = look(&dir, &member);
    assert!(state.error.unwrap().starts_with("10-pods.conflist: it is a link to real/pods, which is not there"));
    assert_eq!((state.file, dir.types("20-more.conflist").len()), (None, 2), "runtimes do not take it");
}

#[test]
fn a_text_that_is_newer_than_what_was_read_is_never_lost() {
    let dir = Dir::new("update");
    let path = dir.0.join("10-pods.conflist");
    fs::write(&path, "two").unwrap();
    assert!(files::update(&path, "one", "ours").unwrap().is_none());
    assert_eq!(fs::read_to_string(&path).unwrap(), "two");
    assert!(files::update(&path, "two", "ours").unwrap().is_some());
    assert_eq!(fs::read_to_string(&path).unwrap(), "ours");
    fs::remove_file(&path).unwrap();
    assert!(files::update(&path, "ours", "x").unwrap().is_none() && !path.exists(), "what is gone stays gone");
    assert_eq!(dir.names(), [""; 0]);
}

/// A writer has opened the file, and writes only after it was replaced.
#[test]
fn what_is_written_into_a_file_that_was_just_replaced_is_put_back() {
    use std::io::{Seek as _, Write as _};
    let dir = Dir::new("late");
    let member = conflist::entry("/s");
    dir.write("10-pods.conflist", &list());
    let mut late = fs::File::options().write(true).open(dir.0.join("10-pods.conflist")).unwrap();
    let mut replaced = Vec::new();
    keep(&dir.0, &member, &mut replaced).unwrap();
    let text = json!({ "cniVersion": "1.0.0", "name": "newer", "plugins": [{ "type": "ptp" }] }).to_string();
    late.set_len(0).unwrap();
    late.rewind().unwrap();
    // In two pieces: half a text is none.
    for piece in [&text[..9], &text[9..]] {
        late.write_all(piece.as_bytes()).unwrap();
        keep(&dir.0, &member, &mut replaced).unwrap();
        let whole = piece.len() > 9;
        assert_eq!(dir.value("10-pods.conflist")["name"], if whole { "newer" } else { "pods" });
        assert_eq!(dir.types("10-pods.conflist").last().unwrap(), PLUGIN);
    }
}

/// Lets another thread end, also when this one fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn two_writers_at_once_lose_nothing_of_each_other() {
    let dir = Dir::new("writers");
    let member = conflist::entry("/s");
    let file = dir.0.join("10-pods.conflist");
    fs::write(&file, list().to_string()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let keeper = scope.spawn(|| {
            let mut replaced = Vec::new();
            while !done.load(Ordering::Relaxed) {
                // Torn files are passed over, and a file that is rewritten all the time is no error of ours.
                let _looked_at_again = keep(&dir.0, &member, &mut replaced);
            }
        });
        let end = Done(&done);
        let mut version = 0;
        for round in 0..300_u64 {
            // In place, or by renaming, two versions shortly after each other.
            for pause in [round % 7, 0] {
                version += 1;
                let text = json!({ "cniVersion": "1.0.0", "name": "pods", "version": version,
                    "plugins": [{ "type": "ptp" }] });
                if round % 2 == 0 {
                    fs::write(&file, text.to_string()).unwrap();
                } else {
                    fs::write(dir.0.join("draft"), text.to_string()).unwrap();
                    fs::rename(dir.0.join("draft"), &file).unwrap();
                }
                std::thread::sleep(Duration::from_millis(pause));
            }
            let end = Instant::now() + Duration::from_secs(20);
            let is_chained = || {
                let value = dir.try_value("10-pods.conflist").unwrap_or_default();
                value["version"] == version && value["plugins"].as_array().is_some_and(|plugins| plugins.len() == 3)
            };
            while !is_chained() {
                assert!(
                    Instant::now() < end,
                    "round {round}: {:?} is not version {version}",
                    fs::read_to_string(&file)
                );
                std::thread::yield_now();
            }
        }
        drop(end);
        keeper.join().unwrap();
    });
}

/// The keeper of a directory, and what it tells; both end with the receiver.
fn keeper(chain: &Chain) -> (Arc<Keeper>, std::sync::mpsc::Receiver<Message>) {
    let (core, messages) = Handle::channel();
    let socket = Path::new("/run/a.sock");
    let keeper = start(chain.clone(), program(), socket, Wanted::Chained, core, Arc::new(Meters::new()));
    (keeper.unwrap(), messages)
}

/// Waits until a keeper that nobody listens to has ended: at its next look.
fn end(keeper: &Arc<Keeper>, messages: std::sync::mpsc::Receiver<Message>) {
    drop(messages);
    let end = Instant::now() + Duration::from_secs(20);
    while Arc::strong_count(keeper) > 1 {
        assert!(Instant::now() < end, "its thread goes on");
        std::thread::yield_now();
    }
}

#[test]
fn nothing_is_chained_before_the_agent_can_answer_for_pods() {
    let dir = Dir::new("early");
    dir.write("10-pods.conflist", &list());
    let (_keeper, messages) = keeper(&dir.chain());
    let Ok(Message::Ask(Question::InSync(reply))) = messages.recv_timeout(Duration::from_secs(20)) else {
        panic!("it asks first");
    };
    assert_eq!(dir.types("10-pods.conflist"), ["bridge", "portmap"]);
    // An agent that ends before that has changed nothing.
    drop(reply);
    assert!(matches!(messages.recv_timeout(Duration::from_secs(20)), Ok(Message::Ended("chain"))));
    assert_eq!(dir.types("10-pods.conflist"), ["bridge", "portmap"]);
}

#[test]
fn what_nobody_tells_is_seen_at_the_next_look_and_mending_is_counted() {
    let dir = Dir::new("clock");
    dir.write("10-pods.conflist", &list());
    let (keeper, messages) = keeper(&dir.chain());
    let chained = |_: &api::CniConfig| dir.types("10-pods.conflist").len() == 4;
    told(&messages, "the first look", chained);
    // As on a node that has no inotify left.
    assert!(!wait(None), "the next look is by the clock");
    dir.write("10-pods.conflist", &list());
    told(&messages, "rewritten", chained);
    // It is counted right after it is written.
    let limit = Instant::now() + Duration::from_secs(20);
    let repairs = loop {
        let repairs = keeper.meters.mended.repairs();
        assert!(Instant::now() < limit, "nothing is counted");
        if !repairs.is_empty() {
            break repairs;
        }
        std::thread::yield_now();
    };
    assert_eq!((&*repairs[0].component, repairs[0].count), ("network-configuration", 1));
    end(&keeper, messages);
}

#[test]
fn a_directory_that_is_seen_though_it_was_removed_ends_the_process() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
        return;
    }
    let dir = Dir::new("mount");
    let chain = Chain { conf_dir: dir.0.join("in-container"), bin_dir: dir.0.join("bin") };
    for name in ["in-container", "on-node"] {
        fs::create_dir_all(dir.0.join(name)).unwrap();
    }
    let none = None::<&str>;
    let inside = || {
        use nix::mount::{MsFlags, mount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some(&dir.0.join("on-node")), &chain.conf_dir, none, MsFlags::MS_BIND, none).unwrap();
        let (_keeper, messages) = keeper(&chain);
        told(&messages, "nothing is there", |state| state.error.is_some());
        fs::remove_dir(dir.0.join("on-node")).unwrap();
        fs::create_dir(dir.0.join("on-node")).unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while !matches!(messages.recv_timeout(Duration::from_secs(20)), Ok(Message::Ended("chain"))) {
            assert!(Instant::now() < end, "it goes on with a directory that nobody else sees");
        }
    };
    std::thread::scope(|scope| scope.spawn(inside).join()).unwrap();
}
