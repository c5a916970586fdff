//! The lab's own `agnhost`, the end-to-end tests' image: `connect`, `netexec`, `serve-hostname`, `pause`, with the
//! flags and answers of the original.

mod connect;
mod flags;
mod netexec;
pub(crate) use netexec::any_address;
mod serve_hostname;

use std::io;

use flags::Flags;

/// Runs a subcommand; gives the exit code.
pub fn main(arguments: &[String]) -> i32 {
    let (name, rest) = arguments.split_first().map_or(("", &[][..]), |(name, rest)| (name.as_str(), rest));
    let outcome = match name {
        "connect" => connect::main(rest),
        "netexec" => served(netexec::main(rest)),
        "serve-hostname" => served(serve_hostname::main(rest)),
        "pause" => pause(),
        "" | "help" | "--help" | "-h" => {
            say("agnhost of the lab: connect, netexec, serve-hostname, pause");
            Ok(0)
        }
        other => Err(format!(
            "unknown command {other:?} for \"agnhost\": the lab has connect, netexec, serve-hostname, pause"
        )),
    };
    outcome.unwrap_or_else(|error| {
        complain(&format!("Error: {error}"));
        1
    })
}

fn served(result: io::Result<()>) -> Result<i32, String> {
    result.map(|()| 0).map_err(|error| error.to_string())
}

/// Waits for the signal to end.
pub fn pause() -> Result<i32, String> {
    say("Paused");
    let ends = [nix::sys::signal::Signal::SIGTERM, nix::sys::signal::Signal::SIGINT];
    let wanted: nix::sys::signal::SigSet = ends.into_iter().collect();
    wanted.thread_block().map_err(|error| error.to_string())?;
    wanted.wait().map_err(|error| error.to_string())?;
    Ok(0)
}

#[expect(clippy::print_stdout, reason = "a program's output")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "a program's error output")]
fn complain(text: &str) {
    eprintln!("{text}");
}

/// An error about how the program was called.
fn usage(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message.into())
}
