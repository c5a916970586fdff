//! The objects that make up an installation: as the Helm chart renders them by default, with a few typed changes.
//!
//! The chart is the source. A test renders it with a real `helm` and holds it equal to what is made here, for the
//! default and for every change.

use std::fmt;
use std::str::FromStr;

use anyhow::Context as _;
use serde_json::{Value, json};

/// The chart, as `helm template` renders it.
const RENDERED: &str = include_str!("../../../deploy/ringfence.yaml");

/// Name of every object.
pub const NAME: &str = "ringfence";
/// Namespace the chart was rendered for.
pub const NAMESPACE: &str = "kube-system";
/// The agent's argument for when to go through VXLAN.
pub(crate) const ENCAPSULATION: &str = "--encapsulation=";
/// The agent's argument for where network configurations are.
pub(crate) const CONF_DIR: &str = "--cni-conf-dir=";
/// The agent's argument for where network plugins are.
pub(crate) const BIN_DIR: &str = "--cni-bin-dir=";
/// The agent's argument for where probes and Prometheus are answered.
pub(crate) const METRICS: &str = "--metrics=";
/// The agent's argument for what becomes of pods whose policies do not fit.
pub(crate) const OVER_CAPACITY: &str = "--over-capacity=";
/// Port of probes and metrics by default. The port is OpenTelemetry's default for Prometheus exporters, too.
const METRICS_PORT: u16 = 9464;
/// Variables by which programs in a cluster find its API server.
pub(crate) const API_HOST: &str = "KUBERNETES_SERVICE_HOST";
/// See [`API_HOST`].
pub(crate) const API_PORT: &str = "KUBERNETES_SERVICE_PORT";
/// Repository of the image by default: an archive of `cargo xtask image` is expected on the nodes.
pub const REPOSITORY: &str = "localhost/ringfence";

/// Relation of Ringfence to the cluster's network plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// After it.
    Chained,
    /// As it.
    Primary,
    /// Without any plugin in the nodes' configuration.
    Alone,
}

/// The agents' seccomp profile, in the words of `kubectl`'s annotations of old: `RuntimeDefault`, `Unconfined` or
/// `localhost/FILE`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// The runtime's.
    #[default]
    RuntimeDefault,
    /// None.
    Unconfined,
    /// One in a file below the kubelet's directory of profiles.
    Localhost(String),
}

impl FromStr for Seccomp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            None if text == "RuntimeDefault" => Ok(Self::RuntimeDefault),
            None if text == "Unconfined" => Ok(Self::Unconfined),
            Some(("localhost", file)) if !file.is_empty() => Ok(Self::Localhost(file.to_owned())),
            _ => Err(format!("{text:?} is no profile; hint: RuntimeDefault, Unconfined or localhost/FILE")),
        }
    }
}

impl Seccomp {
    /// As a security context has it.
    fn profile(&self) -> Value {
        match self {
            Self::RuntimeDefault => json!({"type": "RuntimeDefault"}),
            Self::Unconfined => json!({"type": "Unconfined"}),
            Self::Localhost(file) => json!({"type": "Localhost", "localhostProfile": file}),
        }
    }

    /// The profile of a security context; none if there is nothing that is known.
    pub(crate) fn of(profile: &Value) -> Option<Self> {
        let file = || profile["localhostProfile"].as_str().map(str::to_owned);
        match profile["type"].as_str()? {
            "RuntimeDefault" => Some(Self::RuntimeDefault),
            "Unconfined" => Some(Self::Unconfined),
            "Localhost" => file().map(Self::Localhost),
            _ => None,
        }
    }
}

/// Address of the API server: `HOST:PORT`, an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiServer {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl FromStr for ApiServer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not HOST:PORT; hint: 10.0.0.1:6443 or [fd00::1]:6443");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let port = port.parse().ok().filter(|port| *port != 0);
        match (bare.unwrap_or(host), port) {
            (host, Some(port)) if !host.is_empty() && (bare.is_some() || !host.contains(':')) => {
                Ok(Self { host: host.to_owned(), port })
            }
            _ => Err(wrong()),
        }
    }
}

