//! `ringfence lab`: hands over to the program `ringfence-lab`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;
use ringfence_console::exit::Code;

/// The program, which is looked for beside this one.
const PROGRAM: &str = "ringfence-lab";

/// `ringfence lab`
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Arguments of the lab
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// Becomes the lab's program. Returns only if that fails.
pub(crate) fn run(args: Args) -> anyhow::Result<Code> {
    let program = std::env::current_exe().context("the path of this program is not known")?.with_file_name(PROGRAM);
    let error = Command::new(&program).args(args.arguments).exec();
    let hint = format!("hint: {PROGRAM} belongs in the directory that ringfence is in");
    Err(error).with_context(|| format!("cannot run {}\n{hint}", program.display()))
}
