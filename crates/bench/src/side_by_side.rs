//! Many things done at a time.

use std::ops::Range;

use anyhow::Context as _;

/// Does something for each number, so many at a time; they are begun in order.
pub(crate) async fn side_by_side<F>(
    numbers: Range<usize>,
    at_once: usize,
    each: impl Fn(usize) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let mut workers = tokio::task::JoinSet::new();
    for number in numbers {
        if workers.len() >= at_once {
            workers.join_next().await.context("a worker")???;
        }
        workers.spawn(each(number));
    }
    while let Some(done) = workers.join_next().await {
        done??;
    }
    Ok(())
}