/// Directories of the network of pods on nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniDirs {
    /// Network configurations.
    pub conf: String,
    /// Network plugins.
    pub bin: String,
}

impl Default for CniDirs {
    fn default() -> Self {
        Self { conf: "/etc/cni/net.d".into(), bin: "/opt/cni/bin".into() }
    }
}

/// Choices of an installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values {
    /// Namespace of the agents.
    pub namespace: String,
    /// Image of the agents.
    pub image: String,
    /// When nodes pull it: `Always`, `IfNotPresent`, `Never`.
    pub pull_policy: String,
    /// Relation to the cluster's network plugin.
    pub mode: Mode,
    /// As the network plugin, when packets between nodes go through VXLAN: `cross-subnet` or `always`.
    pub encapsulation: String,
    /// Address of the API server for agents; none: at the cluster's Service for it.
    pub api_server: Option<ApiServer>,
    /// Directories of network configurations and plugins on nodes.
    pub cni: CniDirs,
    /// Mount `/sys/fs/bpf` on nodes that have not, by a privileged container before the agent.
    pub mount_bpf: bool,
    /// TCP port of probes and metrics.
    pub metrics_port: u16,
    /// The agents' seccomp profile.
    pub seccomp: Seccomp,
    /// The agents' SELinux label, as `seLinuxOptions` of a security context.
    pub se_linux: Option<Value>,
    /// Further arguments of the agents.
    pub extra_args: Vec<String>,
    /// `cut` or `drain`: what happens to open connections that a change of policy denies.
    pub connections: String,
    /// `deny` or `keep`: what becomes of pods whose policies do not fit into the kernel maps.
    pub over_capacity: String,
    /// Level of the agents' logs: `error`, `warn`, `info`, `debug`, `trace`.
    pub log_level: String,
    /// `text` or `json`.
    pub log_format: String,
}

impl Default for Values {
    fn default() -> Self {
        Self {
            namespace: NAMESPACE.into(),
            image: default_image(),
            pull_policy: "IfNotPresent".into(),
            mode: Mode::Chained,
            encapsulation: "cross-subnet".into(),
            api_server: None,
            cni: CniDirs::default(),
            mount_bpf: false,
            metrics_port: METRICS_PORT,
            seccomp: Seccomp::default(),
            se_linux: None,
            extra_args: Vec::new(),
            connections: "cut".into(),
            over_capacity: "deny".into(),
            log_level: "info".into(),
            log_format: "text".into(),
        }
    }
}

/// The image of this version.
pub fn default_image() -> String {
    format!("{REPOSITORY}:{}", env!("CARGO_PKG_VERSION"))
}

/// The documents of a YAML text.
pub fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    let written = text.split("\n---").filter(|document| document.lines().any(is_content));
    written.map(|document| serde_saphyr::from_str(document.trim_start_matches("---")).context("a manifest")).collect()
}

fn is_content(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#') && !line.starts_with("---")
}

/// The objects, in the order in which they are to be written.
pub fn objects(values: &Values) -> anyhow::Result<Vec<Value>> {
    let mut objects = documents(RENDERED)?;
    for object in &mut objects {
        place(object, &values.namespace);
        if object["kind"] == "DaemonSet" {
            adapt(object, values).context("the DaemonSet of the chart is not as expected")?;
            if values.mount_bpf {
                object["spec"]["template"]["spec"]["initContainers"] = json!([mount_bpf(values)]);
            }
        }
        if object["kind"] == "ClusterRole" && values.mode == Mode::Primary {
            permit(object).context("the ClusterRole of the chart is not as expected")?;
        }
    }
    Ok(objects)
}

/// Puts an object, and what it refers to, into a namespace.
fn place(object: &mut Value, namespace: &str) {
    if let Some(own) = object.pointer_mut("/metadata/namespace") {
        *own = json!(namespace);
    }
    for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
        subject["namespace"] = json!(namespace);
    }
}

