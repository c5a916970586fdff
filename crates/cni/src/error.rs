//! Errors, with the codes of the CNI specification (section 5, "Error").

use ringfence_api::ClientError;
use serde_json::{Value, json};

/// The reason why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is of a version that is not spoken.
    #[error("CNI version {0:?} is not supported; supported are {supported}", supported = crate::SUPPORTED.join(", "))]
    Version(String),
    /// An environment variable of the protocol is missing or wrong.
    #[error("{variable}: {why}")]
    Environment {
        /// Its name.
        variable: &'static str,
        /// The problem with it.
        why: String,
    },
    /// The configuration cannot be read at all.
    #[error("the configuration on standard input cannot be decoded: {0}")]
    Decode(String),
    /// The configuration can be read but not be used.
    #[error("{0}")]
    Config(String),
    /// The agent did not say yes.
    #[error(transparent)]
    Agent(#[from] ClientError),
}

impl Error {
    /// Code of the specification, or of ours from 100 on.
    pub fn code(&self) -> u32 {
        match self {
            Self::Version(_) => 1,
            Self::Environment { .. } => 4,
            Self::Decode(_) => 6,
            Self::Config(_) => 7,
            // "Try again later": the kubelet does.
            Self::Agent(ClientError::Answer(_)) => 100,
            Self::Agent(_) => 11,
        }
    }

    /// The consequence, and advice.
    pub fn details(&self) -> &'static str {
        match self {
            Self::Version(_) => "set cniVersion of the configuration to a supported one",
            Self::Environment { .. } => "container runtimes set it; this program is not meant to be started by hand",
            Self::Decode(_) | Self::Config(_) => "see the configuration in /etc/cni/net.d",
            Self::Agent(ClientError::Answer(_)) => "agent and plugin may be of different versions",
            Self::Agent(_) => "a pod is not started without its policy; the kubelet tries again",
        }
    }

    /// As the specification wants it on standard output.
    pub fn object(&self, cni_version: &str) -> Value {
        json!({
            "cniVersion": cni_version,
            "code": self.code(),
            "msg": self.to_string(),
            "details": self.details(),
        })
    }

    /// The same for `STATUS`, whose codes are its own: 50, the plugin cannot serve `ADD` now. Never 51, which is that
    /// pods that run may have lost their network as well: what is in the kernel stays in force without an agent.
    pub fn status_object(&self, cni_version: &str) -> Value {
        let mut object = self.object(cni_version);
        if matches!(self, Self::Agent(_)) {
            object["code"] = json!(50);
        }
        object
    }
}
