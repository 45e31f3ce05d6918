//! The byte budget: every payload byte in flight is paid for before it is accepted.
//!
//! One budget serves all streams of a store. Waiters are served in order, so a large request is not starved by small
//! ones. A permit can be split: what a slab leaves behind in a pack is paid for until that pack is durable.
//!
//! What others keep us waiting with is held to a share: frames of streams that arrive to a quarter, windows of reads to
//! a half. So callers that send or take nothing never keep the rest from writing. What a reclaim moves is held to a
//! quarter, a pack and a window: so it never waits for those others, and of several reclaims one at a time stands in the line.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A number of bytes that may be in flight.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    all: Share,
    frames: Share,
    reads: Share,
    moves: Share,
}

/// A number of bytes, or a part of it that some uses are held to.
#[derive(Clone, Debug)]
struct Share {
    semaphore: Arc<Semaphore>,
    bytes: usize,
}

/// Bytes that are paid for; given back on drop.
#[derive(Debug)]
pub(crate) struct Paid {
    permit: OwnedSemaphorePermit,
    /// The same bytes in the share that this use is held to.
    share: Option<OwnedSemaphorePermit>,
}

impl Budget {
    pub(crate) fn new(total_bytes: usize) -> Self {
        Self {
            all: Share::new(total_bytes),
            frames: Share::new(total_bytes / 4),
            reads: Share::new(total_bytes / 2),
            moves: Share::new(total_bytes / 4),
        }
    }

    /// Waits until `bytes` are free and takes them. More than the whole budget is cut down to it, so that one large
    /// chunk still passes, alone.
    pub(crate) async fn pay(&self, bytes: usize) -> Paid {
        Paid {
            permit: self.all.take(bytes).await,
            share: None,
        }
    }

    /// Takes `bytes` if they are free now and nobody waits.
    pub(crate) fn try_pay(&self, bytes: usize) -> Option<Paid> {
        let permit = self.all.try_take(bytes)?;
        Some(Paid { permit, share: None })
    }

    /// As [`pay`](Self::pay), for a frame of a stream that arrives.
    pub(crate) async fn pay_frame(&self, bytes: usize) -> Paid {
        self.pay_of(&self.frames, bytes).await
    }

    /// As [`pay`](Self::pay), for a window of a read.
    pub(crate) async fn pay_read(&self, bytes: usize) -> Paid {
        self.pay_of(&self.reads, bytes).await
    }

    /// As [`try_pay`](Self::try_pay), for a window of a read.
    pub(crate) fn try_pay_read(&self, bytes: usize) -> Option<Paid> {
        let share = self.reads.try_take(bytes)?;
        let permit = self.all.try_take(share.num_permits())?;
        Some(Paid {
            permit,
            share: Some(share),
        })
    }

    /// As [`pay`](Self::pay), for what moves from pack to pack. Nobody outside keeps that waiting.
    pub(crate) async fn pay_move(&self, bytes: usize) -> Paid {
        self.pay_of(&self.moves, bytes).await
    }

    async fn pay_of(&self, share: &Share, bytes: usize) -> Paid {
        let share = share.take(bytes).await;
        Paid {
            permit: self.all.take(share.num_permits()).await,
            share: Some(share),
        }
    }

    /// All bytes.
    pub(crate) fn total_bytes(&self) -> usize {
        self.all.bytes
    }

    /// Bytes that are not paid for now.
    pub(crate) fn free_bytes(&self) -> usize {
        self.all.semaphore.available_permits()
    }
}

impl Share {
    fn new(bytes: usize) -> Self {
        Self {
            semaphore: Arc::new(Semaphore::new(bytes)),
            bytes,
        }
    }

    async fn take(&self, bytes: usize) -> OwnedSemaphorePermit {
        self.semaphore
            .clone()
            .acquire_many_owned(self.permits(bytes))
            .await
            .expect("the semaphore is never closed")
    }

    fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.semaphore.clone().try_acquire_many_owned(self.permits(bytes)).ok()
    }

    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.bytes)).unwrap_or(u32::MAX)
    }
}

impl Paid {
    /// Splits off up to `bytes` of what is paid here.
    pub(crate) fn split(&mut self, bytes: usize) -> Paid {
        let bytes = bytes.min(self.permit.num_permits());
        let permit = self.permit.split(bytes).expect("not more than is held");
        Paid { permit, share: None }
    }

    /// Gives back all but `bytes`.
    pub(crate) fn keep(&mut self, bytes: usize) {
        for permit in [Some(&mut self.permit), self.share.as_mut()].into_iter().flatten() {
            let rest = permit.num_permits().saturating_sub(bytes);
            drop(permit.split(rest));
        }
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
    async fn reads_and_frames_leave_room_for_the_rest() {
        let budget = Budget::new(100);
        let reads = budget.pay_read(1000).await;
        let frames = budget.pay_frame(1000).await;
        assert_eq!(budget.free_bytes(), 25);
        assert!(budget.try_pay_read(1).is_none());
        assert!(budget.try_pay(25).is_some());
        drop((reads, frames));
        assert_eq!(budget.free_bytes(), 100);
    }

    #[tokio::test]
    async fn what_is_not_kept_is_free_for_the_rest_and_for_other_reads() {
        let budget = Budget::new(100);
        let mut read = budget.pay_read(40).await;
        read.keep(15);
        assert_eq!(budget.free_bytes(), 85);
        assert!(budget.try_pay_read(36).is_none());
        assert!(budget.try_pay_read(35).is_some());
        read.keep(20);
        assert_eq!(budget.free_bytes(), 85, "there is no more to keep than is paid");
        drop(read);
        assert!(budget.try_pay_read(50).is_some());
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
