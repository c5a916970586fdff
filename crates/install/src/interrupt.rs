//! Interruptions: work that ends before it is done, because a person says so.

use tokio::signal::unix::{SignalKind, signal};

/// Somebody said so: `SIGINT` (Ctrl-C) or `SIGTERM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted{}{then}", if then.is_empty() { "" } else { "; hint: " })]
pub struct Interrupted {
    /// The state of things, and the way to go on; empty: as before.
    pub then: &'static str,
}

/// Waits until somebody says so. From the first call on the signals do nothing else.
pub async fn interrupted() {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    // Without a way to be told, nobody tells.
    let (Ok(mut first), Ok(mut second)) = signals else { return std::future::pending().await };
    tokio::select! { _ = first.recv() => {}, _ = second.recv() => {} }
}

/// Does something, unless it is interrupted before it is done: then it is left as it is at its next wait.
///
/// # Errors
/// Its own, or [`Interrupted`].
pub fn unless_interrupted<T>(
    then: &'static str,
    done: impl Future<Output = anyhow::Result<T>>,
) -> impl Future<Output = anyhow::Result<T>> {
    // What is done may be large.
    let done = Box::pin(done);
    async move {
        tokio::select! {
            done = done => done,
            () = interrupted() => Err(Interrupted { then }.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_to_go_on() {
        assert_eq!(Interrupted { then: "" }.to_string(), "interrupted");
        assert_eq!(Interrupted { then: "again" }.to_string(), "interrupted; hint: again");
    }
}
