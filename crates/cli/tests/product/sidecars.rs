//! Init containers that stay: when they start and end, and the ports they have a name for.

use serde_json::json;

use super::kit::{Lab, Need, can_run, eventually};

const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.53";

#[test]
fn named_ports_of_sidecars_count_in_policy_and_services() {
    if !can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        return;
    }
    let lab = Lab::up("sidecars", &["--nodes", "2"]);
    lab.apply(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "server", "labels": {"app": "server"}},
        "spec": {
            "nodeName": "node-2", "terminationGracePeriodSeconds": 1,
            "initContainers": [
                {"name": "side", "image": AGNHOST, "restartPolicy": "Always",
                    "args": ["netexec", "--http-port=8080", "--udp-port=8081"],
                    "ports": [{"name": "side", "containerPort": 8080}],
                    "startupProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                    "readinessProbe": {"httpGet": {"port": "side", "path": "/healthz"}, "periodSeconds": 1}},
                // Runs once the sidecar has started, and only then.
                {"name": "after", "image": "busybox", "command": ["curl", "-sS", "-m", "5",
                "http://127.0.0.1:8080/healthz"]},
            ],
            "containers": [{"name": "main", "image": "nginx", "ports": [{"name": "main", "containerPort": 80}]}],
        },
    }));
    lab.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "side"},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": "side"}]},
    }));
    lab.nginx("client", "node-1", "role=client");
    lab.ready(&["server", "client"]);
    assert!(lab.must("get pod server").contains(" 2/2 "), "{}", lab.must("get pod server"));
    let address = lab.field("pod/server", ".status.podIP");
    let (main, side) = (address.clone(), format!("{address}:8080"));
    let by_service = lab.field("service/side", ".spec.clusterIP");
    for url in [&main, &side, &by_service] {
        lab.settles("client", url, true);
    }
    for (port, allowed) in [("side", [false, true]), ("main", [true, false]), ("other", [false, false])] {
        lab.apply(&json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "by-name"},
            "spec": {"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [{"ports": [{"port": port}]}]},
        }));
        lab.settles("client", &main, allowed[0]);
        lab.settles("client", &side, allowed[1]);
        lab.settles("client", &by_service, allowed[1]);
    }
    lab.down();
}

#[test]
fn sidecars_outlast_the_work_and_keep_no_pod_from_its_end() {
    if !can_run(&[Need::Root, Need::Kubectl]) {
        return;
    }
    let lab = Lab::up("job", &["--nodes", "1", "--without-agents"]);
    lab.apply(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "job"},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 5,
            "initContainers": [{"name": "side", "image": AGNHOST, "restartPolicy": "Always",
                "args": ["netexec", "--http-port=8080"], "startupProbe": {"tcpSocket": {"port": 8080},
                "periodSeconds": 1}}],
            "containers": [{"name": "work", "image": "busybox",
                "command": ["curl", "-sS", "-m", "5", "http://127.0.0.1:8080/hostname"]}],
        },
    }));
    eventually("the pod has done its work", || lab.field("pod/job", ".status.phase") == "Succeeded");
    assert_eq!(lab.must("logs job -c work"), "job");
    eventually("the sidecar has ended", || {
        !lab.field("pod/job", ".status.initContainerStatuses[0].state.terminated.exitCode").is_empty()
    });
    lab.down();
}
