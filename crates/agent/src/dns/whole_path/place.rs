//! A node with a pod, and a world with DNS servers and sites: network namespaces that go when they are dropped.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::{A, CNAME};
use hickory_proto::rr::{Name, RData, Record};
use ringfence_api::Connections;
use ringfence_api::Status;
use ringfence_k8s::convert::Kind;
use ringfence_k8s::watch::Event;
use ringfence_netns::Namespace;
use serde_json::{Value, json};

use crate::core::{Core, Handle, Message as Told, Question};
use crate::dns::{self, Listener, Tell};
use crate::fake::FakeKernel;
use crate::metrics::Meters;
use crate::run::Config;
use crate::tables::Tables;

/// The server that is believed, and one that is not; pods may ask both.
pub(super) const BELIEVED: &str = "192.168.50.2:53";
pub(super) const ROGUE: &str = "192.168.50.3:53";

#[derive(Clone, Copy, Debug)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// A namespace that is deleted in the end.
struct Space(Namespace);

impl Space {
    fn new(test: &str, role: &str) -> Self {
        let space = Self(Namespace::create(&format!("rfdns-{}-{test}-{role}", std::process::id())).unwrap());
        space.sh("ip link set lo up");
        space
    }

    fn sh(&self, line: &str) {
        let output = self.0.run(|| Command::new("sh").args(["-ec", line]).output().unwrap()).unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = Namespace::delete(self.0.name());
    }
}

/// Everything.
pub(super) struct Place {
    core: Handle,
    planning: Option<JoinHandle<()>>,
    /// Whoever learns names, and whoever keeps tables.
    names: (Listener, Option<JoinHandle<()>>),
    tables: (Tables, Option<JoinHandle<()>>),
    pins: PathBuf,
    journal: PathBuf,
    meters: Arc<Meters>,
    node: Space,
    pod: Space,
    world: Space,
}

impl Place {
    /// One for a test. None where this machine cannot have one; says why.
    pub(super) fn new(test: &str) -> Option<Self> {
        let features = ringfence_datapath::features::probe();
        if !features.is_supported() {
            let reasons: Vec<_> = features.missing.iter().map(ToString::to_string).collect();
            assert!(std::env::var_os("CI").is_none(), "this machine must run every test, but: {}", reasons.join("; "));
            println!("skipped: {}", reasons.join("; "));
            return None;
        }
        let (node, pod, world) = (Space::new(test, "node"), Space::new(test, "pod"), Space::new(test, "world"));
        node.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
        for (space, port) in [(&pod, "pod0"), (&world, "up0")] {
            node.sh(&format!(
                "ip link add {port} type veth peer name eth0 netns {0}; ip link set {port} up",
                space.0.name()
            ));
            space.sh("ip link set eth0 up");
        }
        node.sh(
            "ip addr add 192.168.50.1/24 dev up0; ip addr add 10.1.0.1/32 dev pod0; ip route add 10.1.0.2 dev pod0",
        );
        pod.sh("ip addr add 10.1.0.2/32 dev eth0; ip route add 10.1.0.1 dev eth0; ip route add default via 10.1.0.1");
        // Everything but the node itself is an address of the world.
        world.sh("ip addr add 192.168.50.2/24 dev eth0; ip addr add 192.168.50.3/24 dev eth0");
        world.sh("ip route add local 192.168.50.64/26 dev lo; ip route add local 192.168.50.128/25 dev lo");
        world.sh("for n in $(seq 64 255); do ip neigh add proxy 192.168.50.$n dev eth0; done; echo 1 > \
            /proc/sys/net/ipv4/conf/eth0/proxy_arp");
        world.sh("ip route add default via 192.168.50.1");
        for server in [BELIEVED, ROGUE] {
            serve_names(&world, server.parse().unwrap());
        }
        for space in [&world, &pod, &node] {
            serve_sites(space);
        }
        Some(Self::enforce(test, node, pod, world))
    }

