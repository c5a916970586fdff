//! `kill -9` of every process of ours in turn, in the middle of changes, leaves no wrong verdict behind.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringfence_lab::place::Place;
use ringfence_lab::process::in_network_namespace;
use ringfence_netns::Namespace;

use super::kit::{Lab, Need, can_run, eventually, program, reaches_from, text};

const DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec:
  podSelector: {matchLabels: {app: server}}
  policyTypes: [Ingress]
";

const FRIENDS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends}
spec:
  podSelector: {matchLabels: {app: server}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}]}]
";

/// Processes of this lab that run our program: what they were started as, and their ids.
pub(crate) fn ours(lab: &Lab) -> BTreeMap<String, Vec<i32>> {
    let (serves, guards) = (program("ringfence-lab"), Place::at(lab.directory()).agent_program());
    let directory = lab.directory().as_os_str().as_bytes();
    let mut found: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
        let Ok(program) = std::fs::read_link(entry.path().join("exe")) else { continue };
        if program != serves && program != guards {
            continue;
        }
        let (command, environment) = (read("cmdline"), read("environ"));
        let mentions = |text: &[u8]| text.windows(directory.len()).any(|window| window == directory);
        if mentions(&command) || mentions(&environment) {
            let words: Vec<_> = command.split(|byte| *byte == 0).skip(1).map(String::from_utf8_lossy).collect();
            let words = if program == guards { format!("agent {}", words.join(" ")) } else { words.join(" ") };
            found.entry(words.trim().to_owned()).or_default().push(pid);
        }
    }
    found
}

/// Processes of our program inside pods, under its path there: the cluster's DNS, and images built in.
fn inside_pods(lab: &Lab) -> Vec<(String, i32)> {
    let prefix = Place::at(lab.directory()).prefix().to_owned();
    let mut found = Vec::new();
    for name in Namespace::list(&format!("{prefix}pod-")).unwrap() {
        for process in in_network_namespace(Namespace::open(&name).unwrap().inode().unwrap()) {
            let line = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if let Some((_, command)) = line.split_once("/.ringfence ") {
                found.push((command.trim().to_owned(), process.pid));
            }
        }
    }
    found
}

pub(super) fn strike(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    eventually("the process is gone", || !Path::new(&format!("/proc/{pid}/cmdline")).exists());
}

pub(super) fn agents(lab: &Lab) -> Vec<(String, i32)> {
    let all = ours(lab).into_iter().filter(|(command, _)| command.starts_with("agent "));
    all.flat_map(|(command, pids)| pids.into_iter().map(move |pid| (command.clone(), pid))).collect()
}

/// Three pods on two nodes; returns the address of the server.
fn three_pods(lab: &Lab) -> String {
    lab.nginx("server", "node-2", "app=server");
    lab.nginx("friend", "node-1", "role=friend");
    lab.nginx("stranger", "node-2", "role=stranger");
    lab.ready(&["server", "friend", "stranger"]);
    lab.field("pod/server", ".status.podIP")
}

#[test]
fn a_killed_agent_leaves_enforcement_standing_and_its_successor_catches_up() {
    if !can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        return;
    }
    let lab = Lab::up("agents", &["--nodes", "2"]);
    let server = three_pods(&lab);
    let count = agents(&lab).len();
    assert_eq!(count, 2, "one agent on each node: {:?}", ours(&lab));

    for (command, pid) in agents(&lab) {
        lab.must_with("apply -f -", DENY);
        lab.settles("friend", &server, false);
        strike(pid);
        assert_eq!(lab.reaches("friend", &server), Ok(false), "{command} is dead, its policy is not");
        // Changes while it is dead or coming back.
        lab.must_with("apply -f -", FRIENDS);
        lab.must("delete networkpolicy deny");
        lab.settles("friend", &server, true);
        lab.settles("stranger", &server, false);
        eventually("every node has an agent again", || agents(&lab).len() == count);
        lab.must("delete networkpolicy friends");
        lab.settles("stranger", &server, true);
    }

    // Struck while changes are on their way to it.
    for round in 0..4 {
        for (_, pid) in agents(&lab) {
            lab.must_with("apply -f -", if round % 2 == 0 { DENY } else { FRIENDS });
            strike(pid);
        }
        lab.must("delete networkpolicy --all");
        lab.must_with("apply -f -", FRIENDS);
        eventually("every node has an agent again", || agents(&lab).len() == count);
        lab.settles("friend", &server, true);
        lab.settles("stranger", &server, false);
    }
    lab.down();
}

/// True if a pod gets the page of another, asked from inside its network namespace: without API and kubelet.
fn reaches_without_api(lab: &Lab, uid: &str, address: &str) -> bool {
    let namespace = Namespace::open(&Place::at(lab.directory()).pod_namespace(uid)).unwrap();
    // Refused is what a server being started again says.
    reaches_from(&namespace, address) == Ok(true)
}

/// Three pods, and the server hears its friend alone. Returns the server's address.
fn three_pods_of_friends(lab: &Lab) -> String {
    let server = three_pods(lab);
    lab.must_with("apply -f -", FRIENDS);
    lab.settles("friend", &server, true);
    lab.settles("stranger", &server, false);
    server
}

