//! Damage to pins and links by other programs removes no policy while an agent lives, and is repaired.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use libbpf_rs::Link;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use ringfence_datapath::{Datapath, Repairs};

use crate::kit::net::{Joint, Net, WORLD, address};
use crate::kit::plan::Hand;
use crate::kit::talk::{Datagrams, Echo, Flood, Sink, is_refused, reaches};
use ringfence_engine::Plan;
use ringfence_model::Protocol;

/// The world may reach UDP port 80 of the pod and nothing else.
fn guarded() -> Plan {
    let hand = Hand::default().endpoint(&address(2), 100, 0).isolated(100, 1000).peer(WORLD, 50);
    hand.allow(100, 50, &[(Protocol::UDP, 80)], 1001, 1000).plan
}

/// Returns the directories with this prefix, and the pins in them.
fn pins(net: &Net, prefix: &str) -> Vec<PathBuf> {
    let directories = fs::read_dir(&net.pins.0).unwrap().flatten();
    let directories = directories.filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        // The kernel has files of its own there.
        name.starts_with(prefix) && name.contains("s-")
    });
    directories.flat_map(|entry| fs::read_dir(entry.path()).unwrap().flatten()).map(|entry| entry.path()).collect()
}

/// Removes such a directory, as a cleanup script does.
fn remove(net: &Net, prefix: &str) {
    for path in pins(net, prefix) {
        fs::remove_file(&path).unwrap();
        let _more_are_in_it = fs::remove_dir(path.parent().unwrap());
    }
    assert_eq!(pins(net, prefix), [""; 0].map(PathBuf::from));
}

fn unmount(net: &Net) {
    umount2(&net.pins.0, MntFlags::MNT_DETACH).unwrap();
    assert!(fs::read_dir(&net.pins.0).unwrap().next().is_none(), "what is below is empty");
}

#[test]
fn pins_that_are_removed_open_nothing_and_are_put_back() {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Routes, 1);
    let mut datapath = net.open();
    datapath.sync(&guarded()).unwrap();
    let _server = Echo::new(&net.pods[0], &address(2), 22);
    let denied = Flood::new(&net.world, &net.pods[0], &address(2), 81);
    let allowed = Flood::new(&net.world, &net.pods[0], &address(2), 80);
    assert_eq!(datapath.repair().unwrap(), Repairs::default(), "nothing is undone");
    let (links, maps) = (pins(&net, "links-").len(), pins(&net, "maps-").len());
    let all = |datapath: &mut Datapath, expected: Repairs| {
        assert_eq!(datapath.repair().unwrap(), expected);
        assert_eq!((pins(&net, "links-").len(), pins(&net, "maps-").len()), (links, maps));
        assert_eq!(datapath.repair().unwrap(), Repairs::default());
    };
    let unpinned = |unpinned| Repairs { unpinned, ..Repairs::default() };
    for (what, count) in [("links-", links), ("maps-", maps), ("", links + maps)] {
        remove(&net, what);
        assert!(is_refused(&net.world, &address(2), 22), "{what} is gone, and the agent looks later");
        all(&mut datapath, unpinned(count));
    }
    fs::remove_file(&pins(&net, "links-")[0]).unwrap();
    fs::remove_file(&pins(&net, "maps-")[0]).unwrap();
    all(&mut datapath, unpinned(2));
    unmount(&net);
    all(&mut datapath, Repairs { unpinned: links + maps, directory: true, ..Repairs::default() });
    // Restored pins work like the first ones.
    drop(datapath);
    assert!(is_refused(&net.world, &address(2), 22), "the process is gone");
    let datapath = net.open();
    let (sent, received) = denied.end();
    assert!(sent > 100 && received == 0, "{received} of {sent} denied packets passed");
    let (sent, received) = allowed.end();
    assert_eq!(sent, received, "nothing that is allowed was lost");
    net.detach(datapath);
}

#[test]
fn a_link_that_was_detached_is_attached_again() {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Routes, 1);
    let mut datapath = net.open();
    datapath.sync(&guarded()).unwrap();
    let _server = Echo::new(&net.pods[0], &address(2), 81);
    for path in pins(&net, "links-") {
        Link::open(path).unwrap().detach().unwrap();
    }
    assert!(reaches(&net.world, &address(2), 81), "nothing judges any more");
    assert_eq!(datapath.repair().unwrap(), Repairs { detached: 4, ..Repairs::default() });
    assert!(is_refused(&net.world, &address(2), 81));
    assert_eq!(datapath.repair().unwrap(), Repairs::default());
    assert_eq!(pins(&net, "links-").len(), 4);
    // The pins belong to the new links.
    drop(datapath);
    assert!(is_refused(&net.world, &address(2), 81));
    // The link is detached while no agent runs. The next agent notices that.
    for path in pins(&net, "links-") {
        Link::open(path).unwrap().detach().unwrap();
    }
    let datapath = net.open();
    assert!(is_refused(&net.world, &address(2), 81));
    net.detach(datapath);
}