    /// Starts what an agent has, on the node.
    fn enforce(test: &str, node: Space, pod: Space, world: Space) -> Self {
        let number = std::process::id();
        let pins = std::env::temp_dir().join(format!("rfdns-{number}-{test}"));
        let journal = std::env::temp_dir().join(format!("rfdns-{number}-{test}.names"));
        let (core, messages) = Handle::channel();
        let config = config(pins.clone());
        let meters = Arc::new(Meters::new());
        let started = node.0.run(|| {
            let (enforcer, _reports) = crate::datapath::open(&config, &core).unwrap();
            let (tables, keeping) = crate::tables::start(&core, Arc::clone(&meters)).unwrap();
            let (names, learning) = dns::start(&core, &journal, Arc::clone(&meters), tables.clone()).unwrap();
            names.tell(Tell::Servers([BELIEVED.parse().unwrap()].into()));
            let mut setup = FakeKernel::default().setup("here", &meters);
            (setup.enforcer, setup.listener) = (enforcer, Some(names.clone()));
            let planning = thread::spawn(move || {
                Core::new(setup).run(&messages);
            });
            (Some(planning), (names, Some(learning)), (tables, Some(keeping)))
        });
        let (planning, names, tables) = started.unwrap();
        let place = Self { core, planning, names, tables, pins, journal, meters, node, pod, world };
        for (kind, object) in objects() {
            place.apply(kind, &object);
        }
        place.event(Event::InSync);
        place
    }

    fn apply(&self, kind: Kind, object: &Value) {
        let (object, diagnostics) = kind.convert(object);
        assert_eq!(diagnostics, []);
        self.event(Event::Apply { object, diagnostics });
    }

    /// Takes the rule about names out of the policy.
    pub(super) fn delete_rule(&self) {
        let mut policy = policy();
        policy["spec"]["egress"].as_array_mut().unwrap().remove(1);
        self.apply(Kind::ClusterNetworkPolicy, &policy);
    }

    fn event(&self, event: Event) {
        self.core.tell(Told::Event { event, received: Instant::now(), waits: None }).unwrap();
    }

    fn status(&self) -> Status {
        self.core.ask_blocking(Question::Status).unwrap()
    }

    /// True if answers are read.
    pub(super) fn learning(&self) -> bool {
        let status = self.status();
        status.ready && status.fqdns.learning
    }

    /// Number of known addresses of names.
    pub(super) fn addresses(&self) -> usize {
        self.status().fqdns.addresses
    }

    /// Number of addresses that are not opened because they are inside of the cluster.
    pub(super) fn withheld(&self) -> usize {
        self.status().fqdns.withheld
    }

