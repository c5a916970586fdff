//! Commands of the tour, as values.

use std::collections::HashMap;

use super::blocks::Blocks;

/// Seconds after which the tour gives a packet up.
pub(super) const PATIENCE: &str = "2";

/// A command of the tour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// `kubectl create namespace`.
    CreateNamespace(&'static str),
    /// `kubectl create deployment nginx --image=nginx`.
    CreateDeployment(&'static str),
    /// `kubectl expose deployment nginx --port=80`.
    Expose(&'static str),
    /// `kubectl run NAME --image=nginx`.
    Run(Pod),
    /// `kubectl get nodes`.
    GetNodes,
    /// `kubectl get pods`.
    GetPods(Listing),
    /// `curl` from a pod to somewhere.
    Curl {
        /// The pod it runs in.
        from: Pod,
        /// Target of the probe.
        to: Target,
    },
    /// `kubectl apply -f`.
    Apply(&'static Manifest),
    /// `kubectl delete -f`.
    Delete(&'static Manifest),
    /// `kubectl patch clusternetworkpolicy`.
    Patch {
        /// Its name.
        name: &'static str,
        /// Format of the patch.
        style: PatchStyle,
        /// JSON.
        patch: &'static str,
    },
    /// `kubectl label namespaces`.
    LabelNamespace {
        /// Its identity.
        namespace: &'static str,
        /// Key and value.
        label: (&'static str, &'static str),
    },
    /// `kubectl label pod`.
    LabelPod {
        /// Its identity.
        pod: Pod,
        /// Key and value.
        label: (&'static str, &'static str),
    },
}

/// A pod of the tour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pod {
    /// The one of the deployment `nginx` in this namespace; its name is the cluster's choice.
    Nginx(&'static str),
    /// One of its own: namespace and name.
    Named(&'static str, &'static str),
}

impl Pod {
    /// The namespace it is in.
    pub(super) fn namespace(self) -> &'static str {
        match self {
            Self::Nginx(namespace) | Self::Named(namespace, _) => namespace,
        }
    }
}

/// Target of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The address of a pod.
    Pod(Pod),
    /// The address of the pod that is there by the policy about addresses.
    Reach(Reach),
    /// A name the cluster's DNS knows.
    Host(&'static str),
}

/// Relation of a pod's address to the policy about addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// In its block.
    Inside,
    /// In its block, but excepted.
    Excepted,
    /// Outside its block.
    Outside,
}

/// Format of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PatchStyle {
    /// Members to set.
    Merge,
    /// Operations.
    Json,
}

/// The pods whose addresses the policy about addresses tells apart.
pub(super) const REACHED: [Pod; 3] =
    [Pod::Nginx("namespace-b"), Pod::Nginx("namespace-c"), Pod::Named("namespace-b", "other")];

/// Pods, and their columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listing {
    /// Namespace; none for all.
    pub(super) namespace: Option<&'static str>,
    /// With addresses and nodes.
    pub(super) wide: bool,
    /// With labels.
    pub(super) labels: bool,
}

/// A file the tour applies.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Its name.
    pub(super) file: &'static str,
    /// Its text; in the policy about addresses, [`BLOCK`] and [`EXCEPT`] stand for them.
    pub(super) text: &'static str,
}

/// Stands for a block of addresses.
const BLOCK: &str = "BLOCK";
/// Stands for what is excepted from it.
const EXCEPT: &str = "EXCEPT";

impl Manifest {
    fn has_addresses(&self) -> bool {
        self.text.contains(BLOCK)
    }

    /// Manifest to apply, with the addresses of this cluster.
    pub(super) fn text(&self, names: &Names) -> String {
        match names.blocks().filter(|_| self.has_addresses()) {
            Some(blocks) => {
                self.text.replace(BLOCK, &blocks.block.to_string()).replace(EXCEPT, &blocks.except.to_string())
            }
            None => self.text.to_owned(),
        }
    }
}

/// Name and address of the pods as the cluster has chosen them.
#[derive(Clone, Debug, Default)]
pub(super) struct Names(pub(super) HashMap<Pod, (String, String)>);

impl Names {
    /// The name of a pod, or what stands for it as long as it has none.
    pub(super) fn name(&self, pod: Pod) -> &str {
        match (self.0.get(&pod), pod) {
            (Some((name, _)), _) => name,
            (None, Pod::Named(_, name)) => name,
            (None, Pod::Nginx(_)) => "POD",
        }
    }

