//! The images that a cluster knows: one Debian root with web server, client tools, agnhost and CoreDNS, under the names
//! by which people and suites ask for them.

use std::fs;

use anyhow::Context as _;
use xshell::{Shell, cmd};

use super::programs::Programs;
use crate::image::{Image, Layer, archive};

/// Where images come from, by their names.
pub(super) const REGISTRIES: [&str; 2] = ["docker.io", "registry.k8s.io"];
/// Repository of the image that suites of Kubernetes use.
const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost";
/// Its tags that suites of some version ask for.
const AGNHOST_TAGS: [&str; 12] =
    ["2.28", "2.36", "2.39", "2.43", "2.45", "2.47", "2.52", "2.53", "2.54", "2.55", "2.56", "latest"];
/// The image of a pod's sandbox.
pub(super) const SANDBOX: &str = "registry.k8s.io/pause:3.10.1";
/// Others: name, entry point, command.
const OTHERS: [(&str, &[&str], &[&str]); 7] = [
    (SANDBOX, &["/agnhost", "pause"], &[]),
    ("registry.k8s.io/coredns/coredns:latest", &["/coredns"], &[]),
    ("registry.k8s.io/e2e-test-images/busybox:1.37.0-1", &[], &["/bin/sh"]),
    ("docker.io/library/nginx:latest", &[], &["nginx", "-g", "daemon off;"]),
    ("docker.io/library/busybox:latest", &[], &["/bin/sh"]),
    ("docker.io/library/alpine:latest", &[], &["/bin/sh"]),
    ("docker.io/curlimages/curl:latest", &["curl"], &[]),
];
/// Packages of the root.
const PACKAGES: &str =
    "nginx-light,curl,ca-certificates,busybox-static,iproute2,iputils-ping,netcat-openbsd,bind9-dnsutils";
const ENVIRONMENT: &[&str] = &["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];

/// Makes the archive of all images, and the same as a directory.
pub(super) fn make(sh: &Shell, programs: &Programs) -> anyhow::Result<()> {
    println!("Making the images.");
    let work = sh.create_temp_dir()?;
    let root = work.path().join("root.tar");
    let copy = format!("copy-in {} {} /", programs.path("agnhost").display(), programs.path("coredns").display());
    let suite = codename(sh)?;
    cmd!(sh, "mmdebstrap --quiet --variant=essential --include={PACKAGES} --customize-hook={copy} {suite} {root}")
        .run()
        .context("the root file system of the images cannot be made")?;
    let layer = Layer::of_tar(&fs::read(&root)?)?;
    let tags = AGNHOST_TAGS.map(|tag| format!("{AGNHOST}:{tag}"));
    let agnhost = tags.iter().map(|reference| (reference.as_str(), &["/agnhost"][..], &["pause"][..]));
    let images = OTHERS.into_iter().chain(agnhost).map(|(reference, entrypoint, command)| Image {
        reference,
        entrypoint,
        command,
        environment: ENVIRONMENT,
        layer: &layer,
    });
    let archive = archive(&images.collect::<Vec<_>>())?;
    fs::write(programs.images(), archive.bytes)?;
    let (layout, images) = (programs.layout(), programs.images());
    fs::create_dir_all(&layout)?;
    cmd!(sh, "tar --extract --file {images} --directory {layout}").run()?;
    Ok(())
}

/// The release of Debian, or of what is made of it, that this machine runs: its packages are at hand.
fn codename(sh: &Shell) -> anyhow::Result<String> {
    let text = sh.read_file("/etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release names no VERSION_CODENAME")?.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_is_of_a_registry_that_nodes_ask_here_for() {
        for reference in OTHERS.map(|(reference, ..)| reference).into_iter().chain([AGNHOST]) {
            assert!(REGISTRIES.iter().any(|registry| reference.starts_with(&format!("{registry}/"))), "{reference}");
        }
    }
}
