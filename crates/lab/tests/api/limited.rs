//! Programs that tests run, none of them for longer than it may take: a test that hangs tells nothing.

use std::io::{Read, Write as _};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The time that a program may take to end.
const COMMAND_TIMEOUT: Duration = Duration::from_mins(2);

/// Runs a program with this input to its end. One that does not come to it is ended, and the test fails with what it
/// printed.
#[track_caller]
pub(crate) fn run(command: &mut Command, input: &str) -> Output {
    let mut started = start(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let (stdin, input) = (started.child.stdin.take(), input.to_owned());
    // Beside it, as it may print before it has read everything. That it does not read is its own affair.
    std::thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
    started.end()
}

/// Starts a program that streams on purpose; what it prints on pipes is kept. It is ended when dropped.
pub(crate) fn start(command: &mut Command) -> Started {
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let printed = Arc::<Mutex<[Vec<u8>; 2]>>::default();
    let (sender, pipes) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        keep(stdout, 0, &printed, &sender);
    }
    if let Some(stderr) = child.stderr.take() {
        keep(stderr, 1, &printed, &sender);
    }
    Started { what: format!("{command:?}"), child, printed, pipes }
}

/// A program that was started.
pub(crate) struct Started {
    what: String,
    child: Child,
    printed: Arc<Mutex<[Vec<u8>; 2]>>,
    /// Ends when all its pipes have.
    pipes: Receiver<()>,
}

impl Started {
    /// Waits for its end, from now on for as long as it may take.
    #[track_caller]
    pub(crate) fn end(self) -> Output {
        self.end_within(COMMAND_TIMEOUT)
    }

    #[track_caller]
    fn end_within(mut self, limit: Duration) -> Output {
        let status = self.status_within(limit);
        let [stdout, stderr] = std::mem::take(&mut *self.printed.lock().unwrap());
        let Some(status) = status else {
            let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
            panic!("{} did not end within {limit:?}; it printed: {out}{err}", self.what);
        };
        Output { status, stdout, stderr }
    }

    fn status_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        if self.pipes.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            return None;
        }
        loop {
            match self.child.try_wait().unwrap() {
                None if Instant::now() < end => std::thread::sleep(Duration::from_millis(2)),
                status => return status,
            }
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // One that has ended already needs neither.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Keeps what comes from a pipe; the sender lives as long as it.
fn keep(mut pipe: impl Read + Send + 'static, at: usize, printed: &Arc<Mutex<[Vec<u8>; 2]>>, sender: &Sender<()>) {
    let (printed, sender) = (Arc::clone(printed), sender.clone());
    std::thread::spawn(move || {
        let _until_the_end = sender;
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            printed.lock().unwrap()[at].extend_from_slice(&buffer[..length]);
        }
    });
}

#[test]
fn a_program_that_does_not_end_is_ended_and_told_with_what_it_printed() {
    let output = run(Command::new("sh").args(["-c", "cat; echo err >&2; exit 3"]), "in");
    assert_eq!((output.status.code(), &*output.stdout, &*output.stderr), (Some(3), &b"in"[..], &b"err\n"[..]));

    let mut hangs = Command::new("sh");
    let started = start(hangs.args(["-c", "echo $$; exec sleep 600"]).stdout(Stdio::piped()));
    let failed = std::thread::spawn(move || started.end_within(Duration::from_secs(1))).join().unwrap_err();
    let said = failed.downcast::<String>().unwrap();
    assert!(said.contains("did not end within 1s"), "{said}");
    let number: u32 = said.rsplit(' ').next().unwrap().trim().parse().unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{number}")).exists(), "it was ended: {said}");
}