fn adapt(set: &mut Value, values: &Values) -> Option<()> {
    let container = set.pointer_mut("/spec/template/spec/containers/0")?;
    container["image"] = json!(values.image);
    container["imagePullPolicy"] = json!(values.pull_policy);
    let environment = container.get_mut("env")?.as_array_mut()?;
    let level = environment.iter_mut().find(|variable| variable["name"] == "RUST_LOG")?;
    level["value"] = json!(format!("{},kube_client=off", values.log_level));
    if let Some(ApiServer { host, port }) = &values.api_server {
        environment.push(json!({"name": API_HOST, "value": host}));
        environment.push(json!({"name": API_PORT, "value": port.to_string()}));
    }
    let arguments = container.get_mut("args")?.as_array_mut()?;
    let flags = [
        ("--connections=", &values.connections),
        (OVER_CAPACITY, &values.over_capacity),
        ("--log-format=", &values.log_format),
        (CONF_DIR, &values.cni.conf),
        (BIN_DIR, &values.cni.bin),
    ];
    for (flag, value) in flags {
        let argument = arguments.iter_mut().find(|argument| has_prefix(argument, flag))?;
        *argument = json!(format!("{flag}{value}"));
    }
    let metrics = arguments.iter_mut().find(|argument| has_prefix(argument, METRICS))?;
    let address = metrics.as_str()?.rsplit_once(':')?.0;
    *metrics = json!(format!("{address}:{}", values.metrics_port));
    arguments.extend(values.extra_args.iter().map(|argument| json!(argument)));
    if values.mode == Mode::Primary {
        let after = arguments.iter().position(|argument| has_prefix(argument, BIN_DIR))?;
        arguments.insert(after + 1, json!("--primary"));
        arguments.insert(after + 2, json!(format!("{ENCAPSULATION}{}", values.encapsulation)));
    }
    if values.mode == Mode::Alone {
        arguments.retain(|argument| ![CONF_DIR, BIN_DIR].iter().any(|flag| has_prefix(argument, flag)));
    }
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        container[probe]["httpGet"]["port"] = json!(values.metrics_port);
    }
    container["securityContext"]["seccompProfile"] = values.seccomp.profile();
    if let Some(label) = &values.se_linux {
        container["securityContext"]["seLinuxOptions"] = label.clone();
    }
    place_plugin(set, values)
}

/// Puts the node's directories of configurations and plugins in place, or leaves them out.
fn place_plugin(set: &mut Value, values: &Values) -> Option<()> {
    for (volume, path) in [("cni-conf", &values.cni.conf), ("cni-bin", &values.cni.bin)] {
        let named = |list: &'static str| format!("/spec/template/spec/{list}");
        let of = |entry: &&mut Value| entry["name"] == volume;
        for (list, at) in [("containers/0/volumeMounts", "/mountPath"), ("volumes", "/hostPath/path")] {
            let entries = set.pointer_mut(&named(list))?.as_array_mut()?;
            if values.mode == Mode::Alone {
                entries.retain(|entry| entry["name"] != volume);
            } else {
                *entries.iter_mut().find(of)?.pointer_mut(at)? = json!(path);
            }
        }
    }
    Some(())
}

/// The container that mounts `/sys/fs/bpf` on the node: a mount reaches it from a privileged one only.
fn mount_bpf(values: &Values) -> Value {
    json!({
        "name": "mount-bpf", "image": values.image, "imagePullPolicy": values.pull_policy,
        "args": ["mount-bpf"],
        "securityContext": {"privileged": true, "readOnlyRootFilesystem": true},
        "volumeMounts": [{"name": "bpf", "mountPath": "/sys/fs/bpf", "mountPropagation": "Bidirectional"}],
    })
}

