//! Enforcement outlives processes, and programs are replaced without a gap.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ringfence_datapath::{Config, Datapath};
use ringfence_engine::Plan;
use ringfence_engine::generate::Rng;
use ringfence_model::Protocol;

use crate::kit::net::{Joint, Net, WORLD, address};
use crate::kit::plan::Hand;
use crate::kit::space::{PinDir, small};
use crate::kit::talk::{Flood, is_refused, reaches};

/// A pod with UDP port 80 open to the world and nothing else. The plan has the same meaning in many variants.
fn guarded(variant: u64) -> Plan {
    let (ruleset, rule_id) = (100 + variant, 1000 + 2 * variant);
    let mut hand = Hand::default()
        .endpoint(&address(2), ruleset, 0)
        .isolated(ruleset, rule_id)
        .peer(WORLD, 50 + variant)
        .allow(ruleset, 50 + variant, &[(Protocol::UDP, 80)], rule_id + 1, rule_id);
    // Others that come and go.
    for number in 0..variant % 5 {
        hand = hand.peer(&format!("10.{}.0.0/16", 100 + number), 300 + number).endpoint(
            &address(100 + usize::try_from(number).unwrap()),
            ruleset,
            0,
        );
    }
    hand.plan
}

#[test]
fn enforcement_outlives_the_process_and_the_program_is_replaced_without_a_gap() {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Routes, 1);
    let mut datapath = net.open();
    datapath.sync(&guarded(0)).unwrap();
    let first = datapath.attachments();
    assert!(first.iter().all(|(_, priority)| *priority == 95), "{first:?}");
    drop(datapath);
    let denied = Flood::new(&net.world, &net.pods[0], &address(2), 81);
    let allowed = Flood::new(&net.world, &net.pods[0], &address(2), 80);
    assert!(is_refused(&net.world, &address(2), 22), "nobody has the datapath open");

    // Other sizes mean other maps. The old program is replaced when these are filled.
    let mut sizes = small();
    sizes.ipcache *= 2;
    let mut datapath = net.open_with(Config { sizes, ..net.pins.config() });
    assert!(datapath.attachments().is_empty(), "not before the plan is there");
    datapath.sync(&guarded(1)).unwrap();
    let second = datapath.attachments();
    assert!(second.len() == 4 && second.iter().all(|(_, priority)| *priority == 94), "{second:?}");
    assert_eq!(links(&net.pins).len(), 1);
    drop(datapath);

    // Another program on the same maps is replaced at once.
    rename_links(&net.pins);
    let datapath = net.open_with(Config { sizes, ..net.pins.config() });
    assert!(datapath.attachments().iter().all(|(_, priority)| *priority == 95));
    assert_eq!(links(&net.pins).len(), 1);
    let (sent, received) = allowed.end();
    assert_eq!(sent, received, "nothing that is allowed was lost");
    let (sent, received) = denied.end();
    assert!(sent > 100 && received == 0, "{received} of {sent} denied packets passed");
    net.detach(datapath);
    assert!(!net.pins.0.exists());
}

fn links(pins: &PinDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(&pins.0).unwrap().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("links-")).map(|e| e.path()).collect()
}

/// Renames the links to those of another program.
fn rename_links(pins: &PinDir) {
    let entry =
        fs::read_dir(&pins.0).unwrap().flatten().find(|e| e.file_name().to_string_lossy().starts_with("links-"));
    let path = entry.unwrap().path();
    let name = path.file_name().unwrap().to_str().unwrap();
    let (layout, _) = name.rsplit_once('-').unwrap();
    fs::rename(&path, path.with_file_name(format!("{layout}-{:016x}", 7))).unwrap();
}

const CHILD: &str = "RINGFENCE_TEST_CHILD";
const KILLS: u64 = 25;

#[test]
fn a_process_killed_at_any_instant_leaves_enforcement_whole() {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Routes, 1);
    let mut datapath = net.open();
    datapath.sync(&guarded(0)).unwrap();
    drop(datapath);
    let denied = Flood::new(&net.world, &net.pods[0], &address(2), 81);
    let allowed = Flood::new(&net.world, &net.pods[0], &address(2), 80);
    let mut rng = Rng::new(1);
    let mut versions = HashSet::new();
    let mut synced = None;
    // On a busy machine more kills may be needed until one process gets as far as to replace the program.
    for round in 0..4 * KILLS {
        if round >= KILLS && versions.len() > 1 {
            break;
        }
        let mut child = net.node.enter(|| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "death::child", "--ignored", "--nocapture"])
                .env(CHILD, format!("{}:{round}", net.pins.0.display()))
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        });
        // The first process shows the time until its second sync. The others are killed at about that time.
        match synced {
            None => synced = Some(time_to_sync(&mut child)),
            Some(time) => thread::sleep(time * u32::try_from(rng.below(150)).unwrap() / 100),
        }
        child.kill().unwrap();
        child.wait().unwrap();
        versions.extend(links(&net.pins));
    }
    assert!(versions.len() > 1, "they did not get far: {versions:?}");
    let (sent, received) = denied.end();
    assert!(sent > 100 && received == 0, "{received} of {sent} denied packets passed");
    let (sent, received) = allowed.end();
    assert_eq!(sent, received, "nothing that is allowed was lost");
    let mut datapath = net.open();
    datapath.sync(&Hand::default().endpoint(&address(2), 0, 0).plan).unwrap();
    assert_eq!(links(&net.pins).len(), 1);
    let _server = crate::kit::talk::Echo::new(&net.pods[0], &address(2), 82);
    assert!(reaches(&net.world, &address(2), 82));
    net.detach(datapath);
}

const SYNCED: &str = "synced for the second time";

fn time_to_sync(child: &mut Child) -> Duration {
    let started = Instant::now();
    let output = BufReader::new(child.stdout.take().unwrap());
    assert!(output.lines().any(|line| line.unwrap().contains(SYNCED)), "the child failed");
    started.elapsed()
}

/// Runs as another process: opens, syncs and applies until it is killed.
#[test]
#[ignore = "is run by another test, in a process of its own"]
fn child() {
    let told = std::env::var(CHILD).unwrap();
    let (pins, round) = told.rsplit_once(':').unwrap();
    let round: u64 = round.parse().unwrap();
    let mut sizes = small();
    // Other maps now and then, which is a change of version.
    sizes.ipcache *= 1 + u32::from(round.is_multiple_of(3));
    let mut datapath = Datapath::open(Config { sizes, ..Config::new(PathBuf::from(pins)) }).unwrap();
    for (count, variant) in (round..).take(100_000).enumerate() {
        if count == 2 {
            println!("{SYNCED}");
        }
        datapath.sync(&guarded(variant % 40)).unwrap();
    }
}
