//! A configuration of our own, and the standard plugins that it names.

use std::fs;
use std::io;
use std::path::Path;

use ringfence_api as api;
use ringfence_cni::conflist::{self, DELEGATES};

use super::WRAPPER;
use super::files::{Files, Program, remove, rewrite};
use super::plan::is_usable;

/// Names the plugins that were put beside others, so that they can be taken away again.
const OURS: &str = ".ringfence-plugins";

/// Puts the configuration where runtimes take it, if it is not there, and says how things stand, and whether it was
/// not.
pub(super) fn lead(conf_dir: &Path, wanted: Option<&str>) -> io::Result<(api::CniConfig, bool)> {
    let Some(wanted) = wanted else {
        let error = "the ranges of this node's pods are not known yet".into();
        return Ok((api::CniConfig { error: Some(error), ..api::CniConfig::default() }, false));
    };
    let files = Files::read(conf_dir)?;
    let missing = files.texts.get(WRAPPER).map(String::as_str) != Some(wanted);
    if missing {
        rewrite(&conf_dir.join(WRAPPER), wanted)?;
        tracing::info!(file = WRAPPER, "wrote the network configuration");
    }
    let usable = files.texts.iter().filter(|(name, text)| is_usable(name, text)).map(|(name, _)| name);
    let before = usable.chain(files.lost.keys()).find(|name| name.as_str() < WRAPPER);
    let error = before.map(|name| format!("{name} comes before {WRAPPER}, so runtimes use that; hint: remove it"));
    let plugins = conflist::types(wanted).into_iter().filter(|plugin| plugin != ringfence_cni::PLUGIN).collect();
    Ok((api::CniConfig { file: Some(WRAPPER.into()), plugins, error, bypass: None }, missing))
}

/// Sees to it that the standard plugins are there, from a directory with those that are missing.
pub(super) fn complete(bin_dir: &Path, plugins: &Path) -> io::Result<()> {
    for plugin in DELEGATES.iter().filter(|plugin| !bin_dir.join(plugin).exists()) {
        let (from, to) = (plugins.join(plugin), bin_dir.join(plugin));
        let mut ours: Vec<String> = installed(bin_dir)?;
        if !ours.iter().any(|name| name == plugin) {
            ours.push((*plugin).to_owned());
            rewrite(&bin_dir.join(OURS), &ours.join("\n"))?;
        }
        Program::open(&from).and_then(|program| program.install(&to)).map_err(|error| {
            let hint = "hint: apt install containernetworking-plugins, or name where they are by --cni-plugins-dir";
            let message = format!("the standard plugin {plugin} is missing in {}: {error}; {hint}", bin_dir.display());
            io::Error::new(error.kind(), message)
        })?;
        tracing::info!(plugin, "installed a standard network plugin");
    }
    Ok(())
}

/// Takes away the standard plugins that were installed here.
pub(super) fn withdraw(bin_dir: &Path) -> io::Result<()> {
    for plugin in installed(bin_dir)?.iter().filter(|plugin| DELEGATES.contains(&plugin.as_str())) {
        remove(&bin_dir.join(plugin))?;
    }
    remove(&bin_dir.join(OURS))
}

fn installed(bin_dir: &Path) -> io::Result<Vec<String>> {
    match fs::read_to_string(bin_dir.join(OURS)) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A directory that goes with the test.
    struct Dir(PathBuf);

    impl Dir {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ringfence-primary-{test}-{}", std::process::id()));
            fs::create_dir_all(path.join("bin")).unwrap();
            fs::create_dir_all(path.join("plugins")).unwrap();
            Self(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn list() -> String {
        let told =
            conflist::Primary { ranges: vec!["10.244.1.0/24".parse().unwrap()], mtu: 1500, data_dir: "/x".into() };
        conflist::primary(&told, &conflist::entry("/s"))
    }

    #[test]
    fn the_configuration_is_the_first_or_it_is_said_that_it_is_not() {
        let dir = Dir::new("lead");
        assert!(lead(&dir.0, None).unwrap().0.error.unwrap().contains("not known yet"));
        fs::write(dir.0.join("10-other.conflist"), r#"{"plugins": [{"type": "bridge"}]}"#).unwrap();
        fs::write(dir.0.join(WRAPPER), "{").unwrap();
        let (state, _) = lead(&dir.0, Some(&list())).unwrap();
        assert_eq!((state.file.as_deref(), state.error), (Some(WRAPPER), None));
        assert_eq!(state.plugins, ["ptp", "portmap"]);
        assert_eq!(fs::read_to_string(dir.0.join(WRAPPER)).unwrap(), list());
        fs::write(dir.0.join("00-before.conf"), r#"{"type": "bridge"}"#).unwrap();
        assert!(lead(&dir.0, Some(&list())).unwrap().0.error.unwrap().contains("00-before.conf"));
    }

    #[test]
    fn missing_plugins_are_installed_and_only_those_taken_away() {
        let dir = Dir::new("complete");
        let (bin, plugins) = (dir.0.join("bin"), dir.0.join("plugins"));
        let error = complete(&bin, &plugins).unwrap_err().to_string();
        assert!(error.contains("ptp") && error.contains("hint:"), "{error}");
        for plugin in DELEGATES {
            fs::write(plugins.join(plugin), "ours").unwrap();
        }
        fs::write(bin.join("ptp"), "theirs").unwrap();
        fs::remove_file(bin.join(OURS)).unwrap();
        complete(&bin, &plugins).unwrap();
        complete(&bin, &plugins).unwrap();
        assert_eq!(fs::read_to_string(bin.join("ptp")).unwrap(), "theirs");
        assert_eq!(fs::read_to_string(bin.join("portmap")).unwrap(), "ours");
        withdraw(&bin).unwrap();
        withdraw(&bin).unwrap();
        let left: Vec<_> = fs::read_dir(&bin).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["ptp"]);
    }
}
