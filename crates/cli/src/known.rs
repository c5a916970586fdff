//! Exit codes of the errors that commands end with.

use std::error::Error;

use ringfence_api::ClientError;
use ringfence_console::exit::Code;
use ringfence_install::interrupt::Interrupted;
use ringfence_k8s::crd::install::InstallError;

/// The exit code of an error, if it has one of its own.
pub(crate) fn known(cause: &(dyn Error + 'static)) -> Option<Code> {
    match cause.downcast_ref() {
        Some(ClientError::Unreachable { .. } | ClientError::Incomplete(_)) => return Some(Code::Unreachable),
        Some(ClientError::Refused { .. } | ClientError::Answer(_)) | None => {}
    }
    if matches!(cause.downcast_ref(), Some(InstallError::Refused { .. })) {
        return Some(Code::Negative);
    }
    if cause.is::<Interrupted>() {
        return Some(Code::Interrupted);
    }
    cause.is::<kube::Error>().then_some(Code::Unreachable)
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context as _;
    use ringfence_console::exit;

    use super::*;

    fn classify(error: &anyhow::Error) -> Code {
        exit::classify(error, known)
    }

    #[test]
    fn errors_have_the_code_of_their_cause() {
        let error = io::Error::from(io::ErrorKind::NotFound);
        let unreachable: Result<(), _> = Err(ClientError::Unreachable { socket: "/x".into(), error });
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