    /// The block around the addresses of the [`REACHED`], once they are known.
    fn blocks(&self) -> Option<Blocks> {
        let address = |pod| self.0.get(&pod).and_then(|(_, address)| address.parse().ok());
        let [one, two, three] = REACHED.map(address);
        Blocks::around([one?, two?, three?])
    }

    /// Address for `curl`.
    pub(super) fn url(&self, target: Target) -> String {
        match target {
            Target::Host(host) => format!("http://{host}/"),
            Target::Reach(reach) => match self.blocks() {
                Some(blocks) => self.url(Target::Pod(REACHED[blocks.roles[reach as usize]])),
                None => "http://POD_IP/".to_owned(),
            },
            Target::Pod(pod) => match self.0.get(&pod).map(|(_, address)| address.as_str()) {
                Some(v6) if v6.contains(':') => format!("http://[{v6}]/"),
                Some(address) => format!("http://{address}/"),
                None => "http://POD_IP/".to_owned(),
            },
        }
    }
}

impl Request {
    /// The pods whose names and addresses must be known to make it.
    pub(super) fn pods(&self) -> Vec<Pod> {
        match self {
            Self::Curl { from, to: Target::Pod(to) } => vec![*from, *to],
            Self::Curl { from, to: Target::Reach(_) } => [&[*from], &REACHED[..]].concat(),
            Self::Apply(manifest) | Self::Delete(manifest) if manifest.has_addresses() => REACHED.to_vec(),
            Self::Curl { from: pod, to: Target::Host(_) } | Self::LabelPod { pod, .. } => vec![*pod],
            _ => Vec::new(),
        }
    }

    /// True if it changes nothing, and may be made again until what is expected is seen.
    pub(super) fn looks_only(&self) -> bool {
        matches!(self, Self::GetNodes | Self::GetPods(_) | Self::Curl { .. })
    }

    /// The file it reads.
    pub(super) fn manifest(&self) -> Option<&'static Manifest> {
        match self {
            Self::Apply(manifest) | Self::Delete(manifest) => Some(manifest),
            _ => None,
        }
    }

    /// The command line a person would type.
    pub(super) fn typed(&self, names: &Names) -> String {
        let quoted = |word: String| {
            let plain = !word.contains(['{', '[', '"', ' ', '*', '$']) || word.starts_with("http");
            if plain { word } else { format!("'{word}'") }
        };
        let line = self.kubectl(names).into_iter().map(quoted).collect::<Vec<_>>().join(" ");
        match (self, names.blocks()) {
            (Self::Apply(manifest), Some(Blocks { block, except, .. })) if manifest.has_addresses() => {
                format!("{line}   # {block} except {except}")
            }
            _ => line,
        }
    }

    /// The command to run in the pod.
    pub(super) fn curl(to: Target, names: &Names) -> Vec<String> {
        ["curl", "-sSi", "--max-time", PATIENCE, &names.url(to)].map(str::to_owned).to_vec()
    }

    /// The arguments of kubectl that make it.
    pub(super) fn kubectl(&self, names: &Names) -> Vec<String> {
        let pair = |(key, value): &(&str, &str)| format!("{key}={value}");
        let words: Vec<&str> = match self {
            Self::CreateNamespace(name) => vec!["create", "namespace", name],
            Self::CreateDeployment(namespace) => {
                vec!["create", "deployment", "nginx", "--image=nginx", "-n", namespace]
            }
            Self::Expose(namespace) => vec!["expose", "deployment", "nginx", "--port=80", "-n", namespace],
            Self::Run(pod) => vec!["run", names.name(*pod), "--image=nginx", "-n", pod.namespace()],
            Self::GetNodes => vec!["get", "nodes"],
            Self::GetPods(listing) => return listing.kubectl(),
            Self::Curl { from, to } => {
                let mut words = ["-n", from.namespace(), "exec", names.name(*from), "--"].map(str::to_owned).to_vec();
                words.extend(Self::curl(*to, names));
                return words;
            }
            Self::Apply(manifest) => vec!["apply", "-f", manifest.file],
            Self::Delete(manifest) => vec!["delete", "-f", manifest.file],
            Self::Patch { name, style, patch } => {
                let style = match style {
                    PatchStyle::Merge => "--type=merge",
                    PatchStyle::Json => "--type=json",
                };
                vec!["patch", "clusternetworkpolicy", name, style, "-p", patch]
            }
            Self::LabelNamespace { namespace, label } => {
                return ["label", "namespaces", namespace]
                    .map(str::to_owned)
                    .into_iter()
                    .chain([pair(label)])
                    .collect();
            }
            Self::LabelPod { pod, label } => {
                let words = ["label", "-n", pod.namespace(), "pod", names.name(*pod)];
                return words.map(str::to_owned).into_iter().chain([pair(label)]).collect();
            }
        };
        words.into_iter().map(str::to_owned).collect()
    }
}