#[test]
fn a_killed_lab_process_leaves_enforcement_standing_and_is_taken_over() {
    if !can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        return;
    }
    let lab = Lab::up("serve", &["--nodes", "2"]);
    let server = three_pods_of_friends(&lab);
    let uid = |pod: &str| lab.field(&format!("pod/{pod}"), ".metadata.uid");
    let (friend, stranger) = (uid("friend"), uid("stranger"));

    for round in 0..2 {
        // Struck while a change is under way; which of the two states it leaves is known after the next `up`.
        let change = if round == 0 { "delete networkpolicy friends" } else { "delete networkpolicy deny" };
        std::thread::scope(|scope| {
            scope.spawn(|| lab.kubectl(change));
            let all = ours(&lab);
            let serve = all.iter().find(|(command, _)| command.starts_with("serve ")).expect("it serves").1[0];
            strike(serve);
        });
        let gone = |uid: &str| reaches_without_api(&lab, uid, &server);
        let (before, after) = (gone(&stranger), gone(&stranger));
        assert_eq!(before, after, "nothing changes while nobody changes anything");

        let up = lab.command("up").args(["--nodes", "2"]).output().unwrap();
        assert!(up.status.success(), "lab up again: {}", text(&up));
        // The objects are what the API kept; the verdicts must be what they say.
        let policies = lab.must("get networkpolicies -o name");
        let denied = policies.contains("/deny");
        let isolated = denied || policies.contains("/friends");
        lab.settles("stranger", &server, !isolated);
        lab.settles("friend", &server, !denied);
        lab.must("delete networkpolicy --all");
        lab.settles("stranger", &server, true);
        lab.must_with("apply -f -", DENY);
        lab.settles("friend", &server, false);
        assert!(!reaches_without_api(&lab, &friend, &server));
    }
    lab.down();
}

/// True if a pod ever gets a page of another while something else goes on. Asked without API and kubelet.
fn never_reaches_while(lab: &Lab, uid: &str, address: &str, during: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !over.load(Ordering::Relaxed) {
                // A refusal (the server is being started again) is no page either.
                let namespace = Namespace::open(&Place::at(lab.directory()).pod_namespace(uid)).unwrap();
                assert_ne!(reaches_from(&namespace, address), Ok(true), "a stranger was let through");
                asked += 1;
            }
            asked
        });
        // The other thread must end whatever happens here.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(during));
        over.store(true, Ordering::Relaxed);
        let asked = asking.join();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
        assert!(asked.unwrap() > 0, "it was asked at least once");
    });
}

/// Every process of ours, one after the other: agents, the shim and the first process of each container (the cluster's
/// DNS is among them) and what runs inside, and last the lab's own, which is then started again.
#[test]
fn no_process_that_dies_in_the_middle_of_changes_lets_anybody_through() {
    if !can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        return;
    }
    let lab = Lab::up("each", &["--nodes", "2"]);
    let server = three_pods_of_friends(&lab);
    let uid = |pod: &str| lab.field(&format!("pod/{pod}"), ".metadata.uid");
    let (friend, stranger) = (uid("friend"), uid("stranger"));

    let kinds = || {
        let all = ours(&lab);
        let (serve, mut others): (Vec<_>, Vec<_>) = all
            .into_iter()
            .flat_map(|(command, pids)| pids.into_iter().map(move |pid| (command.clone(), pid)))
            .partition(|(command, _)| command.starts_with("serve "));
        others.extend(inside_pods(&lab));
        others.extend(serve);
        others
    };
    let first = kinds();
    for needed in ["agent ", "lab-container ", "lab-init ", "lab-image dns", "serve "] {
        assert!(first.iter().any(|(command, _)| command.starts_with(needed)), "{needed}: {first:#?}");
    }
    // Both policies keep the stranger out, so no moment between them may let it in.
    never_reaches_while(&lab, &stranger, &server, || {
        for (round, (command, pid)) in first.into_iter().enumerate() {
            let (make, unmake) = if round % 2 == 0 { (DENY, "friends") } else { (FRIENDS, "deny") };
            std::thread::scope(|scope| {
                // Refused only while nobody serves.
                scope.spawn(|| {
                    if lab.kubectl_with("apply -f -", make).status.success() {
                        lab.kubectl(&format!("delete networkpolicy {unmake}"));
                    }
                });
                // One may have been taken along by another.
                let _gone_already = kill(Pid::from_raw(pid), Signal::SIGKILL);
            });
            if command.starts_with("serve ") {
                let up = lab.command("up").args(["--nodes", "2"]).output().unwrap();
                assert!(up.status.success(), "lab up again: {}", text(&up));
            }
            lab.must_with("apply -f -", make);
            lab.must(&format!("delete networkpolicy {unmake} --ignore-not-found"));
        }
    });
    // And at the end all verdicts are what the policies say, names included.
    lab.must_with("apply -f -", FRIENDS);
    lab.must("delete networkpolicy deny --ignore-not-found");
    eventually("every node has an agent again", || agents(&lab).len() == 2);
    eventually("the friend gets through", || reaches_without_api(&lab, &friend, &server));
    lab.settles("stranger", &server, false);
    lab.must("expose pod server --port=80");
    eventually("names are answered", || lab.reaches("friend", "server.default") == Ok(true));
    lab.down();
}

#[test]
fn killed_containers_come_back_under_the_same_policy() {
    if !can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        return;
    }
    let lab = Lab::up("pods", &["--nodes", "2"]);
    three_pods_of_friends(&lab);
    let pods =
        ours(&lab).into_iter().filter(|(command, _)| !command.starts_with("agent ") && !command.starts_with("serve "));
    let struck: Vec<i32> = pods.flat_map(|(_, pids)| pids).collect();
    assert!(!struck.is_empty(), "something of ours holds the containers: {:?}", ours(&lab));
    for pid in struck {
        // One may have taken another with it.
        let _gone_already = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    lab.must_with("apply -f -", DENY);
    lab.must("delete networkpolicy deny");
    let address = || lab.field("pod/server", ".status.podIP");
    eventually("the server answers its friend again", || lab.reaches("friend", &address()) == Ok(true));
    lab.settles("stranger", &address(), false);
    lab.settles("friend", &address(), true);
    lab.down();
}