    /// Does something inside the pod.
    pub(super) fn in_pod<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pod.0.run(work).unwrap()
    }

    /// Asks a DNS server from the pod.
    pub(super) fn ask(&self, server: &str, transport: Transport, question: &[u8]) -> Vec<u8> {
        const TIMEOUT: Duration = Duration::from_secs(10);
        self.in_pod(|| {
            let mut answer = vec![0; 65_535];
            let length = match transport {
                Transport::Udp => {
                    let socket = UdpSocket::bind("10.1.0.2:0").unwrap();
                    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
                    socket.send_to(question, server).unwrap();
                    socket.recv(&mut answer).unwrap()
                }
                Transport::Tcp => {
                    let mut stream = TcpStream::connect(server).unwrap();
                    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
                    stream.write_all(&framed(question)).unwrap();
                    let mut length = [0; 2];
                    stream.read_exact(&mut length).unwrap();
                    let length = usize::from(u16::from_be_bytes(length));
                    stream.read_exact(&mut answer[..length]).unwrap();
                    length
                }
            };
            answer.truncate(length);
            answer
        })
    }

    /// Asks a DNS server from the pod again and again for some time; says how long each answer took.
    pub(super) fn ask_often(&self, server: &str, question: &[u8], time: Duration, pause: Duration) -> Vec<Duration> {
        self.in_pod(|| {
            let socket = UdpSocket::bind("10.1.0.2:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let (start, mut took, mut answer) = (Instant::now(), Vec::new(), [0; 512]);
            while start.elapsed() < time {
                let asked = Instant::now();
                socket.send_to(question, server).unwrap();
                socket.recv(&mut answer).unwrap();
                took.push(asked.elapsed());
                thread::sleep(pause);
            }
            took
        })
    }

    /// Calls the pod's server from the world. Its answers pass only as answers: its egress is limited.
    pub(super) fn call_pod(&self) -> TcpStream {
        self.call(Duration::from_secs(10)).expect("the pod's ingress is open")
    }

    /// The same, for somebody in a hurry.
    pub(super) fn call_pod_at_once(&self) -> Option<TcpStream> {
        self.call(Duration::from_millis(100))
    }

    fn call(&self, patience: Duration) -> Option<TcpStream> {
        self.world.0.run(|| TcpStream::connect_timeout(&"10.1.0.2:80".parse().unwrap(), patience)).unwrap().ok()
    }

    /// Has whoever learns names end, and waits until they have.
    pub(super) fn stop_learning(&self) {
        self.names.0.tell(Tell::Stop);
        let thread = self.names.1.as_ref().expect("it is taken only in the end");
        eventually("the thread has ended", || thread.is_finished());
    }

    /// Runs a line of shell on the node.
    pub(super) fn on_node(&self, line: &str) {
        self.node.sh(line);
    }

    /// True if this machine has a program.
    pub(super) fn has(&self, program: &str) -> bool {
        self.node
            .0
            .run(|| Command::new("sh").args(["-c", "command -v \"$0\"", program]).output().unwrap())
            .unwrap()
            .status
            .success()
    }

    /// Number of repairs of a component.
    pub(super) fn repairs(&self, what: &str) -> u64 {
        self.meters.mended.repairs().iter().find(|repair| repair.component == what).map_or(0, |repair| repair.count)
    }

    /// Makes connection tracking of the node know so many connections: the node sends datagrams to nobody.
    pub(super) fn track(&self, count: u32) {
        self.node
            .0
            .run(|| {
                let sockets: Vec<_> =
                    (0..=count / 60_000).map(|_| UdpSocket::bind("192.168.50.1:0").unwrap()).collect();
                for number in 0..count {
                    let (socket, port) = (number / 60_000, u16::try_from(1024 + number % 60_000).unwrap());
                    let _refused = sockets[socket as usize].send_to(b"x", ("192.168.50.64", port));
                }
            })
            .unwrap();
    }

    /// Number of tracked connections.
    pub(super) fn tracked(&self) -> u32 {
        let count = || std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap();
        self.node.0.run(count).unwrap().trim().parse().unwrap()
    }

    /// Packets that opened a connection of the pod and had to be sent again.
    pub(super) fn retransmissions(&self) -> u64 {
        let text = self.in_pod(|| std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap());
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let at = names.split(' ').position(|name| name == "TCPSynRetrans").unwrap();
        values.split(' ').nth(at).unwrap().parse().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.core.tell(Told::Stop);
        if let Some(planning) = self.planning.take() {
            let _ = planning.join();
        }
        self.names.0.tell(Tell::Stop);
        if let Some(learning) = self.names.1.take() {
            let _ = learning.join();
        }
        self.tables.0.stop();
        if let Some(keeping) = self.tables.1.take() {
            let _ = keeping.join();
        }
        let _ = self.node.0.run(|| crate::datapath::remove(&self.pins));
        let _ = std::fs::remove_dir(&self.pins);
        let _ = std::fs::remove_file(&self.journal);
    }
}

fn config(pin_dir: PathBuf) -> Config {
    let sizes = [
        ("endpoints", 64),
        ("ipcache", 1024),
        ("ipcache_cidrs", 1024),
        ("policy", 1024),
        ("port_ranges", 1024),
        ("rule_counters", 256),
        ("flows", 1024),
        ("drop_dedup", 256),
    ];
    Config {
        node: "here".into(),
        kubeconfig: None,
        socket: pin_dir.join("unused"),
        pin_dir,
        metrics: None,
        connections: Connections::Cut,
        over_capacity: ringfence_api::OverCapacity::Deny,
        map_sizes: sizes.map(|(map, size)| (map.to_owned(), size)).into(),
        report_allowed: false,
        chain: None,
        primary: None,
        detach: false,
        dns_service: (String::new(), String::new()),
        namespace: String::new(),
        cluster_domain: None,
        dns_servers: Vec::new(),
    }
}

