//! Work at the links of pods, on a thread of its own.
//!
//! Each of its system calls waits for the lock that the kernel has for all links, and some take long. So the planning
//! thread only says what is to be done, and `ADD` waits for what it has to.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use ringfence_datapath::{GuardWork, LinkGuard};

use crate::core::{Gone, Handle, Message};

/// Work for the thread.
#[derive(Debug)]
pub(crate) enum Work {
    /// Guard links, or let go of some.
    Errand(GuardWork),
    /// Look whether all guards are where they were put.
    Look,
}

/// The thread that works at links. When this is dropped nothing is under way there any more.
#[derive(Debug)]
pub(crate) struct Workshop {
    work: Option<Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl Workshop {
    /// Starts the thread. It tells the planning thread what it has done.
    pub(crate) fn start(core: &Handle, keeper: LinkGuard) -> io::Result<Self> {
        let (sender, work) = mpsc::channel();
        let told = core.clone();
        let thread = core.spawn("guards", move || {
            // Without anybody to tell there is nothing to do.
            let _gone = run(&told, keeper, &work);
        })?;
        Ok(Self { work: Some(sender), thread: Some(thread) })
    }

    /// Has something done there. If the thread is gone the agent is ending.
    pub(crate) fn send(&self, work: Work) {
        let _gone = self.work.as_ref().map(|sender| sender.send(work));
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        drop(self.work.take());
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}

fn run(core: &Handle, mut keeper: LinkGuard, work: &Receiver<Work>) -> Result<(), Gone> {
    loop {
        // All that is asked for is known before the next piece, as some of it is more urgent. What an agent that ends
        // asks for is done.
        for more in work.try_iter() {
            take(&mut keeper, more);
        }
        match keeper.run_next() {
            Some(done) => core.tell(Message::Guarded(done))?,
            None => match work.recv() {
                Ok(work) => take(&mut keeper, work),
                Err(_closed) => return Ok(()),
            },
        }
    }
}

fn take(keeper: &mut LinkGuard, work: Work) {
    match work {
        Work::Errand(errand) => keeper.enqueue(errand),
        Work::Look => keeper.check_all_links(),
    }
}
