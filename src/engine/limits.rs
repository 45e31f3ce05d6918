//! What a store and each of its repositories may use, and what they use: shared by admission, the monitor and every writer.
//!
//! Packs count as soon as blobs are placed into them, until they are introduced; from then on the totals of their repository
//! have them. A repository that was never open since the start is not counted: without its key nothing tells its size.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::status::Limit;
use crate::codec::RepositoryId;

/// The most that a repository may hold; what is absent has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of its objects, as written by callers.
    pub logical_bytes: Option<u64>,
    /// Bytes of its packs in the store.
    pub stored_bytes: Option<u64>,
}

impl Quota {
    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Quotas that callers can set: more than a store has repositories, and few enough to be kept in memory and told at once.
pub const QUOTAS_MAX: usize = 10_000;

/// The limits of one store.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    state: Mutex<State>,
    /// Bytes of packs that are not introduced yet.
    pending_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    store_bytes_max: Option<u64>,
    /// By name: the repository may not exist yet.
    quotas: BTreeMap<String, Quota>,
    /// Bytes of packs by repository, also of one that was closed since.
    stored_bytes: BTreeMap<RepositoryId, u64>,
    catalog_bytes: u64,
}

impl Limits {
    pub(crate) fn new(store_bytes_max: Option<u64>, quotas: BTreeMap<String, Quota>) -> Self {
        let state = State {
            store_bytes_max,
            quotas,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            pending_bytes: AtomicU64::new(0),
        }
    }

    /// The limit of the store with what counts against it, packs that are being filled or put included.
    pub(crate) fn of_store(&self) -> Option<Limit> {
        let state = self.state.lock();
        state.store_bytes_max.map(|bytes| Limit {
            bytes,
            used_bytes: state.used_bytes() + self.pending_bytes.load(Ordering::Relaxed),
        })
    }

    pub(crate) fn set_store_bytes_max(&self, bytes: Option<u64>) {
        self.state.lock().store_bytes_max = bytes;
    }

    pub(crate) fn quota(&self, repository: &str) -> Quota {
        self.state.lock().quotas.get(repository).copied().unwrap_or_default()
    }

    pub(crate) fn quotas(&self) -> BTreeMap<String, Quota> {
        self.state.lock().quotas.clone()
    }

    pub(crate) fn set_quota(&self, repository: &str, quota: Quota) {
        let quotas = &mut self.state.lock().quotas;
        match quota.is_none() {
            true => drop(quotas.remove(repository)),
            false => drop(quotas.insert(repository.to_owned(), quota)),
        }
    }

    /// What the store uses: packs of all repositories, and the catalog.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes()
    }

    /// A repository's packs have so many bytes now.
    pub(crate) fn stored(&self, repository: RepositoryId, bytes: u64) {
        self.state.lock().stored_bytes.insert(repository, bytes);
    }

    /// Only these repositories are left.
    pub(crate) fn retain(&self, is_left: impl Fn(RepositoryId) -> bool) {
        self.state.lock().stored_bytes.retain(|id, _| is_left(*id));
    }

    pub(crate) fn set_catalog_bytes(&self, bytes: u64) {
        self.state.lock().catalog_bytes = bytes;
    }

    /// Packs that are not introduced yet have `more` bytes, and no more those that they had `before`.
    pub(super) fn pend(&self, before: u64, more: u64) {
        self.pending_bytes.fetch_add(more, Ordering::Relaxed);
        self.pending_bytes.fetch_sub(before, Ordering::Relaxed);
    }
}

impl State {
    fn used_bytes(&self) -> u64 {
        self.catalog_bytes + self.stored_bytes.values().sum::<u64>()
    }
}
