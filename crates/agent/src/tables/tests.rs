//! Tables that somebody takes away come back.

use std::process::Command;
use std::thread;

use ringfence_netns::Namespace;

use super::*;
use crate::core::Message;
use crate::scratch::{Scratch, can_run};

fn nft(namespace: &Namespace, script: &str) {
    let done = namespace.run(|| Command::new("nft").arg(script).output().unwrap()).unwrap();
    assert!(done.status.success(), "nft {script}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Time until a condition holds; a minute at most.
fn until(what: &str, is_so: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_mins(1), "not in time: {what}");
        thread::sleep(Duration::from_millis(10));
    }
    start.elapsed()
}

#[test]
fn what_somebody_flushes_is_back_within_a_second_and_told() {
    if !can_run() {
        return;
    }
    let scratch = Scratch::new("tables");
    let node = &scratch.0;
    let meters = Arc::new(Meters::new());
    let (core, messages) = Handle::channel();
    let (tables, thread) = node.run(|| start(&core, Arc::clone(&meters))).unwrap().unwrap();
    let active = || node.run(|| conntrack::is_kept_active().unwrap()).unwrap();
    let held = || node.run(|| dns_queue::are_held().unwrap()).unwrap();
    until("tracking is active", active);
    let (listener, told) = Listener::channel().unwrap();
    let queue = node.run(dns_queue::DnsQueue::open).unwrap().unwrap();
    let hold = Hold {
        queue: queue.number(),
        servers: ["192.0.2.1:53".parse().unwrap()].into(),
        pods: ["10.244.0.0/24".parse().unwrap()].into(),
    };
    tables.want(Some(hold), &listener);
    let rule = || match told.recv_timeout(Duration::from_mins(1)).unwrap() {
        Tell::Rule(rule) => rule,
        other => panic!("{other:?}"),
    };
    assert_eq!(rule(), Rule::There);
    assert!(active() && held());
    let (roads, nudges) = mpsc::channel();
    tables.tell_roads(roads);

    let repairs = || -> Vec<(String, u64)> {
        meters.mended.repairs().into_iter().map(|repair| (repair.component, repair.count)).collect()
    };
    let before: u64 = repairs().iter().map(|(_, count)| count).sum();
    for _ in 0..3 {
        nft(node, "flush ruleset");
        let took = until("it is back", || active() && held());
        assert!(took < Duration::from_secs(1), "it took {took:?}");
        assert!(matches!(rule(), Rule::Missing(_)), "nothing is learnt meanwhile");
        assert_eq!(rule(), Rule::There);
    }
    until("it is counted", || repairs().iter().map(|(_, count)| count).sum::<u64>() == before + 6);
    assert!(repairs().iter().any(|(what, count)| what == ANSWERS && *count == 3), "{:?}", repairs());
    assert_eq!(meters.mended.troubles(), Vec::<String>::new());
    assert!(matches!(nudges.try_recv(), Ok(Nudge::Network)), "there is no table of routes");

    // Some of it, and what is others'.
    nft(node, "flush chain inet ringfence to_queue");
    assert!(until("the chain is whole", held) < Duration::from_secs(1));
    nft(node, "add table ip other");
    nft(node, "delete table ip other");
    tables.want(None, &listener);
    until("it is not wanted any more", || matches!(told.try_recv(), Ok(Tell::Rule(Rule::Gone))));
    assert!(!held() && active());
    assert!(messages.try_recv().is_err(), "it lives");
    tables.stop();
    thread.join().unwrap();
    assert!(matches!(messages.try_recv(), Ok(Message::Ended("tables"))), "and is missed when it does not");
    nft(node, "flush ruleset");
    assert!(!active(), "nobody keeps it any more");
}
