//! The Helm chart, the static manifest and what `ringfence install` writes are one, by the word of a real `helm`.
//!
//! `RINGFENCE_RENDER=1` writes the static manifest anew.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a failed step fails the test, a skipped test says so")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ringfence_install::manifest::{self, CniDirs, Mode, Values};
use serde_json::Value;

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
    let cases: [(Values, &str, &[&str]); 9] = [
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
    ];
    for (values, namespace, set) in cases {
        let rendered = manifest::documents(&template(&helm, namespace, set)).unwrap();
        assert_eq!(by_title(manifest::objects(&values).unwrap()), by_title(rendered), "{values:?}");
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
