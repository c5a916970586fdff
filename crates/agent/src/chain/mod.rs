//! Keeps the network plugin in the node's network configuration.
//!
//! Whoever gives pods their network writes its configuration when it likes, and writes it again when it is upgraded. A
//! thread of its own watches the directory and puts the plugin back at the end of the first configuration, the one a
//! container runtime uses. Until that is done a starting pod is not waited for; its address is closed all the same.
//! Where this program is the network plugin itself ([`crate::primary`]), the configuration is its own.

mod bypass;
mod files;
mod primary;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use parking_lot::Mutex;
use ringfence_cni::{PLUGIN, conflist};
use serde_json::Value;

use crate::api;
use crate::core::{Gone, Handle, Message};
use files::{configurations, rewrite};

pub(crate) use files::Program;

/// The list made for a configuration that is of one plugin only, or where there is none: the first by name, so that
/// runtimes take it.
const WRAPPER: &str = "00-ringfence.conflist";

/// Where plugin and configuration live on the node.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Directory of network configurations, as a rule `/etc/cni/net.d`.
    pub conf_dir: PathBuf,
    /// Directory of network plugins, as a rule `/opt/cni/bin`.
    pub bin_dir: PathBuf,
}

/// Where the plugin belongs.
pub(crate) enum Wanted {
    /// At the end of whatever gives pods their addresses.
    Chained,
    /// In a configuration of its own.
    Primary {
        /// Where the standard plugins are that it names.
        plugins: PathBuf,
        /// The configuration, once it is known.
        list: Mutex<Option<String>>,
    },
}

impl Wanted {
    /// In a configuration of its own, which is not known yet.
    pub(crate) fn primary(plugins: PathBuf) -> Self {
        Self::Primary { plugins, list: Mutex::new(None) }
    }
}

/// What keeps the plugin where it belongs.
pub(crate) struct Keeper {
    chain: Chain,
    /// The plugin's program.
    program: Program,
    /// The plugin's entry in a list.
    member: Value,
    wanted: Wanted,
    /// Held while files are looked at and written: two may want to at once.
    keeping: Mutex<()>,
    core: Handle,
}

/// Installs the plugin, puts it into the configuration and keeps it there for as long as the process lives.
pub(crate) fn start(
    chain: Chain,
    program: Program,
    socket: &Path,
    wanted: Wanted,
    core: Handle,
) -> io::Result<Arc<Keeper>> {
    let member = conflist::entry(&socket.to_string_lossy());
    let keeper = Arc::new(Keeper { chain, program, member, wanted, keeping: Mutex::new(()), core });
    // Once here, so that what can never work is an error at the start.
    let notices = keeper.watch()?;
    keeper.program.install(&keeper.chain.bin_dir.join(PLUGIN))?;
    let keeping = Arc::clone(&keeper);
    thread::Builder::new().name("chain".into()).spawn(move || {
        if let Err(error) = keeping.run(notices) {
            tracing::error!(%error, "the network configuration is not watched any more");
            keeping.complain(&error);
        }
    })?;
    Ok(keeper)
}

impl Keeper {
    /// Looks, and looks again whenever something changes in the directories, until nobody is left to tell.
    fn run(&self, mut notices: Inotify) -> io::Result<()> {
        loop {
            if self.core.tell(Message::Chain(self.keep())).is_err() {
                return Ok(());
            }
            if !wait(&notices)? {
                // A directory is gone, or another has its name: begin anew, before looking.
                notices = self.watch()?;
            }
        }
    }

    /// Watches both directories, which are made if they are not there.
    fn watch(&self) -> io::Result<Inotify> {
        let notices = Inotify::init(InitFlags::IN_CLOEXEC)?;
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        for directory in [&self.chain.conf_dir, &self.chain.bin_dir] {
            fs::create_dir_all(directory)?;
            notices.add_watch(directory, changes)?;
        }
        Ok(notices)
    }

    /// Puts the plugin where it belongs, if it is not there, and says how things stand.
    fn keep(&self) -> api::Chain {
        self.try_keep().unwrap_or_else(|error| {
            tracing::error!(%error, "the network plugin is not in the configuration");
            failed(&error)
        })
    }

    fn try_keep(&self) -> io::Result<api::Chain> {
        let _keeping = self.keeping.lock();
        self.restore()?;
        let conf_dir = &self.chain.conf_dir;
        let kept = match &self.wanted {
            Wanted::Chained => keep(conf_dir, &self.member),
            Wanted::Primary { plugins, list } => {
                primary::complete(&self.chain.bin_dir, plugins)?;
                primary::lead(conf_dir, list.lock().as_deref())
            }
        };
        kept.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", conf_dir.display())))
    }

