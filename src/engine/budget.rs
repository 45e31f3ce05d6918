//! The byte budget: every payload byte in flight is paid for before it is accepted.
//!
//! One budget serves all streams of a store. Waiters are served in order, so a large request is not starved by small
//! ones. A permit can be split: what a slab leaves behind in a pack is paid for until that pack is durable.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A number of bytes that may be in flight.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    semaphore: Arc<Semaphore>,
    total_bytes: usize,
}

/// Bytes that are paid for; given back on drop.
#[derive(Debug)]
pub(crate) struct Paid {
    permit: OwnedSemaphorePermit,
}

impl Budget {
    pub(crate) fn new(total_bytes: usize) -> Self {
        Self {
            semaphore: Arc::new(Semaphore::new(total_bytes)),
            total_bytes,
        }
    }

    /// Waits until `bytes` are free and takes them. More than the whole budget is cut down to it, so that one large
    /// chunk still passes, alone.
    pub(crate) async fn pay(&self, bytes: usize) -> Paid {
        let permit = self
            .semaphore
            .clone()
            .acquire_many_owned(self.permits(bytes))
            .await
            .expect("the semaphore is never closed");
        Paid { permit }
    }

    /// Takes `bytes` if they are free now and nobody waits.
    pub(crate) fn try_pay(&self, bytes: usize) -> Option<Paid> {
        let permits = self.permits(bytes);
        self.semaphore
            .clone()
            .try_acquire_many_owned(permits)
            .ok()
            .map(|permit| Paid { permit })
    }

    /// Bytes that are not paid for now.
    #[cfg(test)]
    pub(crate) fn free_bytes(&self) -> usize {
        self.semaphore.available_permits()
    }

    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.total_bytes)).unwrap_or(u32::MAX)
    }
}

impl Paid {
    /// Splits off up to `bytes` of what is paid here.
    pub(crate) fn split(&mut self, bytes: usize) -> Paid {
        let bytes = bytes.min(self.permit.num_permits());
        let permit = self.permit.split(bytes).expect("not more than is held");
        Paid { permit }
    }

    /// Adds what `other` has paid for to this.
    pub(crate) fn merge(&mut self, other: Paid) {
        self.permit.merge(other.permit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_paid_comes_back_when_every_part_is_dropped() {
        let budget = Budget::new(100);
        let mut slab = budget.pay(60).await;
        let pack = slab.split(20);
        drop(slab);
        assert_eq!(budget.free_bytes(), 80);
        assert!(budget.try_pay(81).is_none());
        drop(pack);
        assert_eq!(budget.free_bytes(), 100);
    }

    #[tokio::test]
    async fn a_request_above_the_budget_takes_all_of_it() {
        let budget = Budget::new(100);
        let all = budget.pay(1000).await;
        assert_eq!(budget.free_bytes(), 0);
        drop(all);
        assert_eq!(budget.free_bytes(), 100);
    }
}
