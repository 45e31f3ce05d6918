//! Callers that each take the next of a number of turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Does `once` for each turn, by so many callers, each of which takes the next turn when its last has ended. What was returned
/// is in no order.
pub(crate) async fn by_callers<T, F>(
    callers: u64,
    turns: u64,
    once: impl Fn(u64) -> F + Clone + Send + 'static,
) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let caller = || {
        let (next, once) = (next.clone(), once.clone());
        tokio::spawn(async move {
            let mut returned = Vec::new();
            loop {
                let turn = next.fetch_add(1, Ordering::Relaxed);
                if turn >= turns {
                    return returned;
                }
                returned.push(once(turn).await);
            }
        })
    };
    let callers: Vec<_> = (0..callers).map(|_| caller()).collect();
    let mut returned = Vec::new();
    for caller in callers {
        returned.extend(caller.await.expect("a caller"));
    }
    returned
}
