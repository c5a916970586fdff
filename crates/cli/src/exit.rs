//! Exit codes, which scripts rely on.

use std::io;
use std::process::ExitCode;

use ringfence_agent::client::ClientError;
use ringfence_install::interrupt::Interrupted;
use ringfence_k8s::crd::install::InstallError;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
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

/// The exit code of a result; an error is told on standard error, with what caused it.
pub(crate) fn finish(result: anyhow::Result<Code>) -> ExitCode {
    let code = result.unwrap_or_else(|error| {
        let code = classify(&error);
        if code != Code::Ok {
            complain(&error);
        }
        code
    });
    ExitCode::from(code as u8)
}

/// A reader of our output who has seen enough is no error.
fn classify(error: &anyhow::Error) -> Code {
    for cause in error.chain() {
        if let Some(error) = cause.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            return Code::Ok;
        }
        if matches!(cause.downcast_ref(), Some(ClientError::Unreachable { .. } | ClientError::Http(_))) {
            return Code::Unreachable;
        }
        if matches!(cause.downcast_ref(), Some(InstallError::Refused { .. })) {
            return Code::Negative;
        }
        if cause.downcast_ref::<Interrupted>().is_some() {
            return Code::Interrupted;
        }
        if cause.downcast_ref::<kube::Error>().is_some() {
            return Code::Unreachable;
        }
    }
    Code::Usage
}

#[expect(clippy::print_stderr, reason = "the one place where errors are told")]
fn complain(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn errors_have_the_code_of_their_cause() {
        let pipe = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("cannot write");
        assert_eq!(classify(&pipe), Code::Ok);
        let error = io::Error::from(io::ErrorKind::NotFound);
        let unreachable: Result<(), _> = Err(ClientError::Unreachable { path: "/x".into(), error });
        assert_eq!(classify(&unreachable.context("status").unwrap_err()), Code::Unreachable);
        assert_eq!(classify(&anyhow::anyhow!("no such file")), Code::Usage);
        let refused = InstallError::Refused { name: "x".into(), reason: "y".into() };
        assert_eq!(classify(&anyhow::Error::from(refused).context("install")), Code::Negative);
        assert_eq!(classify(&anyhow::Error::from(Interrupted { then: "" })), Code::Interrupted);
        let service = || kube::Error::LinesCodecMaxLineLengthExceeded;
        let unreachable = InstallError::Api { name: "x".into(), error: service() };
        assert_eq!(classify(&unreachable.into()), Code::Unreachable);
    }
}
