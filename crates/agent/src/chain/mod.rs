//! Keeps the network plugin in the node's network configuration.
//!
//! Whoever gives pods their network writes its configuration when it likes, and writes it again when it is upgraded. A
//! thread of its own watches the directory and puts the plugin back at the end of the first configuration, the one a
//! container runtime uses. Until that is done a starting pod is not waited for; its address is closed all the same.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use ringfence_cni::{PLUGIN, conflist};
use serde_json::Value;

use crate::api;
use crate::core::{Handle, Message};

/// The list made for a configuration that is of one plugin only: the first by name, so that runtimes take it.
const WRAPPER: &str = "00-ringfence.conflist";

/// Where plugin and configuration live on the node.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Directory of network configurations, as a rule `/etc/cni/net.d`.
    pub conf_dir: PathBuf,
    /// Directory of network plugins, as a rule `/opt/cni/bin`.
    pub bin_dir: PathBuf,
}

/// Copies the running program to where runtimes look for plugins. A plugin that runs meanwhile is not disturbed.
fn install(bin_dir: &Path) -> io::Result<()> {
    let mut program = fs::File::open("/proc/self/exe")?;
    replace(&bin_dir.join(PLUGIN), 0o755, |file| io::copy(&mut program, file).map(drop))
}

/// Installs the plugin, puts it into the configuration and keeps it there for as long as the process lives.
pub(crate) fn start(chain: Chain, socket: PathBuf, core: Handle) -> io::Result<()> {
    fs::create_dir_all(&chain.conf_dir)?;
    fs::create_dir_all(&chain.bin_dir)?;
    install(&chain.bin_dir)?;
    let notices = Inotify::init(InitFlags::IN_CLOEXEC)?;
    let changes = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ONLYDIR;
    notices.add_watch(&chain.conf_dir, changes)?;
    thread::Builder::new().name("chain".into()).spawn(move || {
        let member = conflist::entry(&socket.to_string_lossy());
        loop {
            let state = keep(&chain.conf_dir, &member);
            if core.tell(Message::Chain(state)).is_err() {
                return;
            }
            if let Err(error) = notices.read_events() {
                tracing::error!(%error, "the network configuration is not watched any more");
                return;
            }
        }
    })?;
    Ok(())
}

