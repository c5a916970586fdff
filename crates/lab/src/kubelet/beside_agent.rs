//! Commands in the pod that shows an agent: the agent's own program, which then asks that agent.

use std::process::Stdio;

use tokio::process::Command;

use super::runtime::piped;
use crate::agents::AGENT_PROGRAM;
use crate::place::Place;
use crate::runtime::{ExecRequest, ExecSession, RuntimeError};

/// The one program an agent's image has a name for.
const PROGRAM: &str = AGENT_PROGRAM;

/// Starts a command as on the agent's node.
pub(super) fn start(place: &Place, node: &str, request: &ExecRequest) -> Result<ExecSession, RuntimeError> {
    let Some((PROGRAM, arguments)) = request.command.split_first().map(|(program, rest)| (program.as_str(), rest))
    else {
        let message = format!("the agent's pod has no program but {PROGRAM}: it mirrors a process of the lab");
        return Err(RuntimeError::Failed(message));
    };
    let child = Command::new(place.agent_program())
        .args(arguments)
        .env_remove("KUBECONFIG")
        .env("RINGFENCE_SOCKET", place.agent_socket(node))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    child.and_then(piped).map_err(|error| RuntimeError::Failed(format!("{PROGRAM} could not be started: {error}")))
}
