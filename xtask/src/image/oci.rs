//! An image in the layout of the OCI image specification, as one tar archive, with the index that `docker load` reads.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType};

use super::layer::{Layer, header};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What an image is.
pub(crate) struct Image<'a> {
    /// Name and tag.
    pub(crate) reference: &'a str,
    /// The program it runs.
    pub(crate) entrypoint: &'a [&'a str],
    /// What the program is told, or the program where there is no entry point, unless a container says otherwise.
    pub(crate) command: &'a [&'a str],
    /// `NAME=value`.
    pub(crate) environment: &'a [&'a str],
    /// Its files.
    pub(crate) layer: &'a Layer,
}

/// Images as one file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Archive {
    /// The file.
    pub(crate) bytes: Vec<u8>,
    /// Digest of each image's manifest: what a registry knows the image by.
    pub(crate) digests: Vec<String>,
}

/// `sha256:…`
pub(super) fn digest(data: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(data))
}

/// Packs images. A layer that several of them have is there once.
pub(crate) fn archive(images: &[Image<'_>]) -> anyhow::Result<Archive> {
    let mut files = BTreeMap::from([("oci-layout".to_owned(), bytes(&json!({"imageLayoutVersion": "1.0.0"}))?)]);
    let (mut digests, mut entries, mut docker) = (Vec::new(), Vec::new(), Vec::new());
    for image in images {
        let config = bytes(&config(image))?;
        let layer = descriptor(LAYER, &image.layer.bytes);
        let manifest = bytes(&json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &config), "layers": [layer],
        }))?;
        let mut entry = descriptor(MANIFEST, &manifest);
        let tag = image.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        entry["platform"] = json!({"architecture": architecture(), "os": "linux"});
        // containerd takes the name from the first, others from the second.
        entry["annotations"] = json!({
            "io.containerd.image.name": image.reference, "org.opencontainers.image.ref.name": tag,
        });
        docker.push(json!({
            "Config": blob(&digest(&config)), "RepoTags": [image.reference],
            "Layers": [blob(&digest(&image.layer.bytes))],
        }));
        entries.push(entry);
        digests.push(digest(&manifest));
        for content in [config, manifest] {
            files.insert(blob(&digest(&content)), content);
        }
        files.entry(blob(&digest(&image.layer.bytes))).or_insert_with(|| image.layer.bytes.clone());
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    files.insert("index.json".to_owned(), bytes(&index)?);
    files.insert("manifest.json".to_owned(), bytes(&Value::Array(docker))?);
    Ok(Archive { bytes: pack(files)?, digests })
}

fn descriptor(kind: &str, data: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest(data), "size": data.len()})
}

fn pack(files: BTreeMap<String, Vec<u8>>) -> anyhow::Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for directory in ["blobs/", "blobs/sha256/"] {
        builder.append_data(&mut header(EntryType::Directory, 0o755, 0), directory, &[][..])?;
    }
    for (path, content) in files {
        let mut header = header(EntryType::Regular, 0o644, content.len() as u64);
        builder.append_data(&mut header, path, content.as_slice())?;
    }
    Ok(builder.into_inner()?)
}

fn config(image: &Image<'_>) -> Value {
    let mut settings = json!({"Env": image.environment, "WorkingDir": "/"});
    for (name, words) in [("Entrypoint", image.entrypoint), ("Cmd", image.command)] {
        if !words.is_empty() {
            settings[name] = json!(words);
        }
    }
    json!({
        "architecture": architecture(), "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [image.layer.diff_id]},
    })
}

/// This machine's architecture as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn bytes(value: &Value) -> anyhow::Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}

fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::path::Path;

    use flate2::read::GzDecoder;

    use super::super::{files::Files, layer};
    use super::*;

    fn make() -> (Files, Archive) {
        let mut files = Files::default();
        files.add_program(Path::new("/bin/true")).unwrap();
        let layer = layer::pack(&files).unwrap();
        let image = |reference, command| Image {
            reference,
            entrypoint: &["/bin/true"],
            command,
            environment: &["PATH=/bin"],
            layer: &layer,
        };
        let archive = archive(&[image("localhost/x:1", &[]), image("localhost/y:1", &["-v"])]).unwrap();
        (files, archive)
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        // That no entry tells the time is shown by the test of layers, and here by the archive itself.
        let (first, second) = (make().1, make().1);
        assert!(first == second, "two images of the same files differ");
        for entry in tar::Archive::new(first.bytes.as_slice()).entries().unwrap() {
            assert_eq!(entry.unwrap().header().mtime().unwrap(), 0);
        }
    }

    #[test]
    fn every_digest_is_right_and_every_blob_is_referred_to() {
        let (files, archive) = make();
        let mut entries = BTreeMap::new();
        for entry in tar::Archive::new(archive.bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            entries.insert(entry.path().unwrap().display().to_string(), content);
        }
        let read = |path: &str| serde_json::from_slice::<Value>(&entries[path]).unwrap();
        let named = |descriptor: &Value| {
            let path = blob(descriptor["digest"].as_str().unwrap());
            assert_eq!(digest(&entries[&path]), descriptor["digest"]);
            assert_eq!(entries[&path].len() as u64, descriptor["size"]);
            path
        };
        let index = read("index.json");
        let [manifest, other] = [0, 1].map(|number| read(&named(&index["manifests"][number])));
        assert_eq!([0, 1].map(|number| index["manifests"][number]["digest"].as_str().unwrap()), *archive.digests);
        assert_eq!(
            (&other["layers"], read(&named(&other["config"]))["config"]["Cmd"][0].as_str()),
            (&manifest["layers"], Some("-v"))
        );
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "localhost/x:1");
        let config = read(&named(&manifest["config"]));
        let layer = named(&manifest["layers"][0]);
        let mut plain = Vec::new();
        GzDecoder::new(entries[&layer].as_slice()).read_to_end(&mut plain).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&plain));
        let docker = read("manifest.json");
        assert_eq!(docker[0]["Layers"][0], layer);
        assert!(entries.contains_key(docker[0]["Config"].as_str().unwrap()));
        let blobs = entries.keys().filter(|path| path.starts_with("blobs/sha256/") && !path.ends_with('/'));
        assert_eq!(blobs.count(), 5, "two images of one layer");
        assert!(files.iter().all(|(path, _)| !path.ends_with("/sh")), "there is a shell in it");
    }
}