/// A pod may ask for names, go to some, and nowhere else.
fn policy() -> Value {
    json!({
        "metadata": {"name": "names", "uid": "u", "generation": 1},
        "spec": {
            "tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
            "egress": [
                {"action": "Accept", "to": [{"networks": ["192.168.50.2/31"]}],
                 "protocols": [{"udp": {"destinationPort": {"number": 53}}},
                 {"tcp": {"destinationPort": {"number": 53}}}]},
                {"action": "Accept", "to": [{"domainNames": ["*.example.com", "Many.Example.ORG."]}]},
                {"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]},
            ],
        },
    })
}

fn objects() -> Vec<(Kind, Value)> {
    vec![
        (Kind::Namespace, json!({"metadata": {"name": "a"}})),
        (
            Kind::Node,
            json!({"metadata": {"name": "here"}, "spec": {"podCIDRs": ["10.1.0.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.168.50.1"}]}}),
        ),
        (
            Kind::Pod,
            json!({
                "metadata": {"name": "client", "namespace": "a", "uid": "p"}, "spec": {"nodeName": "here"},
                "status": {"phase": "Running", "podIP": "10.1.0.2"},
            }),
        ),
        (Kind::ClusterNetworkPolicy, policy()),
    ]
}

/// Answers names over UDP and TCP until the test program ends: `w3.example.com` is 192.168.50.103.
fn serve_names(world: &Space, at: SocketAddr) {
    let (udp, tcp) = world.0.run(|| (UdpSocket::bind(at).unwrap(), TcpListener::bind(at).unwrap())).unwrap();
    thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = udp.recv_from(&mut question) {
            let _lost = udp.send_to(&answer(&question[..length]), from);
        }
    });
    thread::spawn(move || {
        while let Ok((mut stream, _)) = tcp.accept() {
            let (mut length, mut question) = ([0; 2], [0; 512]);
            if stream.read_exact(&mut length).is_ok() {
                let question = &mut question[..usize::from(u16::from_be_bytes(length))];
                // In two pieces, as long answers come.
                if stream.read_exact(question).is_ok() {
                    let whole = framed(&answer(question));
                    let (head, tail) = whole.split_at(whole.len() / 2);
                    let _ = stream
                        .set_nodelay(true)
                        .and_then(|()| stream.write_all(head))
                        .and_then(|()| stream.write_all(tail));
                }
            }
        }
    });
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
}

fn answer(question: &[u8]) -> Vec<u8> {
    let question = Message::from_vec(question).unwrap();
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    let query = question.queries[0].clone();
    let asked = query.name().to_ascii().to_ascii_lowercase();
    let mut owner = query.name().clone();
    answer.add_query(query);
    let lasts: Vec<u8> = match asked.as_str() {
        "example.com." => vec![90],
        "rogue.example.com." => vec![91],
        // The node itself, and a site.
        "inside.example.com." => vec![1, 95],
        "many.example.org." => {
            let alias = Name::from_ascii("edge.cdn.net.").unwrap();
            answer.add_answer(Record::from_rdata(owner, 300, RData::CNAME(CNAME(alias.clone()))));
            owner = alias;
            (130..250).collect()
        }
        name => vec![100 + name[1..2].parse::<u8>().unwrap()],
    };
    for last in lasts {
        answer.add_answer(Record::from_rdata(owner.clone(), 5, RData::A(A([192, 168, 50, last].into()))));
    }
    answer.to_vec().unwrap()
}

/// Sends back what comes, at port 80 of every address of the world.
fn serve_sites(world: &Space) {
    let listener = world.0.run(|| TcpListener::bind("0.0.0.0:80").unwrap()).unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// True if the other end sends back what it gets.
pub(super) fn echoes(mut stream: &TcpStream) -> bool {
    let mut back = [0; 4];
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"ping"
}

pub(super) fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_mins(1);
    while !is_so() {
        assert!(Instant::now() < end, "not in time: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}
