//! `image`: a container image as an OCI archive, made without Docker; the same files give the same bytes.

mod elf;
mod files;
mod layer;
mod oci;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use xshell::{Shell, cmd};

use crate::{demo, setup};
use files::Files;

/// Directory in the image for network plugins that the agent delegates to; the node's own directory is mounted
/// elsewhere.
const PLUGIN_DIR: &str = "/usr/lib/cni";
/// Network plugins that are shipped: what primary mode hands pods on to.
const PLUGINS: &[&str] = &["host-local", "loopback", "portmap", "ptp"];
/// Where programs are found in the image.
const SEARCH_PATH: &str = "PATH=/usr/sbin:/usr/bin";

/// What to make.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where to write the archive.
    #[arg(long, value_name = "FILE", default_value = "target/ringfence-image.tar")]
    output: PathBuf,
    /// What the image is called.
    #[arg(long, value_name = "NAME:TAG", default_value = concat!("localhost/ringfence:", env!("CARGO_PKG_VERSION")))]
    reference: String,
    /// Take this program, which must be linked statically, instead of building it.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Builds the program and packs it with what it runs.
pub(crate) fn run(sh: &Shell, options: &Options) -> anyhow::Result<ExitCode> {
    setup::run(sh)?;
    setup::image(sh)?;
    let binary = match &options.binary {
        Some(path) => path.clone(),
        None => build(sh)?,
    };
    let files = collect(&binary)?;
    let layer = layer::pack(&files)?;
    let unpacked: u64 = files.iter().map(|(_, file)| file.content.len() as u64).sum();
    let image = oci::Image {
        reference: &options.reference,
        entrypoint: &["/usr/bin/ringfence"],
        environment: &[SEARCH_PATH],
        layer: &layer,
    };
    let archive = oci::archive(&image)?;
    sh.write_file(&options.output, &archive.bytes)?;
    println!("image    {} ({})", options.output.display(), options.reference);
    println!("digest   {}", archive.digest);
    println!(
        "size     {} compressed, {} unpacked, {} files",
        mib(archive.bytes.len() as u64),
        mib(unpacked),
        files.len()
    );
    Ok(ExitCode::SUCCESS)
}

/// A static program: it is copied onto nodes as their network plugin, where no library can be relied on.
fn build(sh: &Shell) -> anyhow::Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| home + "/.cargo"))?;
    let here = sh.current_dir();
    // Paths of this machine would make every machine's program another one.
    let flags = format!(
        "-C target-feature=+crt-static -C strip=symbols --remap-path-prefix={}=/ringfence --remap-path-prefix={home}=/cargo",
        here.display()
    );
    let libraries = format!("/usr/lib/{}-linux-gnu:/usr/lib64:/usr/lib", std::env::consts::ARCH);
    let _flags = sh.push_env("RUSTFLAGS", flags);
    let _libraries = sh.push_env("LIBBPF_SYS_LIBRARY_PATH", libraries);
    cmd!(sh, "cargo build --release --locked --package ringfence --features static --target {target}").run()?;
    demo::binary(sh, &format!("{target}/release"), "ringfence")
}

/// Everything in the image.
fn collect(binary: &Path) -> anyhow::Result<Files> {
    let mut files = Files::default();
    files.add(binary, "/usr/bin/ringfence").context("the program")?;
    anyhow::ensure!(
        elf::needs(&files.content("/usr/bin/ringfence")?)?.is_static(),
        "{} is linked dynamically, and would not run as a network plugin on a node\nhint: leave --binary away",
        binary.display()
    );
    files.add_program(Path::new("/usr/sbin/nft"))?;
    for plugin in PLUGINS {
        files.add_program(&Path::new(PLUGIN_DIR).join(plugin))?;
    }
    files.add_notices()?;
    Ok(files)
}

fn mib(bytes: u64) -> String {
    format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_mebibytes() {
        assert_eq!(mib(0), "0.0 MiB");
        assert_eq!(mib((3 << 20) + (1 << 19)), "3.5 MiB");
    }

    #[test]
    fn a_dynamic_program_is_refused() {
        let own = std::env::current_exe().unwrap();
        let error = collect(&own).err().unwrap().to_string();
        assert!(error.contains("linked dynamically"), "{error}");
    }
}
