//! `release`: everything that a release of this machine's architecture has, in one directory.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use xshell::{Shell, cmd};

use crate::{demo, image, setup, tools};

/// The Helm chart.
const CHART: &str = "deploy/helm/ringfence";

/// Where to put it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Directory of what is made.
    #[arg(long, value_name = "DIR", default_value = "target/release-files")]
    output: PathBuf,
}

/// Makes programs, image, chart, list of components and checksums.
pub(crate) fn run(sh: &Shell, options: &Options) -> anyhow::Result<ExitCode> {
    setup::run(sh)?;
    let output = sh.current_dir().join(&options.output);
    sh.create_dir(&output)?;
    let (version, architecture) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    let name = |what: &str, end: &str| output.join(format!("{what}-{version}-{architecture}.{end}"));

    let image = image::release(sh)?;
    sh.copy_file(&image, name("ringfence-image", "tar"))?;
    programs(sh, &name("ringfence", "tar.gz"))?;
    chart(sh, &output)?;
    components(sh, &name("ringfence", "cdx.json"))?;
    checksums(sh, &output, architecture)?;
    Ok(ExitCode::SUCCESS)
}

/// All programs, which run on any machine of the architecture.
fn programs(sh: &Shell, archive: &Path) -> anyhow::Result<()> {
    let folder = image::build_static(sh, demo::PROGRAMS)?;
    let names: Vec<&str> = demo::names().collect();
    cmd!(sh, "tar --create --gzip --file {archive} --owner=0 --group=0 --directory {folder} {names...}").run()?;
    Ok(())
}

/// The chart as `helm install` takes it.
fn chart(sh: &Shell, output: &Path) -> anyhow::Result<()> {
    let helm = tools::helm(sh)?;
    cmd!(sh, "{helm} package {CHART} --destination {output}").run()?;
    Ok(())
}

/// The software bill of materials: every crate that is built in, in the format of CycloneDX.
fn components(sh: &Shell, file: &Path) -> anyhow::Result<()> {
    let cyclonedx = tools::cargo_cyclonedx(sh)?;
    let manifest = "crates/cli/Cargo.toml";
    cmd!(sh, "{cyclonedx} cyclonedx --manifest-path {manifest} --format json --all-features --override-filename bom")
        .run()
        .context("cargo-cyclonedx")?;
    // It writes one file beside each manifest of the workspace.
    let written = Path::new(manifest).with_file_name("bom.json");
    sh.copy_file(&written, file)?;
    for manifest in cmd!(sh, "git ls-files --others **/bom.json").quiet().read()?.lines() {
        sh.remove_path(manifest)?;
    }
    Ok(())
}

/// One file for `sha256sum --check`, named after the architecture as those of others are put beside it.
fn checksums(sh: &Shell, output: &Path, architecture: &str) -> anyhow::Result<()> {
    let _there = sh.push_dir(output);
    let own = format!("SHA256SUMS-{architecture}");
    let files = sh.read_dir(".")?.into_iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
    let mut files: Vec<String> = files.filter(|file| !file.starts_with("SHA256SUMS")).collect();
    files.sort();
    let sums = cmd!(sh, "sha256sum {files...}").read()?;
    sh.write_file(&own, format!("{sums}\n"))?;
    println!("{}\n{sums}", output.display());
    Ok(())
}
