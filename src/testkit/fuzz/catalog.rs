//! Rows of the catalog, before and behind their seal.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc, LazyLock};

use super::golden::{PACKS, SECRETS};
use super::input::Input;
use crate::catalog::{
    Batch, Catalog, ChunkRow, DirtyKey, EntriesRow, Error, Kept, KeyValue, Limits, Location, Lookup, MemoryTables,
    PackRow, PutIdRow, ReleaseRow, RepositoryCatalog, Table, Tables, TipRow, rewritten,
};
use crate::codec::ChunkId;
use crate::format::pack::verify_pack;
use crate::format::{BlobKind, Hash32, ObjectVersion, PackRef, Record};

/// A row that is read is written as the same bytes.
pub fn catalog_rows(data: &[u8]) {
    let mut input = Input::new(data);
    let table = *input.choice(&Table::OF_REPOSITORIES);
    let bytes = input.rest();
    if let Ok(written) = rewritten(table, bytes) {
        assert!(written == bytes, "a row of {} has two spellings", table.name());
    }
}

/// A catalog whose rows were changed, moved or removed says what it was told, or nothing.
pub fn catalog_files(data: &[u8]) {
    let mut input = Input::new(data);
    let tables = Arc::new(MemoryTables::default());
    for (table, rows) in ROWS.iter() {
        tables.commit(batch_of(*table, rows)).expect("memory takes everything");
    }
    change(&mut input, &tables);
    let Ok(catalog) = open(tables) else {
        return;
    };
    let Ok(repository) = catalog.repository(SECRETS.repository(), &SECRETS.catalog_keys()) else {
        return;
    };
    let told = facts(&repository);
    if let Some(told) = told.difference(&FACTS).next() {
        panic!("nobody told it: {told}");
    }
    // Nobody seals the mode: any row of the right length is one.
    if let Ok(Some(mode)) = catalog.mode() {
        catalog.set_mode(mode).expect("memory takes everything");
        assert_eq!(catalog.mode().ok().flatten(), Some(mode));
    }
    let _ = (catalog.is_read_only(), catalog.has_repositories());
}

/// One row becomes another, or comes to stand elsewhere.
fn change(input: &mut Input<'_>, tables: &MemoryTables) {
    let (table, rows) = input.choice(&ROWS);
    let (key, value) = input.choice(rows);
    let (mut to, mut batch) = (*table, Batch::new());
    let (mut new_key, mut new_value) = (key.clone(), value.clone());
    match input.u8() % 4 {
        0 => new_value = input.edited(value),
        1 => {
            // Other rows and other repositories lie behind the first bytes.
            let from = input.below(key.len());
            new_key.truncate(from);
            new_key.extend(input.edited(&key[from..]));
        }
        2 => to = *input.choice(&Table::ALL),
        _ => {
            let (_, others) = input.choice(&ROWS);
            new_value.clone_from(&input.choice(others).1);
        }
    }
    if input.u8().is_multiple_of(2) {
        batch.delete(*table, key.clone());
    }
    // The database below takes no other keys.
    if !new_key.is_empty() && new_key.len() <= usize::from(u16::MAX) {
        batch.put(to, new_key, new_value);
    }
    tables.commit(batch).expect("memory takes everything");
}

fn batch_of(table: Table, rows: &[KeyValue]) -> Batch {
    let mut batch = Batch::new();
    for (key, value) in rows {
        batch.put(table, key.clone(), value.clone());
    }
    batch
}

fn open(tables: Arc<MemoryTables>) -> Result<Catalog, Error> {
    Catalog::open(&Location::Kept(Kept(tables)), &Limits::default())
}

/// A catalog with a row in every table.
static WRITTEN: LazyLock<(Arc<MemoryTables>, RepositoryCatalog)> = LazyLock::new(|| {
    let tables = Arc::new(MemoryTables::default());
    let catalog = open(tables.clone()).expect("an empty catalog opens");
    let mode = crate::catalog::ModeRow {
        mode: 1,
        since_ms: 2,
        sequence: 3,
        causes: 4,
        held: 5,
    };
    catalog.set_mode(mode).expect("memory takes everything");
    catalog.set_read_only(true).expect("memory takes everything");
    let repository = catalog.repository(SECRETS.repository(), &SECRETS.catalog_keys());
    let repository = repository.expect("memory takes everything");
    write(&repository).expect("memory takes everything");
    (tables, repository)
});

