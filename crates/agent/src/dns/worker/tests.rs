//! State that a worker takes over from an earlier process.

use std::collections::BTreeSet;
use std::fs;

use ringfence_model::{DomainName, DomainPattern};

use super::*;

#[test]
fn what_was_learnt_before_is_kept_until_rules_are_known_and_then_if_one_means_it() {
    let path = std::env::temp_dir().join(format!("ringfence-worker-{}", std::process::id()));
    let name = DomainName::new("a.net");
    let line = [(&name, "192.0.2.1".parse().unwrap(), 1)];
    Journal::open(&path).0.write(&line, line.into_iter());
    let (core, messages) = Handle::channel();
    let (own, told) = Listener::channel().unwrap();
    let mut worker = Worker::new(core, &path, Arc::new(Meters::new()), told, own.clone(), Tables::unheard());
    let lingering = || match messages.try_recv() {
        Ok(Message::Domains { domains, .. }) => Some(domains[0].lingering.len()),
        Ok(_) => Some(usize::MAX),
        Err(_) => None,
    };
    assert_eq!(lingering(), Some(1), "the planning thread knows from the beginning that it lingers");

    // The servers are known before the rules are; and time passes while the API is away.
    own.tell(Tell::Servers(BTreeSet::from(["10.0.0.1:53".parse().unwrap()])));
    worker.listen().unwrap();
    worker.expire().unwrap();
    assert_eq!(lingering(), None);

    let demand = |pattern: &str| Demand { patterns: [DomainPattern::new(pattern)].into(), ..Demand::default() };
    own.tell(Tell::Servers(BTreeSet::new()));
    own.tell(Tell::Demand(demand("*.net")));
    worker.listen().unwrap();
    assert_eq!(worker.reader.learner.names().count(), 1);
    own.tell(Tell::Demand(demand("*.org")));
    worker.listen().unwrap();
    assert_eq!(worker.reader.learner.names().count(), 0);
    fs::remove_file(path).unwrap();
}
