//! The Helm chart, the static manifest and what `ringfence install` writes are one, by the word of a real `helm`.
//!
//! `RINGFENCE_RENDER=1` writes the static manifest anew.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a failed step fails the test, a skipped test says so")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ringfence_install::manifest::{self, CniDirs, Mode, Seccomp, Values};
use serde_json::{Value, json};

/// The module that `helm` is built of, where none is installed.
const MODULE: &str = "helm.sh/helm/v3/cmd/helm@v3.22.0";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A `helm`: that of the machine, one built before, or one built now. Says why there is none.
fn helm() -> Option<PathBuf> {
    let built = root().join("target/tools/helm");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|dir| dir.join("helm")).chain([built.clone()]).find(|file| file.is_file());
    if found.is_some() {
        return found;
    }
    let install = Command::new("go").args(["install", MODULE]).env("GOBIN", root().join("target/tools")).output();
    match install {
        Ok(output) if output.status.success() => Some(built),
        Ok(output) => skip(&format!("helm could not be built: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => skip(&format!("there is neither helm nor go: {error}")),
    }
}

/// Not a failure where `CI` is set, either: `go` is not among what this project needs.
fn skip(reason: &str) -> Option<PathBuf> {
    println!("skipped: {}", reason.lines().last().unwrap_or_default());
    None
}

/// A helm that was not built for a release takes clusters for very old ones, unless told otherwise.
fn run(helm: &Path, arguments: &[&str]) -> Output {
    Command::new(helm)
        .args(arguments)
        .args(["--kube-version", "1.34.0"])
        .current_dir(root())
        .env_remove("KUBECONFIG")
        .output()
        .unwrap()
}

fn template(helm: &Path, namespace: &str, set: &[&str]) -> String {
    let mut arguments = vec!["template", "ringfence", "deploy/helm/ringfence", "--namespace", namespace];
    arguments.extend(set.iter().flat_map(|set| ["--set", set]));
    let output = run(helm, &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Objects by what they are called.
fn by_title(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let title = |object: &Value| format!("{} {}", object["kind"], object["metadata"]["name"]);
    objects.into_iter().map(|object| (title(&object), object)).collect()
}

#[test]
fn the_static_manifest_is_what_helm_renders() {
    let Some(helm) = helm() else { return };
    let rendered = template(&helm, manifest::NAMESPACE, &[]);
    let path = root().join("deploy/ringfence.yaml");
    if std::env::var_os("RINGFENCE_RENDER").is_some() {
        std::fs::write(&path, &rendered).unwrap();
    }
    let hint = "hint: RINGFENCE_RENDER=1 cargo test -p ringfence-install --test chart";
    assert_eq!(std::fs::read_to_string(path).unwrap(), rendered, "{hint}");
}

#[test]
fn what_install_writes_is_what_helm_renders() {
    let Some(helm) = helm() else { return };
    let plain = Values::default;
    let cases: [(Values, &str, &[&str]); 13] = [
        (plain(), manifest::NAMESPACE, &[]),
        (Values { mode: Mode::Primary, ..plain() }, manifest::NAMESPACE, &["mode=primary"]),
        (
            Values { mode: Mode::Primary, encapsulation: "always".into(), ..plain() },
            manifest::NAMESPACE,
            &["mode=primary", "encapsulation=always"],
        ),
        (
            Values { api_server: Some("[fd00::1]:443".parse().unwrap()), ..plain() },
            manifest::NAMESPACE,
            &["apiServer.host=fd00::1", "apiServer.port=443"],
        ),
        (
            Values { cni: CniDirs { conf: "/k/net.d".into(), bin: "/k/bin".into() }, ..plain() },
            manifest::NAMESPACE,
            &["cni.confDir=/k/net.d", "cni.binDir=/k/bin"],
        ),
        (Values { mount_bpf: true, ..plain() }, manifest::NAMESPACE, &["mountBpf=true"]),
        (Values { namespace: "net".into(), ..plain() }, "net", &[]),
        (
            Values { image: "registry.example:5000/net/ringfence:v9".into(), pull_policy: "Always".into(), ..plain() },
            manifest::NAMESPACE,
            &["image.repository=registry.example:5000/net/ringfence", "image.tag=v9", "image.pullPolicy=Always"],
        ),
        (
            Values { connections: "drain".into(), log_level: "debug".into(), log_format: "json".into(), ..plain() },
            manifest::NAMESPACE,
            &["connections=drain", "log.level=debug", "log.format=json"],
        ),
        (Values { mode: Mode::Alone, ..plain() }, manifest::NAMESPACE, &["mode=alone"]),
        (
            Values { over_capacity: "keep".into(), metrics_port: 9999, ..plain() },
            manifest::NAMESPACE,
            &["overCapacity=keep", "metrics.port=9999"],
        ),
        (
            Values {
                seccomp: Seccomp::Localhost("a/b.json".into()),
                se_linux: Some(json!({"type": "spc_t"})),
                ..plain()
            },
            manifest::NAMESPACE,
            &["seccompProfile.type=Localhost", "seccompProfile.localhostProfile=a/b.json", "seLinuxOptions.type=spc_t"],
        ),
        (
            Values { extra_args: vec!["--map-size=flows=1000".into(), "--dns-server=10.0.0.9:53".into()], ..plain() },
            manifest::NAMESPACE,
            &["extraArgs={--map-size=flows=1000,--dns-server=10.0.0.9:53}"],
        ),
    ];
    for (values, namespace, set) in cases {
        let rendered = manifest::documents(&template(&helm, namespace, set)).unwrap();
        assert_eq!(by_title(manifest::objects(&values).unwrap()), by_title(rendered), "{values:?}");
    }
}

/// The DaemonSet of the chart with a value.
fn daemon_set(helm: &Path, set: &[&str]) -> Value {
    let rendered = manifest::documents(&template(helm, manifest::NAMESPACE, set)).unwrap();
    rendered.into_iter().find(|object| object["kind"] == "DaemonSet").unwrap()
}

/// Values that `install` does not write: each value changes what it is about, and nothing else.
#[test]
fn values_of_the_chart_alone_show_where_they_belong() {
    let Some(helm) = helm() else { return };
    let plain = daemon_set(&helm, &[]);
    let pod = "/spec/template/spec";
    let agent = format!("{pod}/containers/0");
    let arguments = plain.pointer(&format!("{agent}/args")).unwrap();
    // An argument comes after the one before it.
    let with = |before: &str, new: &str| {
        let mut arguments = arguments.as_array().unwrap().clone();
        let place = arguments.iter().position(|argument| argument.as_str().unwrap().starts_with(before)).unwrap();
        arguments.insert(place + 1, json!(new));
        json!(arguments)
    };
    let metrics = |address: &str| {
        let metrics = |argument: &Value| match argument.as_str().unwrap() {
            text if text.starts_with("--metrics=") => json!(format!("--metrics={address}:9464")),
            text => json!(text),
        };
        json!(arguments.as_array().unwrap().iter().map(metrics).collect::<Vec<_>>())
    };
    let cases: [(&str, String, Value); 9] = [
        ("reportAllowed=true", format!("{agent}/args"), with("--over-capacity", "--report-allowed")),
        ("clusterDomain=k.example", format!("{agent}/args"), with("--over-capacity", "--cluster-domain=k.example")),
        ("metrics.address=0.0.0.0", format!("{agent}/args"), metrics("0.0.0.0")),
        ("resources.limits.memory=1Gi", format!("{agent}/resources/limits/memory"), json!("1Gi")),
        ("resources.requests.cpu=1", format!("{agent}/resources/requests/cpu"), json!(1)),
        ("maxUnavailable=3", "/spec/updateStrategy/rollingUpdate/maxUnavailable".into(), json!(3)),
        ("nodeSelector.pool=edge", format!("{pod}/nodeSelector/pool"), json!("edge")),
        ("priorityClassName=mine", format!("{pod}/priorityClassName"), json!("mine")),
        ("imagePullSecrets[0].name=key", format!("{pod}/imagePullSecrets"), json!([{"name": "key"}])),
    ];
    for (set, place, expected) in cases {
        let mut changed = daemon_set(&helm, &[set]);
        assert_eq!(changed.pointer(&place), Some(&expected), "{set}");
        let (parent, key) = place.rsplit_once('/').unwrap();
        let before = plain.pointer(&place).cloned();
        match (before, changed.pointer_mut(parent).unwrap()) {
            (Some(before), holder) => holder[key] = before,
            (None, holder) => drop(holder.as_object_mut().unwrap().remove(key)),
        }
        // Probes ask where metrics are.
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let host = format!("{agent}/{probe}/httpGet/host");
            *changed.pointer_mut(&host).unwrap() = plain.pointer(&host).unwrap().clone();
        }
        assert_eq!(changed, plain, "{set} changes something else, too");
    }
}

#[test]
fn prometheus_finds_agents_by_a_service_if_it_is_wanted() {
    let Some(helm) = helm() else { return };
    let services = |set: &[&str]| {
        let rendered = manifest::documents(&template(&helm, "net", set)).unwrap();
        rendered.into_iter().filter(|object| object["kind"] == "Service").collect::<Vec<_>>()
    };
    assert_eq!(services(&[]), Vec::<Value>::new());
    let found = services(&["metrics.service=true", "metrics.address=0.0.0.0", "metrics.port=9999"]);
    let [service] = &found[..] else { panic!("{found:?}") };
    assert_eq!((&service["spec"]["clusterIP"], &service["spec"]["ports"][0]["port"]), (&json!("None"), &json!(9999)));
    assert_eq!(service["metadata"]["namespace"], "net");
}

/// Every value of the chart is in some case here.
#[test]
fn every_value_is_tried() {
    let values = std::fs::read_to_string(root().join("deploy/helm/ringfence/values.yaml")).unwrap();
    let values: Value = serde_saphyr::from_str(&values).unwrap();
    let tests = std::fs::read_to_string(root().join("crates/install/tests/chart.rs")).unwrap();
    for name in values.as_object().unwrap().keys() {
        let tried = ["=", ".", "["].iter().any(|end| tests.contains(&format!("\"{name}{end}")));
        assert!(tried, "no case sets {name}");
    }
}

#[test]
fn helm_finds_nothing_to_complain_of() {
    let Some(helm) = helm() else { return };
    let output = run(&helm, &["lint", "--strict", "deploy/helm/ringfence"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn wrong_values_are_refused() {
    let Some(helm) = helm() else { return };
    for wrong in [
        "mode=sideways",
        "metrics.port=0",
        "imgae.tag=1",
        "log.level=loud",
        "maxUnavailable=lots",
        "encapsulation=never",
        "apiServer.port=0",
        "overCapacity=drop",
        "connections=keep",
    ] {
        let output = run(&helm, &["template", "ringfence", "deploy/helm/ringfence", "--set", wrong]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("schema"), "{wrong}: {said}");
    }
    for right in ["maxUnavailable=2", "maxUnavailable=20%", "metrics.address=::", "extraArgs={--map-size=flows=1000}"] {
        template(&helm, "kube-system", &[right]);
    }
}

#[test]
fn the_chart_is_of_this_version() {
    let chart = std::fs::read_to_string(root().join("deploy/helm/ringfence/Chart.yaml")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        chart.contains(&format!("\nversion: {version}\n")) && chart.contains(&format!("appVersion: \"{version}\""))
    );
}
