//! Several futures at once on the job thread, where each waits for storage of its own.

use crate::job::LocalFuture;
use std::future::poll_fn;
use std::task::Poll;

/// What all of them give, in their order.
pub(crate) async fn all<T>(futures: Vec<LocalFuture<'_, T>>) -> Vec<T> {
    let mut waiting: Vec<_> = futures.into_iter().map(|future| (Some(future), None)).collect();
    poll_fn(|cx| {
        for (future, result) in &mut waiting {
            if let Some(Poll::Ready(value)) = future.as_mut().map(|future| future.as_mut().poll(cx)) {
                (*future, *result) = (None, Some(value));
            }
        }
        match waiting.iter().all(|(future, _)| future.is_none()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    waiting.into_iter().filter_map(|(_, result)| result).collect()
}
