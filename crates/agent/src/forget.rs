//! Makes connection tracking forget what an address had open before it was given to another pod.
//!
//! A thread of its own: the kernel looks through all connections for it. Many addresses at once take hardly longer than
//! one.

use std::io;
use std::net::IpAddr;
use std::sync::mpsc::{self, Sender};

use ringfence_datapath::delete_conntrack_entries_of;
use ringfence_model::Name;

use crate::core::{Handle, Message};

/// An address and the unique id of the pod that has it now.
pub(crate) type Given = (IpAddr, Name);

/// Starts the thread. It tells the planning thread of each address what came of it.
pub(crate) fn start(core: &Handle) -> io::Result<Sender<Given>> {
    let (sender, given) = mpsc::channel::<Given>();
    let told = core.clone();
    let run = move || {
        while let Ok(first) = given.recv() {
            let all: Vec<Given> = std::iter::once(first).chain(given.try_iter()).collect();
            let result = delete_conntrack_entries_of(&all.iter().map(|(address, _)| *address).collect());
            if let Err(error) = &result {
                let (address, addresses) = (all[0].0, all.len());
                tracing::error!(%address, addresses, %error, "connections of pods that had addresses are not \
                    forgotten");
            }
            for given in all {
                if told.tell(Message::Forgotten(given, result.is_ok())).is_err() {
                    return;
                }
            }
        }
    };
    core.spawn("forget", run)?;
    Ok(sender)
}
