//! Reads that run ahead of whoever uses what they bring, in their order, bounded in number and in bytes.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::READS_MAX;
use crate::backend::Class;
use crate::engine::budget::Paid;
use crate::engine::core::Core;
use crate::engine::error::{Error, Result};

/// Reads of the items of an iterator, each in a task of its own.
///
/// One read at a time needs no room in the budget, further ones take what is free. Nobody is waited for: who holds the
/// budget may be waiting for the end of this rebuild.
pub(super) struct ReadAhead<I: Iterator, B, R, T> {
    core: Arc<Core>,
    items: Peekable<I>,
    bytes: B,
    read: R,
    reads: VecDeque<(JoinHandle<T>, Option<Paid>)>,
}

/// What a read brought; its bytes stay paid for until this is dropped.
pub(super) struct Brought<T> {
    pub(super) what: T,
    _paid: Option<Paid>,
}

impl<I, B, R, F, T> ReadAhead<I, B, R, T>
where
    I: Iterator,
    B: Fn(&I::Item) -> u64,
    R: Fn(I::Item) -> F,
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    /// Reads that hold about `bytes` each.
    pub(super) fn new(core: &Arc<Core>, items: I, bytes: B, read: R) -> Self {
        Self {
            core: core.clone(),
            items: items.peekable(),
            bytes,
            read,
            reads: VecDeque::new(),
        }
    }

    /// The next item, read; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Brought<T>>> {
        self.fill();
        let Some((read, paid)) = self.reads.pop_front() else {
            return Ok(None);
        };
        let what = read
            .await
            .map_err(|_| Error::internal("a read of a rebuild panicked"))?;
        Ok(Some(Brought { what, _paid: paid }))
    }

    fn fill(&mut self) {
        while self.reads.len() < READS_MAX {
            let Some(item) = self.items.peek() else { return };
            let paid = self.core.budget.try_pay_read((self.bytes)(item) as usize);
            if paid.is_none() && !self.reads.is_empty() {
                return;
            }
            if let Some(item) = self.items.next() {
                self.reads
                    .push_back((tokio::spawn(Class::carried((self.read)(item))), paid));
            }
        }
    }
}

impl<I: Iterator, B, R, T> Drop for ReadAhead<I, B, R, T> {
    fn drop(&mut self) {
        self.reads.iter().for_each(|(read, _)| read.abort());
    }
}