fn write(repository: &RepositoryCatalog) -> Result<(), Error> {
    let [chunks, commit] =
        [0, 1].map(|pack: usize| verify_pack(&SECRETS, &PACKS[pack].name, PACKS[pack].bytes).expect("it is intact"));
    let pack = PackRef {
        name: PACKS[0].name,
        size: PACKS[0].bytes.len() as u64,
        trailer_hash: Hash32([3; 32]),
    };
    let mut tx = repository.begin();
    for (index, entry) in chunks.entries.iter().enumerate() {
        tx.set_chunk(&ChunkRow {
            id: entry.id,
            kind: entry.kind,
            count: 1,
            pack: pack.name.number,
            index: index as u32,
            stored_len: entry.stored_len,
            plain_len: entry.plain_len,
            quarantined: false,
        });
    }
    tx.set_pack(&PackRow::new(&pack, crate::format::PackKind::Chunk, 0));
    let entries = EntriesRow {
        births: chunks.births,
        entries: chunks.entries,
    };
    tx.set_entries(pack.name.number, &entries);
    let records = commit.commit.map_or_else(Vec::new, |section| section.records);
    let objects = records.into_iter().filter_map(|record| match record {
        Record::Put(object) => Some(object),
        _ => None,
    });
    for (serial, object) in (1..).zip(objects) {
        set_object(&mut tx, &object, serial)?;
    }
    tx.set_head(7, Hash32([7; 32]));
    tx.set_release(&ReleaseRow {
        id: ChunkId([5; 32]),
        kind: BlobKind::Root,
        cursor: 9,
    });
    tx.set_tip(&TipRow::default());
    tx.mark_dirty(DirtyKey::of_pack(pack.name.number), 7);
    tx.mark_dirty(DirtyKey::of_object(&[1; 16]), 7);
    tx.commit()
}

fn set_object(tx: &mut crate::catalog::Transaction, object: &ObjectVersion, serial: u64) -> Result<(), Error> {
    tx.set_object(object);
    match object.put_id {
        Some(put_id) => tx.set_put_id(&PutIdRow::of(put_id, object, serial)),
        None => Ok(()),
    }
}

/// What the tables hold of it, as bytes.
static ROWS: LazyLock<Vec<(Table, Vec<KeyValue>)>> = LazyLock::new(|| {
    let (tables, _) = &*WRITTEN;
    let rows = Table::ALL.map(|table| {
        (
            table,
            tables.scan(table, &[], None, usize::MAX).expect("memory gives it"),
        )
    });
    rows.to_vec()
});

/// What it says.
static FACTS: LazyLock<BTreeSet<String>> = LazyLock::new(|| facts(&WRITTEN.1));

/// Everything that a catalog says without an error.
fn facts(catalog: &RepositoryCatalog) -> BTreeSet<String> {
    fn each<T: Debug>(what: &str, page: Result<Vec<T>, Error>) -> Vec<String> {
        let rows = page.unwrap_or_default().into_iter();
        rows.map(|row| format!("{what} {row:?}")).collect()
    }
    fn one<T: Debug>(what: &str, row: Result<Option<T>, Error>) -> Vec<String> {
        each(what, row.map(|row| row.into_iter().collect()))
    }
    let all = usize::MAX;
    let chunks = verify_pack(&SECRETS, &PACKS[0].name, PACKS[0].bytes).expect("it is intact");
    let (_, written) = &*WRITTEN;
    let mut facts = [
        one("entries", catalog.entries(PACKS[0].name.number)),
        one("pack", catalog.pack(PACKS[0].name.number)),
        one("tip", catalog.tip()),
        one("head", catalog.head(7)),
        each("put id", catalog.put_ids()),
        each("head", catalog.heads_page(None, all)),
        each("object", catalog.objects_page(None, all)),
        each("pack", catalog.packs_page(None, all)),
        each("release", catalog.releases_page(None, all)),
        each("dirty", catalog.dirty(0)),
    ]
    .concat();
    for entry in &chunks.entries {
        facts.extend(one("chunk", catalog.chunk(&entry.id)));
    }
    for (_, object) in written.objects_page(None, all).expect("it is intact") {
        facts.extend(one("object", catalog.object(&object.name)));
        facts.extend(
            object
                .put_id
                .into_iter()
                .flat_map(|id| one("put id", catalog.put_id(&id))),
        );
    }
    facts.into_iter().collect()
}

/// A valid row of every table that has one, behind its seal.
#[cfg(test)]
pub(super) fn rows() -> Vec<(Table, Vec<u8>)> {
    let (_, catalog) = &*WRITTEN;
    let first = |table| {
        let rows = catalog.encoded_page(table, None, 1).expect("it is intact");
        rows.into_iter().next().map(|(_, row)| (table, row))
    };
    Table::OF_REPOSITORIES.into_iter().filter_map(first).collect()
}
