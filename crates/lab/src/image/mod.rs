//! The images the lab knows: what a name stands for on this machine.

pub mod agnhost;
pub mod web;

use std::path::Path;

use crate::container::{FileContent, PROGRAM};

/// Contents of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Program that is always run; the pod's `command` replaces it.
    pub entrypoint: Vec<String>,
    /// Its default arguments; the pod's `args` replace them.
    pub arguments: Vec<String>,
    /// Files it has beside the machine's own.
    pub files: Vec<FileContent>,
}

/// The image of the lab's DNS server.
pub const DNS: &str = "ringfence.example/lab/dns:1";
/// Image that an agent's mirror pod names. It is not run by the kubelet.
pub const AGENT: &str = "ringfence.example/ringfence:lab";

/// The images there are, for messages.
pub const KNOWN: &str =
    "nginx, registry.k8s.io/e2e-test-images/agnhost, registry.k8s.io/pause, busybox, alpine, curlimages/curl";

/// Finds an image by its reference; any tag or digest will do. None if the lab does not know it.
pub fn find(reference: &str) -> Option<Image> {
    match repository(reference).as_str() {
        "docker.io/library/nginx" => Some(nginx()),
        "registry.k8s.io/e2e-test-images/agnhost" | "gcr.io/kubernetes-e2e-test-images/agnhost" => {
            Some(agnhost_image())
        }
        "registry.k8s.io/pause" | "k8s.gcr.io/pause" => Some(built_in("/pause", "pause", &[])),
        "docker.io/library/busybox" | "docker.io/library/alpine" => {
            Some(Image { arguments: words(&["sh"]), ..Image::default() })
        }
        "docker.io/curlimages/curl" => Some(curl()),
        "ringfence.example/lab/dns" => Some(built_in("/dns", "dns", &[])),
        _ => None,
    }
}

/// The repository of a reference, written out: registry, path, no tag nor digest.
pub fn repository(reference: &str) -> String {
    let reference = reference.split('@').next().unwrap_or_default();
    // A colon before the last slash belongs to the registry's port.
    let name = match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => reference,
    };
    match name.split_once('/') {
        None => format!("docker.io/library/{name}"),
        Some(("docker.io" | "index.docker.io", path)) if !path.contains('/') => format!("docker.io/library/{path}"),
        Some(("index.docker.io", path)) => format!("docker.io/{path}"),
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
    }
}

/// The command line of a container of an image: a pod's `command` replaces both entry point and arguments.
pub fn command_line(image: &Image, command: Option<&[String]>, arguments: Option<&[String]>) -> Vec<String> {
    let command = command.filter(|command| !command.is_empty());
    let arguments = arguments.filter(|arguments| !arguments.is_empty());
    match (command, arguments) {
        (Some(command), arguments) => [command, arguments.unwrap_or_default()].concat(),
        (None, Some(arguments)) => [&image.entrypoint, arguments].concat(),
        (None, None) => [image.entrypoint.as_slice(), &image.arguments].concat(),
    }
}

/// The machine's nginx with a configuration of its own, or a server with the same welcome.
fn nginx() -> Image {
    let installed = ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx"];
    if !installed.iter().any(|path| Path::new(path).exists()) {
        let mut image = built_in("/usr/sbin/nginx", "web", &["-g", "daemon off;"]);
        image.entrypoint = words(&["nginx"]);
        return image;
    }
    let file =
        |path: &str, content: &str| FileContent { path: path.into(), content: content.into(), executable: false };
    Image {
        entrypoint: Vec::new(),
        arguments: words(&["nginx", "-g", "daemon off;"]),
        files: vec![
            file("/etc/nginx/nginx.conf", include_str!("nginx.conf")),
            file("/usr/share/nginx/html/index.html", web::WELCOME),
        ],
    }
}

fn agnhost_image() -> Image {
    let mut image = built_in("/agnhost", "agnhost", &["pause"]);
    image.entrypoint = words(&["/agnhost"]);
    image
}

fn curl() -> Image {
    let script = "#!/bin/sh\ncase \"${1:--}\" in -*) exec curl \"$@\" ;; *) exec \"$@\" ;; esac\n";
    Image {
        entrypoint: words(&["/entrypoint.sh"]),
        arguments: words(&["curl", "--help"]),
        files: vec![FileContent { path: "/entrypoint.sh".into(), content: script.into(), executable: true }],
    }
}

/// An image whose program is part of this one.
fn built_in(path: &str, name: &str, arguments: &[&str]) -> Image {
    let script = format!("#!/bin/sh\nexec {PROGRAM} lab-image {name} \"$@\"\n");
    Image {
        entrypoint: words(&[path]),
        arguments: words(arguments),
        files: vec![FileContent { path: path.into(), content: script, executable: true }],
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_understood_with_and_without_registry_tag_and_digest() {
        for (reference, expected) in [
            ("nginx", "docker.io/library/nginx"),
            ("nginx:1.27-alpine", "docker.io/library/nginx"),
            ("docker.io/nginx", "docker.io/library/nginx"),
            ("docker.io/library/nginx:latest", "docker.io/library/nginx"),
            ("nginx@sha256:0123", "docker.io/library/nginx"),
            ("nginx:1.27@sha256:0123", "docker.io/library/nginx"),
            ("curlimages/curl:8.1.2", "docker.io/curlimages/curl"),
            ("registry.k8s.io/e2e-test-images/agnhost:2.53", "registry.k8s.io/e2e-test-images/agnhost"),
            ("localhost:5000/nginx", "localhost:5000/nginx"),
        ] {
            assert_eq!(repository(reference), expected, "{reference}");
        }
        assert_eq!(find("localhost:5000/nginx"), None);
        assert_eq!(find("nginxx"), None);
        assert!(find("nginx:stable").is_some());
    }

    #[test]
    fn command_and_arguments_replace_what_the_image_says() {
        let image = Image { entrypoint: words(&["/e"]), arguments: words(&["a"]), files: Vec::new() };
        let (command, arguments) = (words(&["c", "d"]), words(&["x"]));
        assert_eq!(command_line(&image, None, None), ["/e", "a"]);
        assert_eq!(command_line(&image, None, Some(&arguments)), ["/e", "x"]);
        assert_eq!(command_line(&image, Some(&command), None), ["c", "d"]);
        assert_eq!(command_line(&image, Some(&command), Some(&arguments)), ["c", "d", "x"]);
    }
}
