//! From a pod's specification to how its containers are run: command, environment, files, mounts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod};
use kube::ResourceExt as _;

use crate::container::{Config, DEFAULT_PATH, FileContent, Mount, Streams};
use crate::image::{Image, command_line};

/// Order in which programs look names up: files, then DNS.
const NAME_SERVICES: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n\
    protocols: files\nservices: files\n";

/// Settings that containers of one pod share.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    /// Host name of the pod.
    pub hostname: String,
    /// Addresses of the pod, default family first.
    pub addresses: Vec<IpAddr>,
    /// Name and first address of the node.
    pub node: (String, String),
    /// Address of the cluster's DNS.
    pub dns: Vec<IpAddr>,
    /// Address and port of the Service `kubernetes`.
    pub api: Option<(IpAddr, u16)>,
    /// This program, to be shown inside.
    pub program: PathBuf,
    /// Directory of the pod's volumes.
    pub volumes: PathBuf,
    /// ConfigMaps its containers name, by name.
    pub config_maps: BTreeMap<String, ConfigMap>,
}

/// The configuration of a container, or why it cannot be made.
pub(super) fn configure(
    pod: &Pod,
    container: &Container,
    image: &Image,
    around: &Surroundings,
    attempt: u32,
) -> Result<Config, String> {
    let environment = environment(pod, container, around)?;
    let expand = |words: Option<&Vec<String>>| -> Option<Vec<String>> {
        words.map(|words| words.iter().map(|word| expand(word, &environment)).collect())
    };
    let command =
        command_line(image, expand(container.command.as_ref()).as_deref(), expand(container.args.as_ref()).as_deref());
    let mut files = image.files.clone();
    files.extend(network_files(pod, around));
    let id = |value: Option<i64>| value.and_then(|id| u32::try_from(id).ok());
    let own = container.security_context.as_ref();
    let shared = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    Ok(Config {
        attempt,
        hostname: around.hostname.clone(),
        command,
        environment,
        working_directory: container.working_dir.clone().filter(|dir| !dir.is_empty()).unwrap_or_else(|| "/".into()),
        user: id(own.and_then(|own| own.run_as_user).or_else(|| shared?.run_as_user)),
        group: id(own.and_then(|own| own.run_as_group).or_else(|| shared?.run_as_group)),
        program: around.program.clone(),
        files,
        mounts: mounts(pod, container, around)?,
        streams: Streams {
            stdin: container.stdin == Some(true),
            stdin_once: container.stdin_once == Some(true),
            terminal: container.tty == Some(true),
        },
    })
}

fn environment(pod: &Pod, container: &Container, around: &Surroundings) -> Result<BTreeMap<String, String>, String> {
    let mut environment = BTreeMap::from([
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        ("HOME".to_owned(), "/root".to_owned()),
        ("HOSTNAME".to_owned(), around.hostname.clone()),
    ]);
    if let Some((address, port)) = around.api {
        let host = address.to_string();
        let url = format!("tcp://{}", std::net::SocketAddr::new(address, port));
        for (name, value) in [
            ("KUBERNETES_SERVICE_HOST", host.clone()),
            ("KUBERNETES_SERVICE_PORT", port.to_string()),
            ("KUBERNETES_SERVICE_PORT_HTTPS", port.to_string()),
            ("KUBERNETES_PORT", url.clone()),
            ("KUBERNETES_PORT_443_TCP", url),
            ("KUBERNETES_PORT_443_TCP_ADDR", host),
            ("KUBERNETES_PORT_443_TCP_PORT", port.to_string()),
            ("KUBERNETES_PORT_443_TCP_PROTO", "tcp".to_owned()),
        ] {
            environment.insert(name.to_owned(), value);
        }
    }
    for source in container.env_from.iter().flatten() {
        let Some(reference) = &source.config_map_ref else { continue };
        let prefix = source.prefix.as_deref().unwrap_or_default();
        match around.config_maps.get(&reference.name) {
            Some(map) => environment
                .extend(map.data.iter().flatten().map(|(key, value)| (format!("{prefix}{key}"), value.clone()))),
            None if reference.optional == Some(true) => {}
            None => return Err(format!("configmap {:?} not found", reference.name)),
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(pod, variable, &environment, around)? {
            environment.insert(variable.name.clone(), value);
        }
    }
    Ok(environment)
}

fn value_of(
    pod: &Pod,
    variable: &EnvVar,
    known: &BTreeMap<String, String>,
    around: &Surroundings,
) -> Result<Option<String>, String> {
    let Some(source) = &variable.value_from else {
        return Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), known)));
    };
    if let Some(field) = &source.field_ref {
        return field_of(pod, &field.field_path, around)
            .map(Some)
            .ok_or_else(|| format!("field {:?} of env {:?} is not supported", field.field_path, variable.name));
    }
    if let Some(reference) = &source.config_map_key_ref {
        let found = around.config_maps.get(&reference.name).and_then(|map| map.data.as_ref()?.get(&reference.key));
        return match found {
            Some(value) => Ok(Some(value.clone())),
            None if reference.optional == Some(true) => Ok(None),
            None => Err(format!("couldn't find key {} in ConfigMap {}", reference.key, reference.name)),
        };
    }
    Err(format!("the source of env {:?} is not supported by the lab", variable.name))
}

