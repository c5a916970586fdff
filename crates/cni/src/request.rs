//! The runtime's request in the environment (CNI specification, section 2, "Parameters").

use crate::Error;

/// The command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect a container.
    Add,
    /// Disconnect it.
    Del,
    /// See whether it still is connected.
    Check,
    /// Forget everything but what is listed.
    Gc,
    /// Could an `ADD` succeed?
    Status,
    /// The supported versions.
    Version,
}

/// The pod a container is the sandbox of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its unique id.
    pub uid: String,
}

/// A request as the environment tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The command.
    pub command: Command,
    /// The sandbox.
    pub container: String,
    /// Path of its network namespace.
    pub netns: String,
    /// Name of the interface in it.
    pub interface: String,
    /// Further arguments, `KEY=VALUE;…`.
    args: String,
}

impl Request {
    /// Reads the environment through `variable`. Errors name the variable.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let command = match variable("CNI_COMMAND").as_deref() {
            Some("ADD") => Command::Add,
            Some("DEL") => Command::Del,
            Some("CHECK") => Command::Check,
            Some("GC") => Command::Gc,
            Some("STATUS") => Command::Status,
            Some("VERSION") => Command::Version,
            other => {
                let why = format!("{:?} is not a command", other.unwrap_or_default());
                return Err(Error::Environment { variable: "CNI_COMMAND", why });
            }
        };
        let text = |name| variable(name).unwrap_or_default();
        let request = Self {
            command,
            container: text("CNI_CONTAINERID"),
            netns: text("CNI_NETNS"),
            interface: text("CNI_IFNAME"),
            args: text("CNI_ARGS"),
        };
        request.complete()?;
        Ok(request)
    }

    /// True if everything is there that the command needs.
    fn complete(&self) -> Result<(), Error> {
        let netns = matches!(self.command, Command::Add | Command::Check);
        let sandbox = netns || self.command == Command::Del;
        let needed = [
            ("CNI_CONTAINERID", &self.container, sandbox),
            ("CNI_IFNAME", &self.interface, sandbox),
            ("CNI_NETNS", &self.netns, netns),
        ];
        match needed.into_iter().find(|(_, value, needed)| *needed && value.is_empty()) {
            Some((variable, ..)) => Err(Error::Environment { variable, why: "is not set".into() }),
            None => Ok(()),
        }
    }

    /// True if it is about a container that is no pod. Kubernetes' runtimes name the pod with every container.
    pub fn is_of_no_pod(&self) -> bool {
        let of_a_container = matches!(self.command, Command::Add | Command::Check | Command::Del);
        of_a_container && !self.args.split(';').any(|pair| pair.starts_with("K8S_POD_"))
    }

    /// The pod, as Kubernetes' runtimes tell it (`K8S_POD_NAMESPACE`, `K8S_POD_NAME`, `K8S_POD_UID`).
    pub fn pod(&self) -> Result<Pod, Error> {
        let value = |key: &str| {
            let pairs = self.args.split(';').filter_map(|pair| pair.split_once('='));
            let value = pairs.filter(|(name, _)| *name == key).map(|(_, value)| value).next_back();
            value.filter(|value| !value.is_empty()).map(str::to_owned).ok_or_else(|| Error::Environment {
                variable: "CNI_ARGS",
                why: format!("{key} is not in it: whose policy to wait for is not known"),
            })
        };
        Ok(Pod { namespace: value("K8S_POD_NAMESPACE")?, name: value("K8S_POD_NAME")?, uid: value("K8S_POD_UID")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Request, Error> {
        Request::read(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn each_command_needs_its_variables() {
        assert!(read(&[]).unwrap_err().to_string().starts_with("CNI_COMMAND"));
        assert!(read(&[("CNI_COMMAND", "JUMP")]).unwrap_err().to_string().contains("JUMP"));
        let sandbox = [("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "eth0")];
        for (command, netns) in [("ADD", true), ("CHECK", true), ("DEL", false)] {
            let with = |extra: &[(&'static str, &'static str)]| {
                read(&[&[("CNI_COMMAND", command)][..], extra, &sandbox].concat())
            };
            assert_eq!(with(&[]).is_err(), netns, "{command}");
            assert!(with(&[("CNI_NETNS", "/run/netns/x")]).is_ok(), "{command}");
            assert!(read(&[("CNI_COMMAND", command)]).is_err(), "{command}");
        }
        for command in ["GC", "STATUS", "VERSION"] {
            assert!(read(&[("CNI_COMMAND", command)]).is_ok(), "{command}");
        }
    }

    #[test]
    fn the_pod_is_in_the_arguments() {
        let args =
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u=1";
        let request = read(&[("CNI_COMMAND", "GC"), ("CNI_ARGS", args)]).unwrap();
        let pod = Pod { namespace: "a".into(), name: "web-0".into(), uid: "u=1".into() };
        assert_eq!(request.pod().unwrap(), pod);
        let request = read(&[("CNI_COMMAND", "GC"), ("CNI_ARGS", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=web-0")]).unwrap();
        assert!(request.pod().unwrap_err().to_string().contains("K8S_POD_UID"));
    }
}
