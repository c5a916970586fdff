//! UDP conversations with a Service whose endpoints change under them.

use serde_json::json;

use super::kit::{Lab, Need, can_run, eventually};

/// Asks again and again on one socket, as a client does that keeps its port, and prints each answer on a line.
const ASK_FOREVER: &str = "exec 3<>/dev/udp/$1/$2; \
    while true; do echo hostname 2>/dev/null >&3; timeout 0.3 dd bs=2048 count=1 <&3 2>/dev/null; echo; sleep 0.1; \
    done";

#[test]
fn a_conversation_moves_on_when_its_endpoint_goes() {
    if !can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        return;
    }
    let lab = Lab::up("udp", &["--nodes", "2"]);
    let server = |name: &str, node: &str| {
        lab.apply(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "udp"}},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [{
                "name": "c", "image": "registry.k8s.io/e2e-test-images/agnhost:2.53", "args": ["netexec"],
                "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}]},
        }));
        lab.ready(&[name]);
    };
    server("first", "node-2");
    lab.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "udp"},
        "spec": {"type": "NodePort", "selector": {"app": "udp"}, "ports": [
            {"port": 53, "targetPort": 8081, "protocol": "UDP", "nodePort": 30053}]},
    }));
    let service = lab.field("service/udp", ".spec.clusterIP");
    // One by the Service's address, one by the node's port.
    for (name, address, port) in [("by-service", service.as_str(), "53"), ("by-node", "10.89.0.11", "30053")] {
        lab.apply(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": "node-1", "terminationGracePeriodSeconds": 0, "containers": [{
                "name": "c", "image": "busybox", "command": ["bash", "-c", ASK_FOREVER, "ask", address, port]}]},
        }));
    }
    let clients = ["by-service", "by-node"];
    lab.ready(&clients);
    let answer = |client: &str| {
        let log = lab.must(&format!("logs {client} --tail=6"));
        log.lines().rev().find(|line| !line.is_empty()).unwrap_or_default().to_owned()
    };
    let all_hear = |server: &str| {
        for client in clients {
            eventually(&format!("{client} hears {server}"), || answer(client) == server);
        }
    };
    all_hear("first");
    // The second one is there before the first goes: nobody has to move yet.
    server("second", "node-1");
    all_hear("first");
    lab.must("delete pod first");
    all_hear("second");
    // Without endpoints there is no answer, and the next endpoint is found.
    lab.must("delete pod second");
    for client in clients {
        eventually("nobody answers", || lab.must(&format!("logs {client} --tail=6")).trim().is_empty());
    }
    server("third", "node-2");
    all_hear("third");
    // A Service that is gone leads nowhere any more.
    lab.must("delete service udp");
    for client in clients {
        eventually("nobody answers", || lab.must(&format!("logs {client} --tail=6")).trim().is_empty());
    }
    lab.down();
}
