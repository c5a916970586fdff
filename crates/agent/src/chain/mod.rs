//! Keeps the network plugin in the node's network configuration.
//!
//! Whoever gives pods their network writes its configuration when it likes, and writes it again when it is upgraded. A
//! thread of its own watches the directory and puts the plugin back at the end of the first configuration, the one a
//! container runtime uses, and takes it out of all others. Until that is done a starting pod is not waited for; its
//! address is closed all the same. Where this program is the network plugin itself ([`crate::primary`]), the
//! configuration is its own.

mod bypass;
mod files;
mod plan;
mod primary;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use parking_lot::Mutex;
use ringfence_api as api;
use ringfence_cni::{PLUGIN, conflist};
use serde_json::Value;

use crate::core::{Gone, Handle, Message, Question};
use crate::metrics::Meters;
use files::{Files, Replaced};
use plan::{Steps, Write};

pub(crate) use files::Program;

/// The list made for a configuration that is of one plugin only, or where there is none: the first by name, so that
/// runtimes take it.
const WRAPPER: &str = "00-ringfence.conflist";

/// Time between two looks at the directories while no event says that they changed.
const RESYNC_INTERVAL: Duration = Duration::from_secs(2);
/// Number of times that a look is begun anew because another program wrote the same file meanwhile.
const MAX_ATTEMPTS: usize = 10;

/// Directories of plugins and network configurations on the node.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Directory of network configurations, as a rule `/etc/cni/net.d`.
    pub conf_dir: PathBuf,
    /// Directory of network plugins, as a rule `/opt/cni/bin`.
    pub bin_dir: PathBuf,
}