/// Permissions of an agent that is its node's network plugin.
fn permit(role: &mut Value) -> Option<()> {
    let rules = [
        json!({"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}),
        json!({"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]}),
    ];
    role.get_mut("rules")?.as_array_mut()?.extend(rules);
    Some(())
}

fn has_prefix(argument: &Value, prefix: &str) -> bool {
    argument.as_str().is_some_and(|text| text.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon_set(values: &Values) -> Value {
        objects(values).unwrap().into_iter().find(|object| object["kind"] == "DaemonSet").unwrap()
    }

    #[test]
    fn every_value_shows() {
        let values = Values {
            namespace: "net".into(),
            image: "registry.example/ringfence:9".into(),
            pull_policy: "Always".into(),
            mode: Mode::Primary,
            encapsulation: "always".into(),
            api_server: Some("[fd00::1]:6443".parse().unwrap()),
            cni: CniDirs { conf: "/k/net.d".into(), bin: "/k/bin".into() },
            mount_bpf: true,
            metrics_port: 9999,
            seccomp: "localhost/ringfence.json".parse().unwrap(),
            se_linux: Some(json!({"type": "spc_t"})),
            extra_args: vec!["--dns-server=10.0.0.9".into()],
            connections: "drain".into(),
            over_capacity: "keep".into(),
            log_level: "debug".into(),
            log_format: "json".into(),
        };
        let text = daemon_set(&values).to_string();
        for part in [
            "registry.example/ringfence:9",
            "Always",
            "--primary",
            "--connections=drain",
            "--over-capacity=keep",
            "debug,",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        for part in
            ["--cni-conf-dir=/k/net.d", "--cni-bin-dir=/k/bin", r#""path":"/k/net.d""#, r#""mountPath":"/k/bin""#]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        for part in ["127.0.0.1:9999", r#""port":9999"#, "ringfence.json", "spc_t", "--dns-server=10.0.0.9"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("9464"), "{text}");
        assert!(!text.contains("/etc/cni") && !text.contains("/opt/cni"));
        for part in ["--encapsulation=always", r#""value":"fd00::1""#, r#""value":"6443""#, "mount-bpf"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let placed = objects(&values).unwrap();
        assert!(placed.iter().all(|object| !object.to_string().contains(NAMESPACE)));
        assert_eq!(placed.iter().filter(|object| object.to_string().contains("\"net\"")).count(), placed.len() - 1);
    }

    #[test]
    fn the_default_is_the_rendered_chart() {
        assert_eq!(objects(&Values::default()).unwrap(), documents(RENDERED).unwrap());
        assert!(!daemon_set(&Values::default()).to_string().contains("--primary"));
    }

    #[test]
    fn where_the_api_server_is_has_host_and_port() {
        let read = |text: &str| text.parse::<ApiServer>().ok().map(|server| (server.host, server.port));
        assert_eq!(read("api.example:6443"), Some(("api.example".into(), 6443)));
        assert_eq!(read("[fd00::1]:443"), Some(("fd00::1".into(), 443)));
        for wrong in ["", "10.0.0.1", ":6443", "[]:6443", "10.0.0.1:0", "10.0.0.1:70000", "fd00::1:6443", "[fd00::1]"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn without_a_plugin_the_agent_sees_nothing_of_the_nodes_configuration() {
        let text = daemon_set(&Values { mode: Mode::Alone, ..Values::default() }).to_string();
        assert!(!text.contains("--cni-") && !text.contains("cni-conf") && !text.contains("cni-bin"), "{text}");
    }

    #[test]
    fn a_profile_is_one_of_three() {
        for text in ["RuntimeDefault", "Unconfined", "localhost/a/b.json"] {
            let profile: Seccomp = text.parse().unwrap();
            assert_eq!(Seccomp::of(&profile.profile()), Some(profile));
        }
        for text in ["", "Localhost", "localhost/", "unconfined", "docker/default"] {
            assert!(text.parse::<Seccomp>().is_err(), "{text}");
        }
    }

    #[test]
    fn documents_are_told_apart_and_comments_are_none() {
        let text = "---\n# Source: x\na: 1\n---\n# nothing\n---\n# y\nb: 2\n";
        assert_eq!(documents(text).unwrap(), [json!({"a": 1}), json!({"b": 2})]);
    }
}
