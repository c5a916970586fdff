//! The agent as the network plugin, with the standard plugins, on nodes of a lab that has no agents of its own.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringfence_lab::place::Place;
use ringfence_netns::Namespace;
use serde_json::{Value, json};

use super::kit::{Lab, Need, can_run, eventually, program, text};

const CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec:
  podSelector: {matchLabels: {app: far}}
  policyTypes: [Ingress]
";

/// A node whose network plugin is an agent of ours.
struct Node<'a> {
    lab: &'a Lab,
    name: String,
    namespace: Namespace,
    directory: PathBuf,
    agent: Child,
}

impl<'a> Node<'a> {
    fn start(lab: &'a Lab, name: &str, encapsulation: &str) -> Self {
        let place = Place::at(lab.directory());
        let namespace = Namespace::open(&place.node_namespace(name)).unwrap();
        let directory = lab.directory().join(format!("primary-{name}"));
        let mut command = Command::new(program("ringfence-agent"));
        command.args(["--primary", "--encapsulation", encapsulation, "--node", name, "--kubeconfig"]);
        command.arg(place.inner_kubeconfig()).arg("--pin-dir").arg(place.bpf_mount().join(format!("primary-{name}")));
        locate(&mut command, &directory);
        std::fs::create_dir_all(&directory).unwrap();
        let log = std::fs::File::create(directory.join("log")).unwrap();
        let agent = namespace.spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log)).unwrap();
        let node = Self { lab, name: name.to_owned(), namespace, directory, agent };
        eventually("the network configuration is there", || node.configuration().is_some());
        node.keep_clear();
        node
    }

    fn configuration(&self) -> Option<Value> {
        let text = std::fs::read(self.directory.join("net.d/00-ringfence.conflist")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Has `host-local` begin behind the addresses that the lab's own kubelet hands out.
    fn keep_clear(&self) {
        let taken = self.directory.join("addresses/ringfence");
        std::fs::create_dir_all(&taken).unwrap();
        let conf = self.configuration().unwrap();
        for (number, range) in conf["plugins"][1]["ipam"]["ranges"].as_array().unwrap().iter().enumerate() {
            let range: ipnet::IpNet = range[0]["subnet"].as_str().unwrap().parse().unwrap();
            let address = range.hosts().nth(100).unwrap().to_string();
            std::fs::write(taken.join(format!("last_reserved_ip.{number}")), address).unwrap();
        }
    }

    /// Connects a pod as a runtime does: each plugin with the result of the one before.
    fn connect(&self, pod: &str) -> Sandbox {
        self.lab.nginx(pod, &self.name, &format!("app={pod}"));
        let uid = self.lab.field(&format!("pod/{pod}"), ".metadata.uid");
        // Uids tell the pods of tests apart that run at once.
        let namespace = Namespace::create(&format!("rf-primary-{uid}")).unwrap();
        let mut sandbox = Sandbox { namespace, addresses: Vec::new() };
        sandbox.namespace.netlink().unwrap().set_up("lo").unwrap();
        let conf = self.configuration().unwrap();
        let mut result = Value::Null;
        for plugin in conf["plugins"].as_array().unwrap() {
            let mut input = plugin.clone();
            (input["cniVersion"], input["name"]) = (conf["cniVersion"].clone(), conf["name"].clone());
            if !result.is_null() {
                input["prevResult"] = result;
            }
            input["runtimeConfig"] = json!({ "portMappings": [] });
            let program = self.directory.join("bin").join(plugin["type"].as_str().unwrap());
            let mut command = Command::new(program);
            command
                .env("CNI_COMMAND", "ADD")
                .env("CNI_CONTAINERID", pod)
                .env("CNI_NETNS", sandbox.namespace.path())
                .env("CNI_IFNAME", "eth0")
                .env("CNI_PATH", self.directory.join("bin"))
                .env(
                    "CNI_ARGS",
                    format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_UID={uid}"),
                );
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = self.namespace.spawn(&mut command).unwrap();
            child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}: {}", plugin["type"], text(&output));
            result = serde_json::from_slice(&output.stdout).unwrap();
        }
        let address = |ip: &Value| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
        sandbox.addresses = result["ips"].as_array().unwrap().iter().map(address).collect();
        sandbox
    }

    /// Stops the agent and takes away what it made.
    fn clean_up(mut self) {
        kill(Pid::from_raw(self.agent.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        self.agent.wait().unwrap();
        let place = Place::at(self.lab.directory());
        let mut command = Command::new(program("ringfence-agent"));
        command.args(["cleanup", "--pin-dir"]).arg(place.bpf_mount().join(format!("primary-{}", self.name)));
        locate(&mut command, &self.directory);
        let status = self.namespace.spawn(&mut command).unwrap().wait().unwrap();
        assert!(status.success());
        let left: Vec<_> = ["net.d", "bin", "addresses"]
            .iter()
            .flat_map(|name| std::fs::read_dir(self.directory.join(name)).into_iter().flatten().flatten())
            .map(|entry| entry.path())
            .collect();
        assert_eq!(left, Vec::<PathBuf>::new());
        let mut netlink = self.namespace.netlink().unwrap();
        assert_eq!(netlink.routes_by(82).unwrap(), []);
        assert!(netlink.links().unwrap().iter().all(|link| !link.name.starts_with("rf-")));
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn locate(command: &mut Command, directory: &Path) {
    command.arg("--socket").arg(directory.join("agent.sock"));
    command.arg("--cni-conf-dir").arg(directory.join("net.d")).arg("--cni-bin-dir").arg(directory.join("bin"));
}

/// A pod's namespace; it goes with the test.
struct Sandbox {
    namespace: Namespace,
    addresses: Vec<IpAddr>,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        Namespace::delete(self.namespace.name()).unwrap();
    }
}

/// As whom another is heard at an address, if it is.
fn heard(server: &Namespace, client: &Namespace, address: IpAddr) -> Option<IpAddr> {
    let listener = server.run(|| TcpListener::bind((address, 0))).unwrap().unwrap();
    let target: SocketAddr = listener.local_addr().unwrap();
    let patience = Duration::from_secs(1);
    let _connection = client.run(|| TcpStream::connect_timeout(&target, patience)).unwrap().ok()?;
    Some(listener.accept().unwrap().1.ip())
}

/// Pods of two nodes, and the nodes, reach each other under their own addresses, and only where policy lets them.
fn pods_have_a_network(test: &str, encapsulation: &str, mtu: u32) {
    if !can_run(&[Need::Root, Need::Kernel, Need::Kubectl, Need::Plugins]) {
        return;
    }
    let lab = Lab::up(test, &["--nodes", "2", "--dual-stack", "--without-agents"]);
    let nodes = ["node-1", "node-2"].map(|name| Node::start(&lab, name, encapsulation));
    let ([near, far], other) =
        ([(0, "near"), (1, "far")].map(|(node, pod)| nodes[node].connect(pod)), &nodes[0].namespace);
    assert_eq!(near.namespace.netlink().unwrap().find_link("eth0").unwrap().unwrap().mtu, mtu);
    assert_eq!(far.addresses.len(), 2);
    for closed in [false, true, false] {
        let verb = if closed { "apply -f -" } else { "delete --ignore-not-found -f -" };
        lab.must_with(verb, CLOSED);
        for (own, address) in near.addresses.iter().zip(&far.addresses) {
            let expected = (!closed).then_some(*own);
            eventually("a pod of another node is heard as policy says", || {
                heard(&far.namespace, &near.namespace, *address) == expected
            });
            assert_eq!(heard(&far.namespace, other, *address).is_some(), !closed, "another node → {address}");
            assert!(heard(&far.namespace, &nodes[1].namespace, *address).is_some(), "its own node → {address}");
        }
    }
    lab.must("delete node node-2");
    let range = lab.field("node/node-1", ".spec.podCIDRs[0]");
    eventually("only the node's own range is left", || {
        let routes = nodes[0].namespace.netlink().unwrap().routes_by(82).unwrap();
        let of_family: Vec<_> = routes.iter().filter(|route| route.destination.addr().is_ipv4()).collect();
        of_family.len() == 1 && of_family[0].destination.to_string() == range
    });
    drop((near, far));
    nodes.into_iter().for_each(Node::clean_up);
    lab.down();
}

#[test]
fn standard_plugins_and_routes_are_a_network() {
    pods_have_a_network("primary", "cross-subnet", 1500);
}

#[test]
fn standard_plugins_and_vxlan_are_a_network() {
    pods_have_a_network("primary-vxlan", "always", 1450);
}