    /// Tells which configuration is to be there, where it is our own, and puts it there.
    pub(crate) fn want(&self, configuration: &conflist::Primary) -> Result<(), Gone> {
        let Wanted::Primary { list, .. } = &self.wanted else { return Ok(()) };
        let text = conflist::primary(configuration, &self.member);
        if list.lock().replace(text.clone()) == Some(text) {
            return Ok(());
        }
        self.core.tell(Message::Chain(self.keep()))
    }

    /// Puts the program back if it was taken away with others of its directory: no pod could start without.
    fn restore(&self) -> io::Result<()> {
        let program = self.chain.bin_dir.join(PLUGIN);
        if program.exists() {
            return Ok(());
        }
        tracing::warn!(program = %program.display(), "the network plugin was taken away; it is put back");
        self.program.install(&program)
    }

    fn complain(&self, error: &io::Error) {
        // Nobody is there any more to hear it if this fails.
        let _ = self.core.tell(Message::Chain(failed(error)));
    }
}

fn failed(error: &io::Error) -> api::Chain {
    api::Chain { error: Some(error.to_string()), ..api::Chain::default() }
}

/// Waits until something changes. False if a directory is not watched any more.
fn wait(notices: &Inotify) -> io::Result<bool> {
    let lost = AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
    loop {
        match notices.read_events() {
            Ok(events) => return Ok(!events.iter().any(|event| event.mask.intersects(lost))),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes the plugin out of every configuration, and away.
pub fn remove(chain: &Chain) -> io::Result<()> {
    let found = match configurations(&chain.conf_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return files::remove(&chain.bin_dir.join(PLUGIN)),
        found => found?,
    };
    for (name, text) in found {
        let path = chain.conf_dir.join(name);
        if conflist::is_made(&text) {
            files::remove(&path)?;
        } else if let Ok(Some(without)) = conflist::remove(&text) {
            rewrite(&path, &without)?;
        }
    }
    files::tidy(&chain.conf_dir)?;
    files::tidy(&chain.bin_dir)?;
    primary::withdraw(&chain.bin_dir)?;
    files::remove(&chain.bin_dir.join(PLUGIN))
}

/// Chains the plugin, if it is not chained, and says how things stand.
fn keep(conf_dir: &Path, member: &Value) -> io::Result<api::Chain> {
    let mut files = configurations(conf_dir)?;
    let wrapper = files.remove(WRAPPER);
    let first = files.into_iter().find(|(name, text)| usable(name, text));
    let is_list = first.as_ref().is_some_and(|(name, _)| is_list(name));
    let bypass = first.as_ref().and_then(|(name, text)| bypass::reason(name, text));
    if wrapper.is_some() && (first.is_none() || is_list || bypass.is_some()) {
        files::remove(&conf_dir.join(WRAPPER))?;
    }
    let Some((name, text)) = first else {
        return Ok(api::Chain { error: Some("no network plugin is configured".into()), ..api::Chain::default() });
    };
    let plugins = conflist::types(&text).into_iter().filter(|plugin| plugin != PLUGIN).collect();
    if bypass.is_some() {
        if let Ok(Some(without)) = conflist::remove(&text) {
            rewrite(&conf_dir.join(&name), &without)?;
        }
        return Ok(api::Chain { plugins, bypass, ..api::Chain::default() });
    }
    let error = (!is_list).then(|| hidden(&name)).flatten();
    let (target, wanted) = if is_list {
        (name, conflist::insert(&text, member))
    } else {
        let list = conflist::wrap(&text, &name, member);
        (WRAPPER.to_owned(), list.map(|list| (wrapper.as_deref() != Some(&*list)).then_some(list)))
    };
    match wanted {
        Ok(Some(wanted)) => {
            rewrite(&conf_dir.join(&target), &wanted)?;
            tracing::info!(file = target, "put the network plugin into the configuration");
        }
        Ok(None) => {}
        Err(error) => return Err(io::Error::other(format!("{target}: {error}"))),
    }
    Ok(api::Chain { file: Some(target), plugins, error, ..api::Chain::default() })
}

/// What is wrong if the configuration that a list was made of is called something that comes before the list.
fn hidden(name: &str) -> Option<String> {
    (name < WRAPPER)
        .then(|| format!("runtimes take {name} before {WRAPPER}; hint: rename {name} so that it comes after {WRAPPER}"))
}

/// Whether a file is a list by its name: runtimes read others as the configuration of one plugin.
fn is_list(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|kind| kind == "conflist")
}

/// Whether a runtime can use a configuration: a list has plugins, anything else is one.
fn usable(name: &str, text: &str) -> bool {
    !conflist::types(text).is_empty() && conflist::is_list(text) == is_list(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
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

        fn chain(&self) -> Chain {
            Chain { conf_dir: self.0.clone(), bin_dir: self.0.join("bin") }
        }

        fn names(&self) -> Vec<String> {
            configurations(&self.0).unwrap().into_keys().collect()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
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
        assert!(keep(&dir.0, &member).unwrap().error.is_some(), "there is nothing to follow");
        dir.write("10-pods.conflist", &list());
        for _ in 0..2 {
            let state = keep(&dir.0, &member).unwrap();
            assert_eq!((state.file.as_deref(), state.error), (Some("10-pods.conflist"), None));
            assert_eq!(state.plugins, ["bridge", "portmap"]);
            assert_eq!(dir.types("10-pods.conflist"), [PLUGIN, "bridge", "portmap", PLUGIN]);
        }
        dir.write("10-pods.conflist", &list());
        keep(&dir.0, &member).unwrap();
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
        assert_eq!(keep(&dir.0, &member).unwrap().file.as_deref(), Some(WRAPPER));
        assert_eq!(dir.types(WRAPPER), [PLUGIN, "ptp", PLUGIN]);
        assert_eq!(dir.names(), [WRAPPER, "10-pods.conf", "20-more.conflist"], "nothing is left beside");
        dir.write("10-pods.conf", &json!({ "cniVersion": "0.4.0", "name": "pods", "type": "bridge" }));
        keep(&dir.0, &member).unwrap();
        assert_eq!(dir.types(WRAPPER), [PLUGIN, "bridge", PLUGIN]);
        fs::remove_file(dir.0.join("10-pods.conf")).unwrap();
        assert_eq!(keep(&dir.0, &member).unwrap().file.as_deref(), Some("20-more.conflist"));
        assert_eq!(dir.names(), ["20-more.conflist"]);
        assert_eq!(dir.types("20-more.conflist").last().unwrap(), PLUGIN);
    }

    #[test]
    fn a_configuration_that_hides_the_list_made_of_it_is_told() {
        let dir = Dir::new("hidden");
        dir.write("00-a.conf", &json!({ "name": "pods", "type": "ptp" }));
        let error = keep(&dir.0, &conflist::entry("/s")).unwrap().error.unwrap();
        assert!(error.starts_with("runtimes take 00-a.conf before 00-ringfence.conflist"), "{error}");
    }

    #[test]
    fn removal_leaves_everything_as_it_was() {
        let dir = Dir::new("remove");
        dir.write("10-pods.conf", &json!({ "name": "pods", "type": "ptp" }));
        keep(&dir.0, &conflist::entry("/s")).unwrap();
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
        let state = keep(&dir.0, &conflist::entry("/s")).unwrap();
        assert_eq!(state.file.as_deref(), Some(".04-hidden.conflist"), "runtimes read hidden files");
        fs::remove_file(dir.0.join(".04-hidden.conflist")).unwrap();
        assert!(keep(&dir.0, &conflist::entry("/s")).unwrap().error.is_some());
    }

    #[test]
    fn a_plugin_that_bypasses_the_stack_is_refused_and_its_configuration_left_as_it_was() {
        let dir = Dir::new("bypass");
        let member = conflist::entry("/s");
        let bypass = json!({ "name": "pods", "plugins": [{ "type": "macvlan" }] });
        dir.write("10-pods.conflist", &json!({ "name": "pods", "plugins": [{ "type": "macvlan" }, member] }));
        let state = keep(&dir.0, &member).unwrap();
        assert!(state.bypass.unwrap().contains("macvlan"));
        assert_eq!((state.file, state.error), (None, None));
        let text = fs::read_to_string(dir.0.join("10-pods.conflist")).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), bypass);
    }

    /// What the keeper says next that fulfils a condition.
    fn told(messages: &std::sync::mpsc::Receiver<Message>, what: &str, condition: impl Fn(&api::Chain) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match messages.recv_timeout(left) {
                Ok(Message::Chain(state)) if condition(&state) => return,
                Ok(_) => {}
                Err(error) => panic!("{what}: {error}"),
            }
        }
    }

    #[test]
    fn whatever_happens_to_the_directories_is_noticed() {
        let dir = Dir::new("watch");
        let chain = Chain { conf_dir: dir.0.join("net.d"), bin_dir: dir.0.join("bin") };
        let (core, messages) = Handle::channel();
        start(chain.clone(), program(), Path::new("/run/a.sock"), Wanted::Chained, core).unwrap();
        told(&messages, "nothing is there", |state| state.error.is_some());
        let file = chain.conf_dir.join("10-pods.conflist");
        let there = |state: &api::Chain| state.file.as_deref() == Some("10-pods.conflist");
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
        drop(messages);
        // The next change tells the thread that nobody listens any more.
        fs::write(chain.conf_dir.join("end"), "").unwrap();
    }
}