/// A field of the pod, by the paths the downward API has.
fn field_of(pod: &Pod, path: &str, around: &Surroundings) -> Option<String> {
    let keyed = |prefix: &str| Some(path.strip_prefix(prefix)?.strip_suffix("']")?.to_owned());
    if let Some(key) = keyed("metadata.labels['") {
        return Some(pod.labels().get(&key).cloned().unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations['") {
        return Some(pod.annotations().get(&key).cloned().unwrap_or_default());
    }
    let addresses = || around.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    Some(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "spec.nodeName" => around.node.0.clone(),
        "spec.serviceAccountName" => {
            pod.spec.as_ref()?.service_account_name.clone().unwrap_or_else(|| "default".to_owned())
        }
        "status.hostIP" | "status.hostIPs" => around.node.1.clone(),
        "status.podIP" => addresses().into_iter().next().unwrap_or_default(),
        "status.podIPs" => addresses().join(","),
        _ => return None,
    })
}

/// Replaces `$(NAME)` by the variable's value; `$$` stands for one `$`; unknown names stay as they are.
fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('$') {
        let (before, from) = rest.split_at(start);
        expanded.push_str(before);
        let reference = from.strip_prefix("$(").and_then(|tail| tail.split_once(')'));
        if let Some(tail) = from.strip_prefix("$$") {
            expanded.push('$');
            rest = tail;
        } else if let Some((name, tail)) = reference {
            match known.get(name) {
                Some(value) => expanded.push_str(value),
                None => drop(write!(expanded, "$({name})")),
            }
            rest = tail;
        } else {
            expanded.push('$');
            rest = from.get(1..).unwrap_or_default();
        }
    }
    expanded.push_str(rest);
    expanded
}

/// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`.
fn network_files(pod: &Pod, around: &Surroundings) -> Vec<FileContent> {
    let mut hosts =
        String::from("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n");
    for address in &around.addresses {
        let _ = writeln!(hosts, "{address}\t{}", around.hostname);
    }
    for alias in pod.spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten()) {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        let _ = writeln!(hosts, "{}\t{names}", alias.ip);
    }
    let file = |path: &str, content: String| FileContent { path: path.to_owned(), content, executable: false };
    vec![
        file("/etc/hosts", hosts),
        file("/etc/hostname", format!("{}\n", around.hostname)),
        file("/etc/resolv.conf", resolver(pod, around)),
        // The machine's own may ask services that are not there inside.
        file("/etc/nsswitch.conf", NAME_SERVICES.to_owned()),
    ]
}

fn resolver(pod: &Pod, around: &Surroundings) -> String {
    let namespace = pod.namespace().unwrap_or_else(|| "default".to_owned());
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let extra = spec.and_then(|spec| spec.dns_config.as_ref());
    let (mut servers, mut searches, mut options) = (Vec::new(), Vec::new(), Vec::new());
    if policy == "ClusterFirst" || policy == "ClusterFirstWithHostNet" {
        servers.extend(around.dns.iter().map(ToString::to_string));
        let domain = "cluster.local";
        searches.extend([format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()]);
        options.push("ndots:5".to_owned());
    }
    if let Some(extra) = extra {
        servers.extend(extra.nameservers.iter().flatten().cloned());
        searches.extend(extra.searches.iter().flatten().cloned());
        options.extend(extra.options.iter().flatten().filter_map(|option| {
            let name = option.name.as_ref()?;
            Some(option.value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}:{value}")))
        }));
    }
    let mut text = String::new();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !searches.is_empty() {
        let _ = writeln!(text, "search {}", searches.join(" "));
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

/// Directories of the pod's volumes that a container mounts. They must have been filled by [`fill_volumes`].
fn mounts(pod: &Pod, container: &Container, around: &Surroundings) -> Result<Vec<Mount>, String> {
    let volumes: Vec<&str> =
        pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).map(|volume| volume.name.as_str()).collect();
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        if !volumes.contains(&mount.name.as_str()) {
            return Err(format!("volume {:?} of container {:?} does not exist", mount.name, container.name));
        }
        if mount.sub_path.is_some() || mount.sub_path_expr.is_some() {
            return Err(format!("volumeMount {:?}: subPath is not supported by the lab", mount.name));
        }
        mounts.push(Mount {
            source: around.volumes.join(&mount.name),
            target: mount.mount_path.clone(),
            read_only: mount.read_only == Some(true),
        });
    }
    Ok(mounts)
}

