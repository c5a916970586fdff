//! `ringfence observe`.

use clap::ValueEnum;
use futures::StreamExt as _;
use ringfence_api::client::Client;
use ringfence_api::{FlowLine, Verdict};
use ringfence_console::exit::Code;
use ringfence_console::output;

use crate::args::Socket;

/// `ringfence observe`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    socket: Socket,
    /// Only denied and cut connections
    #[arg(long)]
    denied: bool,
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Lines>,
}

/// Machine-readable forms of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Lines {
    /// One JSON object a line
    Json,
}

/// Prints connections as they are reported, until interrupted or the agent stops.
pub(crate) fn run(args: &Args) -> anyhow::Result<Code> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut flows = std::pin::pin!(Client::new(&args.socket.socket).flows().await?);
        while let Some(flow) = flows.next().await {
            let flow = match flow? {
                FlowLine::Flow(flow) => flow,
                FlowLine::Lost(gap) => {
                    output::remark(&format!("warning: {gap}"));
                    continue;
                }
            };
            if args.denied && flow.verdict == Verdict::Allowed {
                continue;
            }
            match args.output {
                None => output::line(&flow.to_string())?,
                Some(Lines::Json) => output::line(&serde_json::to_string(&flow)?)?,
            };
        }
        Ok(Code::Ok)
    })
}