/// Takes the plugin out of every configuration, and away.
pub fn remove(chain: &Chain) -> io::Result<()> {
    for (name, text) in configurations(&chain.conf_dir)? {
        let path = chain.conf_dir.join(name);
        if conflist::wrapped(&text).is_some() {
            fs::remove_file(path)?;
        } else if let Ok(Some(without)) = conflist::remove(&text) {
            rewrite(&path, &without)?;
        }
    }
    match fs::remove_file(chain.bin_dir.join(PLUGIN)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Puts the plugin where it belongs, if it is not there, and says how things stand.
fn keep(conf_dir: &Path, member: &Value) -> api::Chain {
    match try_keep(conf_dir, member) {
        Ok(state) => state,
        Err(error) => {
            let error = format!("{}: {error}", conf_dir.display());
            tracing::error!(error, "the network plugin is not in the configuration");
            api::Chain { error: Some(error), ..api::Chain::default() }
        }
    }
}

fn try_keep(conf_dir: &Path, member: &Value) -> io::Result<api::Chain> {
    let mut files = configurations(conf_dir)?;
    let wrapper = files.remove(WRAPPER);
    let first = files.into_iter().find(|(_, text)| !conflist::types(text).is_empty());
    let is_list = first.as_ref().is_some_and(|(name, _)| name.ends_with(".conflist"));
    if wrapper.is_some() && (first.is_none() || is_list) {
        fs::remove_file(conf_dir.join(WRAPPER))?;
    }
    let Some((name, text)) = first else {
        return Ok(api::Chain { error: Some("no network plugin is configured".into()), ..api::Chain::default() });
    };
    let plugins = conflist::types(&text).into_iter().filter(|plugin| plugin != PLUGIN).collect();
    let first_name = name.clone();
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
    // Where a list has to be made, and the configuration it is made of is called something that comes before it.
    let hidden = !is_list && first_name.as_str() < WRAPPER;
    let error = hidden.then(|| {
        format!("runtimes take {first_name} before {target}; hint: rename {first_name} so that it comes after {target}")
    });
    Ok(api::Chain { file: Some(target), plugins, error })
}

/// Texts of the configurations, by file name, in the order runtimes look at them.
fn configurations(conf_dir: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(conf_dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let known =
            Path::new(&name).extension().is_some_and(|kind| kind == "conf" || kind == "conflist" || kind == "json");
        if !known || name.starts_with('.') {
            continue;
        }
        match fs::read_to_string(entry.path()) {
            Ok(text) => drop(files.insert(name, text)),
            // Gone again, or not text: nothing a runtime could use either.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

/// Replaces a configuration in one step, with the permissions it has.
fn rewrite(path: &Path, text: &str) -> io::Result<()> {
    let mode = fs::metadata(path).map_or(0o644, |metadata| metadata.permissions().mode() & 0o777);
    replace(path, mode, |file| file.write_all(text.as_bytes()))
}

/// Writes a file beside and renames it, so that readers see the old or the new one.
fn replace(path: &Path, mode: u32, write: impl FnOnce(&mut fs::File) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut file = fs::File::create(&beside)?;
        write(&mut file)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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

    fn list() -> Value {
        json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [{ "type": "bridge" }, { "type": "portmap" }] })
    }

    #[test]
    fn a_list_is_added_to_and_again_when_it_is_rewritten() {
        let dir = Dir::new("list");
        let member = conflist::entry("/run/a.sock");
        assert!(keep(&dir.0, &member).error.is_some(), "there is nothing to follow");
        dir.write("10-pods.conflist", &list());
        for _ in 0..2 {
            let state = keep(&dir.0, &member);
            assert_eq!((state.file.as_deref(), state.error), (Some("10-pods.conflist"), None));
            assert_eq!(state.plugins, ["bridge", "portmap"]);
            assert_eq!(dir.types("10-pods.conflist"), ["bridge", "portmap", PLUGIN]);
        }
        dir.write("10-pods.conflist", &list());
        keep(&dir.0, &member);
        assert_eq!(dir.types("10-pods.conflist"), ["bridge", "portmap", PLUGIN]);
        remove(&dir.chain()).unwrap();
        assert_eq!(dir.types("10-pods.conflist"), ["bridge", "portmap"]);
    }

    #[test]
    fn the_first_configuration_counts_and_a_single_one_is_wrapped() {
        let dir = Dir::new("single");
        let member = conflist::entry("/run/a.sock");
        dir.write("10-pods.conf", &json!({ "cniVersion": "0.4.0", "name": "pods", "type": "ptp" }));
        dir.write("20-more.conflist", &list());
        assert_eq!(keep(&dir.0, &member).file.as_deref(), Some(WRAPPER));
        assert_eq!(dir.types(WRAPPER), ["ptp", PLUGIN]);
        assert_eq!(dir.names(), [WRAPPER, "10-pods.conf", "20-more.conflist"], "nothing is left beside");
        dir.write("10-pods.conf", &json!({ "cniVersion": "0.4.0", "name": "pods", "type": "bridge" }));
        keep(&dir.0, &member);
        assert_eq!(dir.types(WRAPPER), ["bridge", PLUGIN]);
        fs::remove_file(dir.0.join("10-pods.conf")).unwrap();
        assert_eq!(keep(&dir.0, &member).file.as_deref(), Some("20-more.conflist"));
        assert_eq!(dir.names(), ["20-more.conflist"]);
        assert_eq!(dir.types("20-more.conflist").last().unwrap(), PLUGIN);
    }

    #[test]
    fn a_configuration_that_hides_the_list_made_of_it_is_told() {
        let dir = Dir::new("hidden");
        dir.write("00-a.conf", &json!({ "name": "pods", "type": "ptp" }));
        let error = keep(&dir.0, &conflist::entry("/s")).error.unwrap();
        assert!(error.starts_with("runtimes take 00-a.conf before 00-ringfence.conflist"), "{error}");
    }

    #[test]
    fn removal_leaves_everything_as_it_was() {
        let dir = Dir::new("remove");
        dir.write("10-pods.conf", &json!({ "name": "pods", "type": "ptp" }));
        keep(&dir.0, &conflist::entry("/s"));
        fs::create_dir_all(dir.chain().bin_dir).unwrap();
        install(&dir.chain().bin_dir).unwrap();
        assert_ne!(fs::metadata(dir.0.join("bin").join(PLUGIN)).unwrap().permissions().mode() & 0o100, 0);
        remove(&dir.chain()).unwrap();
        assert_eq!(dir.names(), ["10-pods.conf"]);
        assert!(!dir.0.join("bin").join(PLUGIN).exists());
        remove(&dir.chain()).unwrap();
    }
}
