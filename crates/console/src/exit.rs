//! Exit codes, which scripts rely on.

use std::error::Error;
use std::io;
use std::process::ExitCode;

/// The exit codes, for help texts.
pub const CODES: &str = "Exit codes: 0 fine; 1 a negative answer; 2 wrong usage or unreadable input; \
                         3 undecidable; 4 cluster or agent unreachable";

/// Result of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Fine.
    Ok = 0,
    /// The answer is no.
    Negative = 1,
    /// Wrong usage, or input that cannot be read.
    Usage = 2,
    /// The cluster, or the agent, cannot be reached.
    Unreachable = 4,
    /// Somebody pressed Ctrl-C: 128 and the number of the signal, as shells have it.
    Interrupted = 130,
}

/// The exit code of a result. An error is printed on standard error, with its causes. `known` gives the code of errors
/// that the program knows; those that nobody knows have [`Code::Usage`].
pub fn finish(result: anyhow::Result<Code>, known: impl Fn(&(dyn Error + 'static)) -> Option<Code>) -> ExitCode {
    let code = result.unwrap_or_else(|error| {
        let code = classify(&error, known);
        if code != Code::Ok {
            print(&error);
        }
        code
    });
    ExitCode::from(code as u8)
}

/// The code of the outermost cause that is known. A reader of the output who has seen enough is no error.
pub fn classify(error: &anyhow::Error, known: impl Fn(&(dyn Error + 'static)) -> Option<Code>) -> Code {
    let broken_pipe = |cause: &(dyn Error + 'static)| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        (kind == Some(io::ErrorKind::BrokenPipe)).then_some(Code::Ok)
    };
    error.chain().find_map(|cause| broken_pipe(cause).or_else(|| known(cause))).unwrap_or(Code::Usage)
}

#[expect(clippy::print_stderr, reason = "the one place where errors are printed")]
fn print(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn errors_have_the_code_of_their_cause() {
        let known = |cause: &(dyn Error + 'static)| cause.downcast_ref::<std::fmt::Error>().map(|_| Code::Unreachable);
        let pipe = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("cannot write");
        assert_eq!(classify(&pipe, known), Code::Ok);
        let unreachable = Err::<(), _>(std::fmt::Error).context("status").unwrap_err();
        assert_eq!(classify(&unreachable, known), Code::Unreachable);
        assert_eq!(classify(&anyhow::anyhow!("no such file"), known), Code::Usage);
    }
}
