//! A lab of two nodes enforces between them: each end's policy on the node of that end.

use super::kit::{Lab, Need, can_run};

const ONLY_FRIENDS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-friends}
spec:
  podSelector: {matchLabels: {app: server}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {role: friend}}}]
    ports: [{port: 80}]
";

const NO_WAY_OUT: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: no-way-out}
spec:
  podSelector: {matchLabels: {app: prisoner}}
  policyTypes: [Egress]
";

#[test]
fn policies_hold_between_nodes() {
    if !can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        return;
    }
    let lab = Lab::up("across", &["--nodes", "2"]);
    lab.nginx("server", "node-2", "app=server");
    lab.nginx("friend", "node-1", "role=friend");
    lab.nginx("stranger", "node-1", "role=stranger");
    lab.nginx("neighbour", "node-2", "role=stranger");
    lab.nginx("prisoner", "node-1", "app=prisoner,role=friend");
    lab.ready(&["server", "friend", "stranger", "neighbour", "prisoner"]);
    let server = lab.field("pod/server", ".status.podIP");
    for from in ["friend", "stranger", "neighbour", "prisoner"] {
        lab.settles(from, &server, true);
    }

    lab.must_with("apply -f -", ONLY_FRIENDS);
    lab.settles("stranger", &server, false);
    lab.settles("neighbour", &server, false);
    lab.settles("friend", &server, true);

    lab.must("label --overwrite pod/stranger role=friend");
    lab.settles("stranger", &server, true);
    lab.must("label --overwrite pod/stranger role=stranger");
    lab.settles("stranger", &server, false);

    lab.must_with("apply -f -", NO_WAY_OUT);
    lab.settles("prisoner", &server, false);
    lab.must("delete networkpolicy no-way-out");
    lab.settles("prisoner", &server, true);

    lab.must("delete networkpolicy only-friends");
    lab.settles("stranger", &server, true);
    lab.settles("neighbour", &server, true);
    lab.down();
}
