//! Commands that ask the agent of this node.

use futures::StreamExt as _;
use ringfence_api::client::Client;
use ringfence_api::{FlowLine, Verdict};
use ringfence_console::exit::Code;
use ringfence_console::output;

use crate::args::{Format, Observe, Status, Wait};

/// Prints the status; negative if the node is not ready.
pub(crate) fn status(args: &Status) -> anyhow::Result<Code> {
    let Format::Json = args.output;
    let status = block_on(async { Ok(Client::new(&args.socket.socket).status().await?) })?;
    output::json(&status)?;
    Ok(if status.ready { Code::Ok } else { Code::Negative })
}

/// Waits for policies; negative if the time is up.
pub(crate) fn wait(args: &Wait) -> anyhow::Result<Code> {
    let client = Client::new(&args.socket.socket);
    let lags = block_on(async { Ok(client.wait_for_policies(&args.wanted, args.timeout).await?) })?;
    for lag in &lags {
        output::remark(lag);
    }
    Ok(if lags.is_empty() { Code::Ok } else { Code::Negative })
}

/// Prints connections as they are reported, until interrupted or the agent stops.
pub(crate) fn observe(args: &Observe) -> anyhow::Result<Code> {
    block_on(async {
        let mut flows = std::pin::pin!(Client::new(&args.socket.socket).flows().await?);
        while let Some(line) = flows.next().await {
            match (line?, args.output) {
                (FlowLine::Lost(gap), _) => output::remark(&format!("warning: {gap}")),
                (FlowLine::Flow(flow), _) if args.denied && flow.verdict == Verdict::Allowed => {}
                (FlowLine::Flow(flow), None) => drop(output::line(&flow.to_string())?),
                (FlowLine::Flow(flow), Some(Format::Json)) => drop(output::line(&serde_json::to_string(&flow)?)?),
            }
        }
        Ok(Code::Ok)
    })
}

fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}
