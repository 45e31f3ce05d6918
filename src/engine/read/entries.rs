//! Entries of packs that short reads needed. Those of a pack of many small objects are long, and each of the objects is read on
//! its own: nearly all the time of such a read went into decrypting and decoding what it did not need.
//!
//! What is in a pack does not change while the catalog knows it, so what is kept is right until a rebuild begins.

use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::catalog::EntriesRow;
use crate::codec::RepositoryId;
use crate::format::PackNumber;

/// Bytes that it holds at most, whatever the budget is: the entries of 250,000 small objects.
const BYTES_MAX: usize = 16 << 20;
/// Bytes of the entries of a pack that nothing was merged into: what memory for its own lists is reckoned with.
const BYTES_USUAL: usize = 4 << 10;

/// Keeps entries of packs, those used most, for all repositories of a store.
pub(crate) struct PackEntries(Cache<Key, Arc<EntriesRow>, ByMemory>);

type Key = (RepositoryId, PackNumber);

#[derive(Clone)]
struct ByMemory;

impl Weighter<Key, Arc<EntriesRow>> for ByMemory {
    fn weight(&self, key: &Key, row: &Arc<EntriesRow>) -> u64 {
        (size_of_val(key) + size_of_val(&row.births[..]) + size_of_val(&row.entries[..])) as u64
    }
}

impl PackEntries {
    /// A cache that holds no more than this, nor more than 16 MiB.
    pub(crate) fn within(bytes: usize) -> Self {
        let bytes = bytes.min(BYTES_MAX);
        // One shard: each would have a part of the room, and entries of a pack may need it whole.
        let options = OptionsBuilder::new()
            .shards(1)
            .estimated_items_capacity(bytes / BYTES_USUAL)
            .weight_capacity(bytes as u64)
            .build()
            .expect("all that it needs is set");
        Self(Cache::with_options(
            options,
            ByMemory,
            DefaultHashBuilder::default(),
            DefaultLifecycle::default(),
        ))
    }

    pub(crate) fn get(&self, repository: RepositoryId, pack: PackNumber) -> Option<Arc<EntriesRow>> {
        self.0.get(&(repository, pack))
    }

    /// What has no room is not kept.
    pub(crate) fn keep(&self, repository: RepositoryId, pack: PackNumber, entries: Arc<EntriesRow>) {
        self.0.insert((repository, pack), entries);
    }

    /// Forgets all of a repository.
    pub(crate) fn forget(&self, repository: RepositoryId) {
        self.0.retain(|(of, _), _| *of != repository);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::ChunkId;
    use crate::format::{BlobKind, Entry};

    const REPOSITORY: RepositoryId = RepositoryId([1; 16]);

    fn number(counter: u64) -> PackNumber {
        PackNumber { epoch: 1, counter }
    }

    fn row(entries: usize) -> Arc<EntriesRow> {
        let entry = Entry::of_one_byte(ChunkId([7; 32]), BlobKind::Data);
        Arc::new(EntriesRow {
            births: Vec::new(),
            entries: vec![entry; entries],
        })
    }

    #[test]
    fn what_is_kept_comes_back_until_its_repository_is_forgotten() {
        let (cache, other) = (PackEntries::within(1 << 20), RepositoryId([2; 16]));
        let kept = row(3);
        cache.keep(REPOSITORY, number(1), kept.clone());
        cache.keep(other, number(1), row(4));
        assert!(Arc::ptr_eq(&cache.get(REPOSITORY, number(1)).unwrap(), &kept));
        assert_eq!(cache.get(REPOSITORY, number(2)), None);
        cache.forget(REPOSITORY);
        assert_eq!(cache.get(REPOSITORY, number(1)), None);
        assert_eq!(cache.get(other, number(1)), Some(row(4)));
    }

    #[test]
    fn memory_stays_within_the_bound() {
        let bytes = 1 << 20;
        let cache = PackEntries::within(bytes);
        let entries = bytes / 8 / size_of::<Entry>();
        for counter in 0..100 {
            cache.keep(REPOSITORY, number(counter), row(entries));
            assert!(cache.0.weight() <= bytes as u64);
        }
        assert!(cache.0.len() >= 6, "{} of about 8 that have room", cache.0.len());
        cache.keep(REPOSITORY, number(100), row(9 * entries));
        assert_eq!(cache.get(REPOSITORY, number(100)), None, "it has no room");
        cache.keep(REPOSITORY, number(101), row(6 * entries));
        assert!(cache.get(REPOSITORY, number(101)).is_some(), "it has room alone");
        assert!(cache.0.weight() <= bytes as u64);
    }
}
