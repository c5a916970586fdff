//! `ringfence observe`.

use std::fmt::Write as _;

use clap::ValueEnum;
use futures::StreamExt as _;
use ringfence_agent::api::{Flow, FlowLine, FlowsLost};
use ringfence_agent::client::Client;

use crate::args::Socket;
use crate::exit::Code;
use crate::output;

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
                    tell_gap(&gap);
                    continue;
                }
            };
            if args.denied && flow.verdict == "allowed" {
                continue;
            }
            match args.output {
                None => output::line(&line(&flow))?,
                Some(Lines::Json) => output::line(&serde_json::to_string(&flow)?)?,
            };
        }
        Ok(Code::Ok)
    })
}

#[expect(clippy::print_stderr, reason = "talk, not the result")]
fn tell_gap(gap: &FlowsLost) {
    match &gap.source {
        Some(source) => eprintln!("warning: and {} more of {source}: it makes more than an agent reports", gap.lost),
        None => eprintln!("warning: {} reports were lost here: more came than could be printed", gap.lost),
    }
}

fn line(flow: &Flow) -> String {
    let Flow { time, verdict, source, destination, protocol, message, .. } = flow;
    let mut line = format!("{time} {verdict} {source} -> {destination} {protocol}: {message}");
    if flow.repeated > 0 {
        let _ = write!(line, " (and {} more)", flow.repeated);
    }
    if let Some(hint) = &flow.hint {
        let _ = write!(line, "\n  hint: {hint}");
    }
    line
}
