//! Makes connection tracking forget what an address had open before it was given to another pod.
//!
//! A thread of its own: the kernel looks through all connections for it.

use std::io;
use std::net::IpAddr;
use std::sync::mpsc::{self, Sender};

use ringfence_datapath::forget_connections_of;
use ringfence_model::Name;

use crate::core::{Handle, Message};

/// An address and the unique id of the pod that has it now.
pub(crate) type Given = (IpAddr, Name);

/// Starts the thread. It tells the planning thread of each address what came of it.
pub(crate) fn start(core: &Handle) -> io::Result<Sender<Given>> {
    let (sender, given) = mpsc::channel::<Given>();
    let told = core.clone();
    let run = move || {
        for (address, uid) in given {
            let result = forget_connections_of(address);
            if let Err(error) = &result {
                tracing::error!(%address, %error, "connections of the pod that had an address are not forgotten");
            }
            if told.tell(Message::Forgotten((address, uid), result.is_ok())).is_err() {
                return;
            }
        }
    };
    core.spawn("forget", run)?;
    Ok(sender)
}