impl Listing {
    fn kubectl(self) -> Vec<String> {
        let mut words = vec!["get", "pods"];
        match self.namespace {
            Some(namespace) => words.extend(["-n", namespace]),
            None => words.push("-A"),
        }
        if self.wide {
            words.extend(["-o", "wide"]);
        }
        if self.labels {
            words.push("--show-labels");
        }
        words.into_iter().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_those_of_the_walkthrough() {
        let (a, b) = (Pod::Nginx("namespace-a"), Pod::Nginx("namespace-b"));
        let mut names = Names::default();
        names.0.insert(a, ("nginx-1".to_owned(), "10.0.0.1".to_owned()));
        names.0.insert(b, ("nginx-2".to_owned(), "fd00::2".to_owned()));
        let check = |request: Request, command: &str| assert_eq!(request.kubectl(&names).join(" "), command);
        check(Request::CreateNamespace("namespace-a"), "create namespace namespace-a");
        check(Request::CreateDeployment("namespace-a"), "create deployment nginx --image=nginx -n namespace-a");
        check(Request::Expose("namespace-a"), "expose deployment nginx --port=80 -n namespace-a");
        let wide = Listing { namespace: None, wide: true, labels: false };
        check(Request::GetPods(wide), "get pods -A -o wide");
        let labels = Listing { namespace: Some("namespace-b"), wide: false, labels: true };
        check(Request::GetPods(labels), "get pods -n namespace-b --show-labels");
        let curl = |to| Request::Curl { from: a, to };
        check(curl(Target::Pod(b)), "-n namespace-a exec nginx-1 -- curl -sSi --max-time 2 http://[fd00::2]/");
        check(
            curl(Target::Host("nginx.namespace-b")),
            "-n namespace-a exec nginx-1 -- curl -sSi --max-time 2 http://nginx.namespace-b/",
        );
        let patch = Request::Patch { name: "x", style: PatchStyle::Merge, patch: r#"{"spec":{"priority":20}}"# };
        let typed = r#"patch clusternetworkpolicy x --type=merge -p '{"spec":{"priority":20}}'"#;
        assert_eq!(patch.typed(&names), typed);
        let label = Request::LabelPod { pod: b, label: ("environment", "QA") };
        check(label, "label -n namespace-b pod nginx-2 environment=QA");
        let label = Request::LabelNamespace { namespace: "namespace-a", label: ("ns", "namespacea") };
        check(label, "label namespaces namespace-a ns=namespacea");
    }

    #[test]
    fn addresses_are_those_of_the_cluster() {
        static MANIFEST: Manifest = Manifest { file: "x.yaml", text: "cidr: BLOCK\nexcept: [EXCEPT]\n" };
        let addresses = ["10.0.1.2", "10.0.2.2", "10.0.1.3"];
        let known = REACHED.into_iter().zip(addresses);
        let names = Names(known.map(|(pod, address)| (pod, ("x".to_owned(), address.to_owned()))).collect());
        assert_eq!(MANIFEST.text(&names), "cidr: 10.0.1.2/31\nexcept: [10.0.1.3/32]\n");
        let typed = "apply -f x.yaml   # 10.0.1.2/31 except 10.0.1.3/32";
        assert_eq!(Request::Apply(&MANIFEST).typed(&names), typed);
        let urls = [Reach::Inside, Reach::Excepted, Reach::Outside].map(|reach| names.url(Target::Reach(reach)));
        assert_eq!(urls, ["http://10.0.1.2/", "http://10.0.1.3/", "http://10.0.2.2/"]);
        assert_eq!(Names::default().url(Target::Reach(Reach::Inside)), "http://POD_IP/");
    }
}
