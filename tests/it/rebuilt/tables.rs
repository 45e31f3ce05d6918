//! All rows of a repository's catalog, and what may differ between two.

use std::collections::{BTreeMap, BTreeSet};

use cairn_agent::catalog::{ChunkRow, DirtyKey, Lookup, PackRow, RepositoryCatalog, RowKey, Table, TipRow};
use cairn_agent::codec::ChunkId;
use cairn_agent::format::PackNumber;

/// The rows of a catalog, opened; those that are looked at closely also decoded.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Dump {
    rows: BTreeMap<(Table, RowKey), Vec<u8>>,
    chunks: BTreeMap<Vec<u8>, ChunkRow>,
    packs: BTreeMap<PackNumber, PackRow>,
    /// What differs from its newest checkpoint.
    dirty: BTreeSet<DirtyKey>,
    tip: Option<TipRow>,
}

impl Dump {
    pub(crate) fn of(catalog: &RepositoryCatalog) -> Self {
        let mut rows = BTreeMap::new();
        for table in Table::OF_REPOSITORIES {
            for (key, row) in catalog.encoded_page(table, None, usize::MAX).unwrap() {
                rows.insert((table, key), row);
            }
        }
        let tip = catalog.tip().unwrap();
        let checkpoint = tip.as_ref().and_then(|tip| tip.checkpoints[0]);
        let checkpoint = checkpoint.map_or(0, |(_, log_number)| log_number);
        let ids = rows.iter().filter(|((table, _), _)| *table == Table::Chunks);
        let ids = ids.map(|(_, row)| ChunkId(*row.first_chunk().unwrap()));
        Self {
            chunks: ids
                .map(|id| (id.0.to_vec(), catalog.chunk(&id).unwrap().unwrap()))
                .collect(),
            packs: catalog
                .packs_page(None, usize::MAX)
                .unwrap()
                .into_iter()
                .map(|pack| (pack.name.number, pack))
                .collect(),
            dirty: catalog.dirty(checkpoint).unwrap().into_iter().collect(),
            tip,
            rows,
        }
    }

    /// Fails if they differ in any row.
    #[track_caller]
    pub(crate) fn equals(&self, other: &Self, what: &str) {
        assert_eq!(self.tip, other.tip, "{what}");
        assert_eq!(self.packs, other.packs, "{what}");
        assert_eq!(self.chunks, other.chunks, "{what}");
        assert!(*self == *other, "{what}: {:?}", self.differing(other));
    }

    fn differing(&self, other: &Self) -> Vec<(Table, RowKey)> {
        let keys: BTreeSet<_> = self.rows.keys().chain(other.rows.keys()).collect();
        let differing = keys.into_iter().filter(|key| self.rows.get(key) != other.rows.get(key));
        differing.copied().collect()
    }

    fn table(&self, table: Table) -> BTreeMap<RowKey, &Vec<u8>> {
        let rows = self.rows.iter().filter(|((of, _), _)| *of == table);
        rows.map(|((_, key), row)| (*key, row)).collect()
    }

    pub(crate) fn packs(&self) -> usize {
        self.packs.len()
    }

    /// How many ids have their place in a pack.
    fn places(&self, pack: PackNumber) -> u32 {
        self.chunks.values().filter(|chunk| chunk.pack == pack).count() as u32
    }
}

/// Fails if a rebuilt catalog is not the one that went on.
#[track_caller]
pub(crate) fn compare(went_on: &Dump, rebuilt: &Dump, what: &str) {
    for table in [
        Table::Objects,
        Table::PutIds,
        Table::PutOrder,
        Table::Heads,
        Table::Releases,
        Table::Entries,
    ] {
        assert!(
            went_on.table(table) == rebuilt.table(table),
            "{what}: {table} differs: {:?}",
            went_on.differing(rebuilt)
        );
    }
    assert!(rebuilt.table(Table::Releases).is_empty(), "{what}");
    compare_chunks(went_on, rebuilt, what);
    compare_packs(went_on, rebuilt, what);
    compare_tips(went_on, rebuilt, what);
}

#[track_caller]
fn compare_chunks(went_on: &Dump, rebuilt: &Dump, what: &str) {
    for (id, row) in &went_on.chunks {
        assert_eq!(Some(row), rebuilt.chunks.get(id), "{what}");
    }
    for (id, row) in &rebuilt.chunks {
        let is_garbage = row.count == 0 && row.kind == cairn_agent::format::BlobKind::Data;
        assert!(went_on.chunks.contains_key(id) || is_garbage, "{what}: {row:?}");
    }
}

#[track_caller]
fn compare_packs(went_on: &Dump, rebuilt: &Dump, what: &str) {
    for dump in [went_on, rebuilt] {
        for (number, pack) in &dump.packs {
            assert_eq!(pack.current, dump.places(*number), "{what}: {pack:?}");
        }
    }
    let but_current = |(number, pack): (&PackNumber, &PackRow)| {
        let pack = PackRow {
            current: 0,
            ..pack.clone()
        };
        (*number, pack)
    };
    let known = went_on.packs.iter().filter(|(_, pack)| pack.condemned_at == 0);
    let known: BTreeMap<_, _> = known.map(but_current).collect();
    let found: BTreeMap<_, _> = rebuilt.packs.iter().map(but_current).collect();
    assert_eq!(known, found, "{what}");
}

#[track_caller]
fn compare_tips(went_on: &Dump, rebuilt: &Dump, what: &str) {
    assert_eq!(
        went_on.table(Table::Tips).len(),
        rebuilt.table(Table::Tips).len(),
        "{what}"
    );
    let (Some(known), Some(found)) = (&went_on.tip, &rebuilt.tip) else {
        assert_eq!(went_on.tip, rebuilt.tip, "{what}");
        return;
    };
    let mut expected = TipRow {
        durable_log_number: found.durable_log_number,
        // Of two that were written at the same commit either may be the newest.
        checkpoints: found.checkpoints,
        ..known.clone()
    };
    let places = |tip: &TipRow| {
        tip.checkpoints
            .map(|slot| slot.map(|(name, number)| (name.epoch, name.log_number, number)))
    };
    if places(known)[0] == places(found)[0] {
        // The crash may have come between a second one at this commit and its row.
        assert!(places(known)[1] <= places(found)[1], "{what}: {known:?}, {found:?}");
        assert_eq!(went_on.dirty, rebuilt.dirty, "{what}");
    } else {
        assert!(places(known)[0] < places(found)[0], "{what}: {known:?}, {found:?}");
        assert!(went_on.dirty.is_superset(&rebuilt.dirty), "{what}");
        expected.log_bytes_since_checkpoint = found.log_bytes_since_checkpoint;
    }
    assert_eq!(expected, *found, "{what}");
}