/// Place of the plugin in the configuration.
pub(crate) enum Wanted {
    /// At the end of whatever gives pods their addresses.
    Chained,
    /// In a configuration of its own.
    Primary {
        /// Directory of the standard plugins that it names.
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

/// The thread that keeps the plugin in the configuration.
pub(crate) struct Keeper {
    chain: Chain,
    /// The plugin's program.
    program: Program,
    /// The plugin's entry in a list.
    member: Value,
    wanted: Wanted,
    /// Held while files are looked at and written: two may want to at once.
    kept: Mutex<Kept>,
    core: Handle,
    meters: Arc<Meters>,
}

/// State kept from one look to the next.
#[derive(Debug, Default)]
struct Kept {
    /// The agent can answer for pods. Nothing is written before.
    in_sync: bool,
    /// The plugin was where it belongs once.
    stood: bool,
    /// State found by the last look.
    state: Option<api::CniConfig>,
    /// Files that were replaced not long ago.
    replaced: Vec<Replaced>,
}

/// Installs the plugin, and puts it into the configuration once the policy of the cluster is in the kernel. Keeps it
/// there for as long as the process lives.
pub(crate) fn start(
    chain: Chain,
    program: Program,
    socket: &Path,
    wanted: Wanted,
    core: Handle,
    meters: Arc<Meters>,
) -> io::Result<Arc<Keeper>> {
    let member = conflist::entry(&socket.to_string_lossy());
    let keeper = Arc::new(Keeper { chain, program, member, wanted, kept: Mutex::default(), core, meters });
    // Once here, so that what can never work is an error at the start.
    keeper.make_directories()?;
    keeper.program.install(&keeper.chain.bin_dir.join(PLUGIN))?;
    let keeping = Arc::clone(&keeper);
    keeper.core.spawn("chain", move || {
        if let Err(error) = keeping.run() {
            tracing::error!(%error, "the network configuration cannot be kept");
        }
    })?;
    Ok(keeper)
}

impl Keeper {
    /// Looks as soon as the agent can answer for pods, whenever something changes in the directories, and every now and
    /// then, until nobody is left to tell. An error is what only a new process can mend.
    fn run(&self) -> io::Result<()> {
        if self.core.ask_blocking(Question::InSync).is_err() {
            return Ok(());
        }
        self.kept.lock().in_sync = true;
        let mut notices = self.watch();
        loop {
            if self.core.tell(Message::Chain(self.keep())).is_err() {
                return Ok(());
            }
            if let Some(gone) = [&self.chain.conf_dir, &self.chain.bin_dir].into_iter().find(|dir| files::is_gone(dir))
            {
                let why = "was removed on the node; this container still sees the old one, and a new one will not";
                return Err(io::Error::other(format!("{} {why}", gone.display())));
            }
            if !wait(notices.as_ref()) {
                // A directory is gone, or another has its name: begin anew, before looking.
                notices = self.watch();
            }
        }
    }

    fn make_directories(&self) -> io::Result<()> {
        [&self.chain.conf_dir, &self.chain.bin_dir].into_iter().try_for_each(fs::create_dir_all)
    }

    /// Watches both directories, which are made if they are not there. None where the node has no watch left to give:
    /// then there are the looks every now and then.
    fn watch(&self) -> Option<Inotify> {
        let watched = self.make_directories().and_then(|()| self.try_watch());
        watched
            .inspect_err(|error| tracing::debug!(%error, "the network configuration is looked at by the clock only"))
            .ok()
    }

    fn try_watch(&self) -> io::Result<Inotify> {
        let notices = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        for directory in [&self.chain.conf_dir, &self.chain.bin_dir] {
            notices.add_watch(directory, changes)?;
        }
        Ok(notices)
    }

    /// Puts the plugin where it belongs, if it is not there, and says how things stand.
    fn keep(&self) -> api::CniConfig {
        let mut kept = self.kept.lock();
        let (state, wrote) = self.try_keep(&mut kept.replaced).unwrap_or_else(|error| (failed(&error), false));
        if kept.state.as_ref().is_none_or(|before| before.error != state.error)
            && let Some(error) = &state.error
        {
            tracing::error!(error, "the network plugin is not in the configuration");
        }
        // In between a file may have been seen half written.
        let stands = state.file.is_some() && state.error.is_none();
        if wrote && kept.stood && stands {
            let file = state.file.as_deref().unwrap_or_default();
            let found = format!("the network configuration was changed; the plugin is in {file} again");
            self.meters.mended.mended("network-configuration", found);
        }
        kept.stood |= stands;
        kept.state = Some(state.clone());
        state
    }

    /// The state of the configuration, and whether a file had to be written for it.
    fn try_keep(&self, replaced: &mut Vec<Replaced>) -> io::Result<(api::CniConfig, bool)> {
        self.restore()?;
        let conf_dir = &self.chain.conf_dir;
        let kept = match &self.wanted {
            Wanted::Chained => keep(conf_dir, &self.member, replaced),
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
        let before = list.lock().replace(text.clone());
        // Before that time the thread has yet to look for the first time.
        let in_sync = self.kept.lock().in_sync;
        if before == Some(text) || !in_sync {
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
        self.program.install(&program)?;
        self.meters.mended.mended("network-plugin", format!("{} was removed; it is there again", program.display()));
        Ok(())
    }
}

fn failed(error: &io::Error) -> api::CniConfig {
    api::CniConfig { error: Some(error.to_string()), ..api::CniConfig::default() }
}

/// Waits until something changes, or until it is time to look again. False if a directory is not watched, or not any
/// more.
fn wait(notices: Option<&Inotify>) -> bool {
    let Some(notices) = notices else {
        thread::sleep(RESYNC_INTERVAL);
        return false;
    };
    let timeout = PollTimeout::try_from(RESYNC_INTERVAL).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(notices.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(0) | Err(Errno::EINTR) => return true,
        Ok(_) => {}
        Err(_) => return false,
    }
    let lost = AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
    match notices.read_events() {
        Ok(events) => !events.iter().any(|event| event.mask.intersects(lost)),
        Err(Errno::EINTR | Errno::EAGAIN) => true,
        Err(_) => false,
    }
}

/// Takes the plugin out of every configuration, and away.
pub fn remove(chain: &Chain) -> io::Result<()> {
    if chain.conf_dir.exists() {
        carry_out(&chain.conf_dir, &mut Vec::new(), |files| plan::without(files, None, ""))?;
        files::tidy(&chain.conf_dir)?;
    }
    files::tidy(&chain.bin_dir)?;
    primary::withdraw(&chain.bin_dir)?;
    files::remove(&chain.bin_dir.join(PLUGIN))
}

/// Chains the plugin, if it is not chained, and says how things stand, and whether a file had to be written.
fn keep(conf_dir: &Path, member: &Value, replaced: &mut Vec<Replaced>) -> io::Result<(api::CniConfig, bool)> {
    carry_out(conf_dir, replaced, |files| plan::plan(files, member))
}

/// Reads, plans and writes, again and again while somebody else writes the same files.
fn carry_out(
    conf_dir: &Path,
    replaced: &mut Vec<Replaced>,
    plan: impl Fn(&Files) -> Steps,
) -> io::Result<(api::CniConfig, bool)> {
    for _ in 0..MAX_ATTEMPTS {
        for before in std::mem::take(replaced) {
            match before.recover()? {
                Some(theirs) => replaced.push(theirs),
                None if before.is_recent() => replaced.push(before),
                None => {}
            }
        }
        let steps = plan(&Files::read(conf_dir)?);
        if steps.unwrap {
            files::remove(&conf_dir.join(WRAPPER))?;
        }
        let mut whole = true;
        for Write { name, before, after } in &steps.write {
            let path = conf_dir.join(name);
            let written = match before {
                Some(before) => {
                    let old = files::update(&path, before, after)?;
                    let updated = old.is_some();
                    replaced.extend(old);
                    updated
                }
                None => files::rewrite(&path, after).map(|()| true)?,
            };
            if written {
                tracing::info!(file = name, "wrote the network configuration");
            }
            whole &= written;
        }
        if whole {
            return Ok((steps.state, !steps.write.is_empty()));
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "somebody else writes the same files all the time"))
}
