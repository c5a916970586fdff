//! Compiles the kernel program with clang.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const SOURCE_DIR: &str = "src/bpf";
/// Oldest version that compiles the program as tested.
const OLDEST_CLANG: u32 = 14;
const NEWEST_CLANG: u32 = 30;
/// Processors on which no load overtakes another.
const ORDERED_LOADS: [&str; 2] = ["x86_64", "s390x"];

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed={SOURCE_DIR}");
    println!("cargo:rerun-if-env-changed=CLANG");
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            message.lines().for_each(|line| println!("cargo:warning={line}"));
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<(), String> {
    let clang = find_clang().ok_or(
        "no clang that knows BPF was found: it compiles the kernel program. \
         hint: apt install clang-19 (or set CLANG to its path)",
    )?;
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: this is meant to be run by cargo")?;
    libbpf_cargo::SkeletonBuilder::new()
        .source(Path::new(SOURCE_DIR).join("ringfence.bpf.c"))
        .obj(PathBuf::from(out).join("ringfence.bpf.o"))
        .clang(clang)
        .clang_args(clang_args())
        .build()
        .map_err(|error| format!("{error:?}"))
}

fn clang_args() -> Vec<OsString> {
    let known = ["-mcpu=v3", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"];
    let mut args: Vec<OsString> = known.map(OsString::from).into();
    // The object's line information names files: where they lay would make every directory's object another one.
    for (variable, name) in [("CARGO_MANIFEST_DIR", "datapath"), ("OUT_DIR", "out")] {
        if let Some(directory) = env::var_os(variable) {
            let mut map = OsString::from("-fdebug-prefix-map=");
            map.push(directory);
            map.push(format!("={name}"));
            args.push(map);
        }
    }
    let other_layout = env::var_os("CARGO_FEATURE_OTHER_LAYOUT").is_some();
    if other_layout {
        args.push("-DRINGFENCE_OTHER_LAYOUT".into());
    }
    // With the other layout tests load what processors need that do not keep loads in order.
    let keeps_order = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| ORDERED_LOADS.contains(&&*arch));
    if keeps_order && !other_layout {
        args.push("-DRINGFENCE_LOADS_IN_ORDER".into());
    }
    args
}

/// `$CLANG`, else the newest versioned clang, else plain `clang` if it knows BPF.
fn find_clang() -> Option<PathBuf> {
    if let Some(path) = env::var_os("CLANG") {
        return Some(path.into());
    }
    let versioned = (OLDEST_CLANG..=NEWEST_CLANG).rev().map(|version| format!("clang-{version}"));
    versioned.chain(["clang".into()]).map(PathBuf::from).find(|clang| {
        let output = Command::new(clang).arg("--print-targets").output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("bpf "))
    })
}
