//! What a container runtime hands to the network plugin, and the configurations of others that the agent changes.

use ringfence_cni::{NetConf, conflist, multus};
use ringfence_fuzz::hostile;
use serde_json::json;

const CONFIGURATION: &[u8] = br#"{
  "cniVersion": "1.1.0", "name": "k8s-pod-network", "type": "ringfence-cni", "socket": "/nowhere/agent.sock",
  "timeout": 5, "runtimeConfig": {"portMappings": []},
  "prevResult": {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"}, {"name": "veth1"}],
    "ips": [{"interface": 0, "address": "10.0.0.7/24", "gateway": "10.0.0.1"}, {"address": "fd00::7/64"}],
    "routes": [{"dst": "0.0.0.0/0"}]
  },
  "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]
}"#;
const LIST: &[u8] = br#"{
  "cniVersion": "0.3.1",
  "name": "bridge",
  "plugins": [
    {"type": "bridge", "ipam": {"type": "host-local"}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}"#;
const MULTUS: &[u8] = br#"{"name": "multus", "type": "multus", "clusterNetwork": "/etc/cni/net.d/10-x.conf",
  "delegates": [{"cniVersion": "0.3.1", "type": "flannel"}]}"#;

#[test]
fn configurations_on_standard_input_survive_hostile_input() {
    hostile(&[CONFIGURATION, LIST], |bytes| {
        // Answers the version whatever stands there; no other command is tried, as they call a socket of its choice.
        let variable = |name: &str| (name == "CNI_COMMAND").then(|| "VERSION".to_owned());
        assert!(ringfence_cni::run(variable, bytes).output.is_some());
        let Ok(conf) = NetConf::read(bytes) else { return };
        let _ = (conf.supported(), conf.socket(), conf.timeout(), conf.sandboxes());
        let Ok(previous) = conf.previous() else { return };
        let _ = (ringfence_cni::addresses(previous, "eth0"), ringfence_cni::addresses(previous, ""));
        let _ = (ringfence_cni::links(previous), ringfence_cni::hardware_address(previous, "eth0"));
    });
}

#[test]
fn configurations_of_other_plugins_survive_hostile_input() {
    let member = json!({"type": ringfence_cni::PLUGIN});
    hostile(&[LIST, MULTUS, CONFIGURATION], |bytes| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let _ = (
            conflist::name(&text),
            conflist::types(&text),
            conflist::is_list(&text),
            conflist::wrap(&text, "x", &member),
        );
        let _ = (multus::cluster_network(&text), multus::insert(&text, &member), multus::remove(&text));
        if let Ok(Some(changed)) = conflist::insert(&text, &member) {
            let back = conflist::remove(&changed).expect("what was written can be read");
            assert!(!conflist::types(&back.unwrap_or(changed)).iter().any(|kind| kind == ringfence_cni::PLUGIN));
        }
    });
}