/// Makes the directories of a pod's volumes: empty ones, and ConfigMaps' keys as files.
pub(super) fn fill_volumes(pod: &Pod, directory: &Path, maps: &BTreeMap<String, ConfigMap>) -> Result<(), String> {
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let path = directory.join(&volume.name);
        let io_error = |error: io::Error| format!("volume {:?}: {error}", volume.name);
        fs::create_dir_all(&path).map_err(io_error)?;
        if volume.empty_dir.is_some() {
            continue;
        }
        let Some(source) = &volume.config_map else {
            return Err(format!("volume {:?}: the lab supports emptyDir and configMap volumes only", volume.name));
        };
        let Some(map) = maps.get(&source.name) else {
            if source.optional == Some(true) {
                continue;
            }
            return Err(format!("configmap {:?} not found", source.name));
        };
        for (key, value) in map.data.iter().flatten() {
            let wanted = source.items.as_ref().map(|items| items.iter().find(|item| item.key == *key));
            let name = match wanted {
                None => key.as_str(),
                Some(Some(item)) if !item.path.contains('/') => item.path.as_str(),
                Some(_) => continue,
            };
            fs::write(path.join(name), value).map_err(io_error)?;
        }
    }
    Ok(())
}

/// Names of the ConfigMaps a pod needs.
pub(super) fn needed_config_maps(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| Some(volume.config_map.as_ref()?.name.clone()));
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let variables = containers.flat_map(|container| {
        let keys = container
            .env
            .iter()
            .flatten()
            .filter_map(|variable| Some(variable.value_from.as_ref()?.config_map_key_ref.as_ref()?.name.clone()));
        let whole = container.env_from.iter().flatten();
        keys.chain(whole.filter_map(|source| Some(source.config_map_ref.as_ref()?.name.clone())))
    });
    let mut names: Vec<String> = volumes.chain(variables).collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn around() -> Surroundings {
        Surroundings {
            hostname: "web-0".into(),
            addresses: vec!["10.245.1.2".parse().unwrap()],
            node: ("node-1".into(), "10.89.0.11".into()),
            dns: vec!["10.97.0.10".parse().unwrap()],
            api: Some(("10.97.0.1".parse().unwrap(), 443)),
            program: "/program".into(),
            volumes: "/volumes".into(),
            config_maps: BTreeMap::new(),
        }
    }

    fn pod(container: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web-0", "namespace": "shop", "labels": {"app": "web"}},
            "spec": {"containers": [container]},
        }))
        .unwrap()
    }

    fn configured(container: &serde_json::Value) -> Result<Config, String> {
        let pod = pod(container);
        configure(&pod, &pod.spec.as_ref().unwrap().containers[0], &Image::default(), &around(), 0)
    }

    #[test]
    fn variables_come_from_values_fields_and_each_other() {
        let config =
            configured(&json!({"name": "c", "command": ["echo", "$(WHERE)", "$$(WHERE)", "$(NOT)", "5$"], "env": [
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "WHERE", "value": "$(APP)@$(IP)"},
            ]}))
            .unwrap();
        assert_eq!(config.environment["WHERE"], "web@10.245.1.2");
        assert_eq!(config.command, ["echo", "web@10.245.1.2", "$(WHERE)", "$(NOT)", "5$"]);
        assert_eq!(config.environment["KUBERNETES_SERVICE_HOST"], "10.97.0.1");
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let error = configured(
            &json!({"name": "c", "env": [{"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
        );
        assert_eq!(error.unwrap_err(), "the source of env \"S\" is not supported by the lab");
        let error = configured(&json!({"name": "c", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}));
        assert_eq!(error.unwrap_err(), "volume \"data\" of container \"c\" does not exist");
    }

    #[test]
    fn names_are_searched_in_the_pods_namespace_first() {
        let config = configured(&json!({"name": "c"})).unwrap();
        let content = |path: &str| config.files.iter().find(|file| file.path == path).unwrap().content.clone();
        assert_eq!(
            content("/etc/resolv.conf"),
            "nameserver 10.97.0.10\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
        );
        assert!(content("/etc/hosts").contains("10.245.1.2\tweb-0\n"));
        assert_eq!(content("/etc/hostname"), "web-0\n");
    }
}
