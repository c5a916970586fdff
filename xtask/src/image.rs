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
pub(crate) use layer::Layer;
pub(crate) use oci::{Image, archive};

/// The program in the image: the agent.
const PROGRAM: &str = "/usr/bin/ringfence-agent";
/// The network plugin, which the agent copies onto nodes.
const PLUGIN: &str = "/usr/bin/ringfence-cni";
/// Directory in the image for network plugins that the agent delegates to; the node's own directory is mounted
/// elsewhere.
const PLUGIN_DIR: &str = "/usr/lib/cni";
/// Network plugins that are shipped: what primary mode hands pods on to.
const PLUGINS: &[&str] = &["host-local", "loopback", "portmap", "ptp"];
/// Search path in the image.
const SEARCH_PATH: &str = "PATH=/usr/sbin:/usr/bin";

/// Options of the image.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Path of the archive [default: target/ringfence-image.tar, target/ringfence-image-debug.tar].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name of the image.
    #[arg(long, value_name = "NAME:TAG", default_value = REFERENCE)]
    reference: String,
    /// Take this program and `ringfence-cni` beside it, which must be linked statically, instead of building them.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Pack the debug build with this machine's libraries: for trying it on clusters whose nodes are on this machine,
    /// and for nothing else. Other nodes may lack the libraries when it runs there as a network plugin.
    #[arg(long, conflicts_with = "binary")]
    debug: bool,
}

/// Name of the image of this version.
pub(crate) const REFERENCE: &str = concat!("localhost/ringfence:", env!("CARGO_PKG_VERSION"));
/// Name of the image of the version with another layout of maps, which is for tests of upgrades.
pub(crate) const OTHER_REFERENCE: &str = concat!("localhost/ringfence:", env!("CARGO_PKG_VERSION"), "-other-layout");

/// Builds the program and packs it with what it runs.
pub(crate) fn run(sh: &Shell, options: &Options) -> anyhow::Result<ExitCode> {
    setup::run(sh)?;
    setup::image(sh)?;
    let files = match &options.binary {
        _ if options.debug => debug_files(sh, &build_debug(sh, false)?)?,
        Some(path) => collect(path)?,
        None => collect(&build(sh)?)?,
    };
    let name = if options.debug { "target/ringfence-image-debug.tar" } else { "target/ringfence-image.tar" };
    let output = options.output.clone().unwrap_or_else(|| name.into());
    write(sh, &files, &output, &options.reference)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes the image of a debug program, for clusters on this machine; without one, of a version with another layout.
pub(crate) fn debug(sh: &Shell, program: Option<&Path>) -> anyhow::Result<PathBuf> {
    setup::image(sh)?;
    let (name, reference, files) = match program {
        Some(program) => ("debug", REFERENCE, debug_files(sh, program)?),
        None => ("other-layout", OTHER_REFERENCE, debug_files(sh, &build_debug(sh, true)?)?),
    };
    let output = sh.current_dir().join(format!("target/ringfence-image-{name}.tar"));
    write(sh, &files, &output, reference)?;
    Ok(output)
}

/// Makes the image that is shipped.
pub(crate) fn release(sh: &Shell) -> anyhow::Result<PathBuf> {
    setup::image(sh)?;
    let output = sh.current_dir().join("target/ringfence-image.tar");
    write(sh, &collect(&build(sh)?)?, &output, REFERENCE)?;
    Ok(output)
}

/// The debug build. With all packages, as the tests build it, so that nothing is compiled twice.
fn build_debug(sh: &Shell, other_layout: bool) -> anyhow::Result<PathBuf> {
    let features: &[&str] = if other_layout { &["--features", "ringfence-agent/other-layout"] } else { &[] };
    cmd!(sh, "cargo build --quiet --locked --workspace {features...}").run()?;
    demo::binary(sh, "debug", "ringfence-agent")
}

/// The debug build with what it needs of this machine.
fn debug_files(sh: &Shell, program: &Path) -> anyhow::Result<Files> {
    let mut files = Files::default();
    for (program, place) in programs(program) {
        let stripped = program.with_extension("stripped");
        cmd!(sh, "strip --strip-debug -o {stripped} {program}").quiet().run().context("strip (of binutils)")?;
        files.add(&stripped, place)?;
        sh.remove_path(&stripped)?;
        files.add_libraries_of(place)?;
    }
    add_others(&mut files)?;
    Ok(files)
}

fn write(sh: &Shell, files: &Files, output: &Path, reference: &str) -> anyhow::Result<()> {
    let layer = layer::pack(files)?;
    let unpacked: u64 = files.iter().map(|(_, file)| file.content.len() as u64).sum();
    let image = Image { reference, entrypoint: &[PROGRAM], command: &[], environment: &[SEARCH_PATH], layer: &layer };
    let archive = archive(&[image])?;
    sh.write_file(output, &archive.bytes)?;
    println!("image    {} ({reference})", output.display());
    println!("digest   {}", archive.digests.join(" "));
    println!(
        "size     {} compressed, {} unpacked, {} files",
        mib(archive.bytes.len() as u64),
        mib(unpacked),
        files.len()
    );
    Ok(())
}

/// The program and the plugin beside it, and their places in the image.
fn programs(program: &Path) -> [(PathBuf, &'static str); 2] {
    [(program.to_owned(), PROGRAM), (program.with_file_name("ringfence-cni"), PLUGIN)]
}

/// Static programs: the plugin is copied onto nodes, where no library can be relied on.
fn build(sh: &Shell) -> anyhow::Result<PathBuf> {
    build_static(sh, &["--package", "ringfence-agent", "--package", "ringfence-cni"])?;
    demo::binary(sh, &format!("{}/release", target()), "ringfence-agent")
}

/// What the compiler calls this machine.
fn target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// Builds programs that need no library, in release; the agent has to be among them. The directory they are in.
pub(crate) fn build_static(sh: &Shell, packages: &[&str]) -> anyhow::Result<PathBuf> {
    let target = target();
    let home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| home + "/.cargo"))?;
    let here = sh.current_dir();
    // Paths of this machine would make every machine's program another one.
    let flags = format!(
        "-C target-feature=+crt-static -C strip=symbols --remap-path-prefix={}=/ringfence \
         --remap-path-prefix={home}=/cargo",
        here.display()
    );
    let libraries = format!("/usr/lib/{}-linux-gnu:/usr/lib64:/usr/lib", std::env::consts::ARCH);
    let _flags = sh.push_env("RUSTFLAGS", flags);
    let _libraries = sh.push_env("LIBBPF_SYS_LIBRARY_PATH", libraries);
    cmd!(sh, "cargo build --release --locked {packages...} --features ringfence-agent/static --target {target}")
        .run()?;
    demo::binary(sh, &target, "release")
}

/// Everything in the image.
fn collect(binary: &Path) -> anyhow::Result<Files> {
    let mut files = Files::default();
    for (program, place) in programs(binary) {
        files.add(&program, place)?;
        anyhow::ensure!(
            elf::needs(&files.content(place)?)?.is_static(),
            "{} is linked dynamically, and would not run on a node\nhint: leave --binary away",
            program.display()
        );
    }
    add_others(&mut files)?;
    Ok(files)
}

/// Adds the programs that the agent runs.
fn add_others(files: &mut Files) -> anyhow::Result<()> {
    files.add_program(Path::new("/usr/sbin/nft"))?;
    for plugin in PLUGINS {
        files.add_program(&Path::new(PLUGIN_DIR).join(plugin))?;
    }
    files.add_notices()
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
