//! Certificates and kubeconfigs, as a cluster's components expect them.
//!
//! See "PKI certificates and requirements" in the documentation of Kubernetes.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;
use serde_json::json;

use super::Local;
use super::addresses::Addresses;
use super::process::output;

/// How long certificates are good for: longer than a cluster is needed.
const DAYS: &str = "30";

/// Configuration of `openssl req` without any extensions: each certificate names its own.
const CONFIGURATION: &str = "[req]\ndistinguished_name = name\n[name]\n";

/// The certificate authority, and what the control plane and its clients need.
pub(super) fn prepare(cluster: &Local, addresses: &Addresses) -> anyhow::Result<()> {
    fs::write(file(cluster, "openssl.cnf"), CONFIGURATION)?;
    let mut command = request(cluster, "ca", "/CN=ringfence-cluster");
    command.args(["-addext", "basicConstraints=critical,CA:TRUE"]);
    output(command.args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"]))?;
    let [secret, public] = ["sa.key", "sa.pub"].map(|name| file(cluster, name));
    output(Command::new("openssl").args(["genrsa", "-out"]).arg(&secret).arg("2048"))?;
    output(Command::new("openssl").args(["rsa", "-pubout", "-in"]).arg(&secret).arg("-out").arg(&public))?;
    let names =
        ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(|name| format!("DNS:{name}"));
    let services = addresses.api_services().chain(["127.0.0.1"]).map(str::to_owned);
    let ips = addresses.control_plane().into_iter().chain(services);
    let names: Vec<String> = names.into_iter().chain(ips.map(|ip| format!("IP:{ip}"))).collect();
    issue(cluster, "apiserver", "/CN=kube-apiserver", &names)?;
    client(cluster, addresses, "admin", "/O=system:masters/CN=admin")?;
    client(cluster, addresses, "controller-manager", "/CN=system:kube-controller-manager")?;
    client(cluster, addresses, "scheduler", "/CN=system:kube-scheduler")?;
    client(cluster, addresses, "kube-proxy", "/CN=system:kube-proxy")
}

/// A certificate and a kubeconfig for somebody who calls the API server.
pub(super) fn client(cluster: &Local, addresses: &Addresses, name: &str, subject: &str) -> anyhow::Result<()> {
    issue(cluster, name, subject, &[format!("DNS:{name}")])?;
    kubeconfig(cluster, addresses, name)
}

/// A certificate for a server or client, of our authority.
pub(super) fn issue(cluster: &Local, name: &str, subject: &str, names: &[String]) -> anyhow::Result<()> {
    let mut command = request(cluster, name, subject);
    command.arg("-CA").arg(file(cluster, "ca.crt")).arg("-CAkey").arg(file(cluster, "ca.key"));
    command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    command.args(["-addext", "extendedKeyUsage=serverAuth,clientAuth"]);
    command.arg("-addext").arg(format!("subjectAltName={}", names.join(",")));
    output(&mut command).with_context(|| format!("no certificate for {name}")).map(drop)
}

/// Makes `NAME.key` and `NAME.crt`.
fn request(cluster: &Local, name: &str, subject: &str) -> Command {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    command.args(["-days", DAYS, "-subj", subject, "-config"]).arg(file(cluster, "openssl.cnf"));
    command.arg("-keyout").arg(file(cluster, &format!("{name}.key")));
    command.arg("-out").arg(file(cluster, &format!("{name}.crt")));
    command
}

/// A file of certificates and keys.
pub(super) fn file(cluster: &Local, name: &str) -> PathBuf {
    cluster.directory().join("pki").join(name)
}

/// Writes `NAME.kubeconfig`. (JSON is YAML.)
pub(super) fn kubeconfig(cluster: &Local, addresses: &Addresses, name: &str) -> anyhow::Result<()> {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "cluster",
        "clusters": [{"name": "cluster", "cluster": {
            "server": addresses.api(), "certificate-authority": file(cluster, "ca.crt"),
        }}],
        "users": [{"name": name, "user": {
            "client-certificate": file(cluster, &format!("{name}.crt")),
            "client-key": file(cluster, &format!("{name}.key")),
        }}],
        "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": name}}],
    });
    let path = cluster.directory().join(format!("{name}.kubeconfig"));
    fs::write(&path, serde_json::to_vec_pretty(&config)?).with_context(|| format!("cannot write {}", path.display()))
}