#[test]
fn an_agent_makes_do_with_what_is_left_of_the_pins() {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Routes, 1);
    let mut datapath = net.open();
    datapath.sync(&guarded()).unwrap();
    drop(datapath);
    let _server = Echo::new(&net.pods[0], &address(2), 22);
    let denied = Flood::new(&net.world, &net.pods[0], &address(2), 81);
    let allowed = Flood::new(&net.world, &net.pods[0], &address(2), 80);
    for what in ["all maps", "one map", "config", "one link"] {
        match what {
            "all maps" => remove(&net, "maps-"),
            "one link" => {
                let pins = pins(&net, "links-");
                fs::remove_file(pins.iter().find(|path| path.ends_with("ipv6-local-in")).unwrap()).unwrap();
            }
            _ => {
                let name = if what == "config" { "config" } else { "ipcache" };
                fs::remove_file(pins(&net, "maps-").iter().find(|path| path.ends_with(name)).unwrap()).unwrap();
            }
        }
        assert!(is_refused(&net.world, &address(2), 22), "{what}");
        let mut datapath = net.open();
        assert!(is_refused(&net.world, &address(2), 22), "{what}: what is left enforces until the first sync");
        datapath.sync(&guarded()).unwrap();
        assert_eq!((pins(&net, "links-").len(), datapath.attachments().len()), (4, 4), "{what}");
        assert_eq!(datapath.repair().unwrap(), Repairs::default(), "{what}");
        drop(datapath);
    }
    let (sent, received) = denied.end();
    assert!(sent > 100 && received == 0, "{received} of {sent} denied packets passed");
    let (sent, received) = allowed.end();
    assert_eq!(sent, received, "nothing that is allowed was lost");
    let datapath = net.open();
    net.detach(datapath);
    assert!(!net.pins.0.exists());
}

/// Runs work on a thread in a mount namespace of its own.
fn mounting<T: Send>(receiving: MsFlags, work: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | receiving, None::<&str>).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(inside).join()).unwrap()
}

/// Runs two closures in a container of a node, which has its own mount of the file system of the pins and receives
/// mount events of the node: one before and one after the node unmounts its mount.
fn container(net: &Net, before: impl FnOnce() -> Datapath + Send, after: impl FnOnce(Datapath) + Send) {
    mounting(MsFlags::MS_PRIVATE, || {
        fs::create_dir_all(&net.pins.0).unwrap();
        mount(Some("bpf"), &net.pins.0, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        mount(None::<&str>, &net.pins.0, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let (unmounted, wait) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let container = scope.spawn(move || {
                mounting(MsFlags::MS_SLAVE, move || {
                    let datapath = before();
                    tell.send(()).unwrap();
                    wait.recv().unwrap();
                    after(datapath);
                });
            });
            told.recv().unwrap();
            umount2(&net.pins.0, MntFlags::MNT_DETACH).unwrap();
            unmounted.send(()).unwrap();
            container.join().unwrap();
        });
    });
}

/// The agent's container has a mount of its own, which stays.
#[test]
fn a_container_hears_that_the_file_system_was_unmounted_on_the_node() {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Routes, 1);
    let _server = Echo::new(&net.pods[0], &address(2), 22);
    let before = || {
        let mut datapath = net.open();
        datapath.sync(&guarded()).unwrap();
        assert_eq!(datapath.repair().unwrap(), Repairs::default());
        datapath
    };
    container(&net, before, |mut datapath| {
        let error = datapath.repair().unwrap_err().to_string();
        assert!(error.contains("was unmounted on the node"), "{error}");
        assert!(is_refused(&net.world, &address(2), 22), "and goes on enforcing");
        net.detach(datapath);
    });
}

/// Unpinned programs end with the process. The links are closed then, and opened by the next process.
#[test]
fn an_agent_that_cannot_pin_closes_the_links_before_it_ends() {
    if !crate::kit::can_run() {
        return;
    }
    for joint in [Joint::Routes, Joint::Bridge] {
        let net = Net::new(joint, 1);
        let open = || {
            let mut datapath = net.open();
            datapath.sync(&guarded()).unwrap();
            net.guard(&mut datapath);
            datapath
        };
        let _server = Echo::new(&net.pods[0], &address(2), 22);
        let denied = Mutex::new(None);
        let before = || {
            let mut datapath = open();
            assert!(datapath.close_before_exit().unwrap().is_none(), "what is pinned stays, and nothing is closed");
            *denied.lock().unwrap() = Some(Flood::new(&net.world, &net.pods[0], &address(2), 81));
            datapath
        };
        container(&net, before, |mut datapath| {
            let work = datapath.close_before_exit().unwrap();
            assert!(work.is_some());
            net.carry_out(&mut datapath, work);
        });
        // The container is gone with its mounts, and with them every link to netfilter.
        let _outside = Echo::new(&net.world, WORLD, 22);
        assert!(is_refused(&net.world, &address(2), 22) && is_refused(&net.pods[0], WORLD, 22), "{joint:?}");
        let datapath = open();
        let (sent, received) = denied.into_inner().unwrap().unwrap().end();
        assert!(sent > 100 && received == 0, "{joint:?}: {received} of {sent} denied packets passed");
        let sink = Sink::new(&net.pods[0], &address(2), 80);
        Datagrams::new(&net.world, WORLD, &address(2), 80).are_dead_at_once();
        assert!(sink.receives(), "{joint:?}: open again");
        net.detach(datapath);
    }
}
