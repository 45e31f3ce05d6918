//! The rows of repositories, on every implementation: transactions, the ring of put ids, silence and sealing.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::super::*;
use super::rows::{some_chunk, some_entries, some_object, some_pack, some_tip};
use super::{list_files, small_limits};
use crate::codec::{ChunkId, Secret};
use crate::format::record::METADATA_LEN_MAX;
use crate::format::{BlobKind, CheckpointId, CheckpointName, Hash32, ObjectName, ObjectVersion, PackNumber};

const ID: RepositoryId = RepositoryId([0x11; 16]);

fn keys(seed: u8) -> CatalogKeys {
    let secret = |of: u8| Secret::from_bytes([seed.wrapping_add(of); 32]);
    CatalogKeys {
        chunk: secret(1),
        name: secret(2),
        row: secret(3),
    }
}

/// Runs a claim on a catalog of every implementation.
fn on_every_catalog(claim: impl Fn(&Catalog)) {
    claim(&Catalog::open(&Location::Memory, &small_limits()).unwrap());
    let directory = tempfile::tempdir().unwrap();
    claim(&Catalog::open(&Location::Directory(directory.path().to_owned()), &small_limits()).unwrap());
}

/// Seeded samples: the same in every run.
fn sample<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>, count: usize) -> Vec<T> {
    let mut runner = TestRunner::deterministic();
    (0..count)
        .map(|_| strategy.new_tree(&mut runner).unwrap().current())
        .collect()
}

fn one<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>) -> T {
    sample(strategy, 1).pop().unwrap()
}

/// One row in every table.
struct Rows {
    chunk: ChunkRow,
    pack: PackRow,
    entries: EntriesRow,
    object: ObjectVersion,
    put_id: PutIdRow,
    release: ReleaseRow,
    tip: TipRow,
    head: Hash32,
    dirty: DirtyKey,
}

const HEAD_AT: u64 = 7;

impl Rows {
    fn some() -> Self {
        let object = one(some_object());
        Self {
            chunk: one(some_chunk()),
            pack: one(some_pack()),
            entries: one(some_entries()),
            put_id: PutIdRow {
                put_id: [0x77; 16],
                serial: 3,
                result: PutResult::from(&object),
            },
            object,
            release: ReleaseRow {
                id: ChunkId([0x55; 32]),
                kind: BlobKind::Root,
                cursor: 9,
            },
            tip: one(some_tip()),
            head: Hash32([0x44; 32]),
            dirty: DirtyKey::Packs { epoch: 1, directory: 2 },
        }
    }

    fn set(&self, transaction: &mut Transaction) {
        transaction.set_chunk(&self.chunk);
        transaction.set_pack(&self.pack);
        transaction.set_entries(self.pack.name.number, &self.entries);
        transaction.set_object(&self.object);
        transaction.set_put_id(&self.put_id).unwrap();
        transaction.set_release(&self.release);
        transaction.set_tip(&self.tip);
        transaction.set_head(HEAD_AT, self.head);
        transaction.mark_dirty(self.dirty, 1);
    }

    fn remove(&self, transaction: &mut Transaction) {
        transaction.remove_chunk(&self.chunk.id);
        transaction.remove_pack(self.pack.name.number);
        transaction.remove_entries(self.pack.name.number);
        transaction.remove_object(&self.object.name);
        transaction.remove_put_id_by_serial(self.put_id.serial).unwrap();
        transaction.remove_release(&self.release.id);
        transaction.prune_head(HEAD_AT);
        transaction.forget_dirty(self.dirty, 1).unwrap();
    }

    fn assert_there(&self, lookup: &impl Lookup) {
        let number = self.pack.name.number;
        assert_eq!(lookup.chunk(&self.chunk.id).unwrap().as_ref(), Some(&self.chunk));
        assert_eq!(lookup.pack(number).unwrap().as_ref(), Some(&self.pack));
        assert_eq!(lookup.entries(number).unwrap().as_ref(), Some(&self.entries));
        assert_eq!(lookup.object(&self.object.name).unwrap().as_ref(), Some(&self.object));
        assert_eq!(lookup.put_id(&self.put_id.put_id).unwrap().as_ref(), Some(&self.put_id));
        assert_eq!(lookup.tip().unwrap().as_ref(), Some(&self.tip));
        assert_eq!(lookup.head(HEAD_AT).unwrap(), Some(self.head));
        assert_eq!(lookup.heads_page(None, 10).unwrap(), [(HEAD_AT, self.head)]);
        assert_eq!(lookup.put_ids().unwrap(), std::slice::from_ref(&self.put_id));
        assert_eq!(
            lookup.releases_page(None, 10).unwrap(),
            std::slice::from_ref(&self.release)
        );
        assert_eq!(lookup.packs_page(None, 10).unwrap(), std::slice::from_ref(&self.pack));
        let objects = lookup.objects_page(None, 10).unwrap();
        assert_eq!(objects, [(lookup.object_key(&self.object.name), self.object.clone())]);
        assert_eq!(lookup.dirty(0).unwrap(), [self.dirty]);
    }

    fn assert_gone(&self, lookup: &impl Lookup) {
        let number = self.pack.name.number;
        assert_eq!(lookup.chunk(&self.chunk.id).unwrap(), None);
        assert_eq!(lookup.pack(number).unwrap(), None);
        assert_eq!(lookup.entries(number).unwrap(), None);
        assert_eq!(lookup.object(&self.object.name).unwrap(), None);
        assert_eq!(lookup.put_id(&self.put_id.put_id).unwrap(), None);
        assert_eq!(lookup.head(HEAD_AT).unwrap(), None);
        assert!(lookup.releases_page(None, 10).unwrap().is_empty());
        assert!(lookup.packs_page(None, 10).unwrap().is_empty());
        assert!(lookup.objects_page(None, 10).unwrap().is_empty());
        assert!(lookup.dirty(0).unwrap().is_empty());
    }
}

#[test]
fn a_transaction_reads_its_own_changes_and_others_read_them_once_committed() {
    on_every_catalog(|catalog| {
        let (repository, rows) = (catalog.repository(ID, &keys(0)).unwrap(), Rows::some());
        let mut transaction = repository.begin();
        assert!(transaction.is_empty());
        rows.set(&mut transaction);
        rows.assert_there(&transaction);
        rows.assert_gone(&repository);
        transaction.commit().unwrap();
        rows.assert_there(&repository);

        let mut transaction = repository.begin();
        rows.remove(&mut transaction);
        rows.assert_gone(&transaction);
        rows.assert_there(&repository);
        drop(transaction);
        rows.assert_there(&repository);

        let mut transaction = repository.begin();
        rows.remove(&mut transaction);
        transaction.commit().unwrap();
        rows.assert_gone(&repository);
    });
}

#[test]
fn an_object_that_was_read_is_not_read_again_and_changes_with_the_transaction() {
    on_every_catalog(|catalog| {
        let repository = catalog.repository(ID, &keys(1)).unwrap();
        let [absent, present]: [ObjectVersion; 2] = sample(some_object(), 2).try_into().unwrap();
        let set = |object: &ObjectVersion| {
            let mut transaction = repository.begin();
            transaction.set_object(object);
            transaction.commit().unwrap();
        };
        set(&present);
        let mut transaction = repository.begin();
        assert_eq!(transaction.read_object(&absent.name).unwrap(), None);
        assert_eq!(transaction.read_object(&present.name).unwrap().as_ref(), Some(&present));
        // Behind the back of the transaction: so it is seen that nobody looks again.
        set(&absent);
        let mut later = present.clone();
        later.sequence ^= 1;
        set(&later);
        assert_eq!(transaction.object(&absent.name).unwrap(), None);
        assert_eq!(transaction.object(&present.name).unwrap().as_ref(), Some(&present));
        transaction.set_object(&absent);
        transaction.remove_object(&present.name);
        for read in [
            |tx: &mut Transaction, name: &ObjectName| tx.object(name),
            |tx: &mut Transaction, name: &ObjectName| tx.read_object(name),
        ] {
            assert_eq!(read(&mut transaction, &absent.name).unwrap().as_ref(), Some(&absent));
            assert_eq!(read(&mut transaction, &present.name).unwrap(), None);
        }
    });
}

#[test]
fn no_more_than_a_mebibyte_of_objects_is_kept_to_be_looked_at_again() {
    on_every_catalog(|catalog| {
        let repository = catalog.repository(ID, &keys(1)).unwrap();
        let template = one(some_object());
        let object = |number: usize, sequence| ObjectVersion {
            name: ObjectName::new(format!("object {number}")).unwrap(),
            sequence,
            metadata: vec![("key".to_owned(), "v".repeat(METADATA_LEN_MAX / 2))],
            ..template.clone()
        };
        let fit = (1 << 20) / (METADATA_LEN_MAX / 2);
        let set = |sequence| {
            let mut transaction = repository.begin();
            (0..=fit).for_each(|number| transaction.set_object(&object(number, sequence)));
            transaction.commit().unwrap();
        };
        set(1);
        let mut transaction = repository.begin();
        for number in 0..=fit {
            let expected = object(number, 1);
            assert_eq!(transaction.read_object(&expected.name).unwrap(), Some(expected));
        }
        set(2);
        let sequence = |number| transaction.object(&object(number, 0).name).unwrap().unwrap().sequence;
        assert_eq!((sequence(0), sequence(fit)), (1, 2));
    });
}

#[test]
fn chunks_are_looked_up_in_the_order_asked() {
    on_every_catalog(|catalog| {
        let repository = catalog.repository(ID, &keys(0)).unwrap();
        let rows = sample(some_chunk(), 3);
        let mut transaction = repository.begin();
        transaction.set_chunk(&rows[0]);
        transaction.set_chunk(&rows[2]);
        transaction.commit().unwrap();
        let found = repository
            .chunks(&[rows[2].id, rows[1].id, rows[0].id, rows[2].id])
            .unwrap();
        assert_eq!(
            found,
            [
                Some(rows[2].clone()),
                None,
                Some(rows[0].clone()),
                Some(rows[2].clone())
            ]
        );
    });
}

#[test]
fn pages_walk_every_object_once() {
    on_every_catalog(|catalog| {
        let repository = catalog.repository(ID, &keys(0)).unwrap();
        let objects: BTreeMap<String, ObjectVersion> = sample(some_object(), 100)
            .into_iter()
            .map(|object| (object.name.as_str().to_owned(), object))
            .collect();
        let mut transaction = repository.begin();
        objects.values().for_each(|object| transaction.set_object(object));
        transaction.commit().unwrap();

        let (mut found, mut after) = (BTreeMap::new(), None);
        loop {
            let page = repository.objects_page(after, 7).unwrap();
            let Some((last, _)) = page.last() else { break };
            assert!(page.is_sorted_by_key(|(key, _)| *key));
            after = Some(*last);
            found.extend(
                page.into_iter()
                    .map(|(_, object)| (object.name.as_str().to_owned(), object)),
            );
        }
        assert_eq!(found, objects);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pages_within_a_transaction_equal_those_after_it(
        rows in prop::collection::vec((0u64..40, some_pack()), 1..40),
        removed in prop::collection::vec(0u64..40, 0..30),
        committed in any::<prop::sample::Index>(),
        after in prop::option::of(0u64..40),
        limit in 0usize..45,
    ) {
        let number = |counter| PackNumber { epoch: 1, counter };
        let catalog = Catalog::open(&Location::Memory, &small_limits()).unwrap();
        let repository = catalog.repository(ID, &keys(0)).unwrap();
        let mut model = BTreeMap::new();
        let mut transaction = repository.begin();
        for (at, (counter, row)) in rows.iter().enumerate() {
            let mut row = row.clone();
            row.name.number = number(*counter);
            transaction.set_pack(&row);
            model.insert(*counter, row);
            if at == committed.index(rows.len()) {
                std::mem::replace(&mut transaction, repository.begin()).commit().unwrap();
            }
        }
        for counter in removed {
            transaction.remove_pack(number(counter));
            model.remove(&counter);
        }
        let expected: Vec<PackRow> = model
            .iter()
            .filter(|(counter, _)| after.is_none_or(|after| **counter > after))
            .take(limit)
            .map(|(_, row)| row.clone())
            .collect();
        prop_assert_eq!(&transaction.packs_page(after.map(number), limit).unwrap(), &expected);
        transaction.commit().unwrap();
        prop_assert_eq!(&repository.packs_page(after.map(number), limit).unwrap(), &expected);
    }
}

#[test]
fn the_last_put_ids_are_kept() {
    on_every_catalog(|catalog| {
        let repository = catalog.repository(ID, &keys(0)).unwrap();
        let result = PutResult::from(&one(some_object()));
        let put = |put_id, serial| {
            let mut transaction = repository.begin();
            transaction
                .set_put_id(&PutIdRow {
                    put_id,
                    serial,
                    result: result.clone(),
                })
                .unwrap();
            transaction.commit().unwrap();
        };
        let serial = |put_id| repository.put_id(&put_id).unwrap().map(|row| row.serial);
        put([1; 16], 1);
        put([2; 16], 2);
        put([3; 16], PUT_IDS_KEPT);
        assert_eq!(serial([1; 16]), Some(1));
        put([4; 16], PUT_IDS_KEPT + 1);
        assert_eq!(serial([1; 16]), None);
        assert_eq!(serial([2; 16]), Some(2));

        // Set again while its old serial was still kept: the old serial's end does not take the new one along.
        put([2; 16], 3);
        put([5; 16], PUT_IDS_KEPT + 2);
        assert_eq!(serial([2; 16]), Some(3));

        let all = repository.put_ids().unwrap();
        let all: Vec<_> = all.iter().map(|row| (row.serial, row.put_id[0])).collect();
        let expected = [(3, 2), (PUT_IDS_KEPT, 3), (PUT_IDS_KEPT + 1, 4), (PUT_IDS_KEPT + 2, 5)];
        assert_eq!(all, expected);
    });
}

#[test]
fn put_ids_are_dropped_one_by_one_however_they_were_set() {
    on_every_catalog(|catalog| {
        let repository = catalog.repository(ID, &keys(0)).unwrap();
        let result = Rows::some().put_id.result;
        let set = |serials: std::ops::Range<u64>| {
            let mut transaction = repository.begin();
            for serial in serials {
                let row = PutIdRow {
                    put_id: u128::from(serial + 1).to_be_bytes(),
                    serial,
                    result: result.clone(),
                };
                transaction.set_put_id(&row).unwrap();
            }
            transaction.commit().unwrap();
        };
        let kept = || {
            let rows = repository.put_ids().unwrap();
            rows.iter().map(|row| row.serial).collect::<Vec<_>>()
        };
        // The first of them in the middle of a row, some alone, and some that a transaction has for several rows.
        set(5..9);
        set(9..10);
        set(10..70);
        assert_eq!(kept(), Vec::from_iter(5..70));
        let next = |count: u64| PUT_IDS_KEPT + count;
        set(next(0)..next(7));
        assert_eq!(kept(), Vec::from_iter((7..70).chain(next(0)..next(7))));
        set(next(7)..next(8));
        set(next(8)..next(60));
        assert_eq!(kept(), Vec::from_iter((60..70).chain(next(0)..next(60))));
        set(next(60)..next(100));
        assert_eq!(kept(), Vec::from_iter(next(0)..next(100)));
        let order = repository.encoded_page(Table::PutOrder, None, usize::MAX).unwrap();
        assert_eq!(order.len(), 7, "what says in which order they came");
    });
}

#[test]
fn repositories_are_apart_and_forgotten_alone() {
    on_every_catalog(|catalog| {
        let (one, other) = (
            catalog.repository(ID, &keys(0)).unwrap(),
            catalog.repository(RepositoryId([0x12; 16]), &keys(0)).unwrap(),
        );
        let rows = Rows::some();
        for repository in [&one, &other] {
            let mut transaction = repository.begin();
            rows.set(&mut transaction);
            transaction.commit().unwrap();
        }
        let mut many = one.begin();
        for log_number in 1000..5000 {
            many.set_head(log_number, Hash32([1; 32]));
        }
        many.commit().unwrap();

        catalog.forget(ID).unwrap();
        rows.assert_gone(&one);
        assert_eq!(one.tip().unwrap(), None);
        assert_eq!(stored_rows(catalog), []);
        rows.assert_there(&other);
        check_schema(&*catalog.tables).unwrap();
    });
}

#[test]
fn a_catalog_without_rows_of_repositories_is_one_of_none() {
    on_every_catalog(|catalog| {
        let ids: Vec<_> = (0..200).map(|of| RepositoryId([of; 16])).collect();
        let mode = ModeRow {
            mode: 1,
            since_ms: 2,
            sequence: 3,
            causes: 4,
            held: 5,
        };
        catalog.set_mode(mode).unwrap();
        catalog.set_read_only(true).unwrap();
        for id in &ids {
            let repository = catalog.repository(*id, &keys(0)).unwrap();
            assert!(!catalog.has_repositories().unwrap(), "a number is no row of it");
            let mut transaction = repository.begin();
            transaction.set_tip(&one(some_tip()));
            transaction.commit().unwrap();
            assert!(catalog.has_repositories().unwrap());
            catalog.set_note(*id, "note", Some(b"text")).unwrap();
            catalog.forget(*id).unwrap();
            assert_eq!(repository.tip().unwrap(), None);
            assert_eq!(catalog.note(*id, "note").unwrap(), None);
        }
        assert!(!catalog.has_repositories().unwrap());
        assert_eq!(catalog.mode().unwrap(), Some(mode), "whatever numbers begin with");
        assert!(catalog.is_read_only().unwrap());
        check_schema(&*catalog.tables).unwrap();
    });
}

#[test]
fn rows_without_the_number_of_their_repository_are_as_if_there_were_none() {
    on_every_catalog(|catalog| {
        let rows = Rows::some();
        let mut transaction = catalog.repository(ID, &keys(0)).unwrap().begin();
        rows.set(&mut transaction);
        transaction.commit().unwrap();
        let mut batch = Batch::new();
        batch.delete(Table::Numbers, ID.0.to_vec());
        catalog.tables.commit(batch).unwrap();
        let repository = catalog.repository(ID, &keys(0)).unwrap();
        rows.assert_gone(&repository);
        assert_eq!(repository.tip().unwrap(), None, "so it is made anew");
    });
}

#[test]
fn dirty_keys_divide_as_checkpoints_do() {
    let number = PackNumber {
        epoch: 5,
        counter: 3 * 4096 + 17,
    };
    assert_eq!(DirtyKey::of_pack(number), DirtyKey::Packs { epoch: 5, directory: 3 });
    let mut key = [0xff; 16];
    (key[0], key[1]) = (0xab, 0xcd);
    assert_eq!(DirtyKey::of_object(&key), DirtyKey::Objects(0xabc));
}

/// Every stored row of the repository, with a table and a key each.
fn stored_rows(catalog: &Catalog) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let prefix = numbers::find(&*catalog.tables, ID).unwrap().unwrap();
    let rows = |table| catalog.tables.scan(table, prefix.as_bytes(), None, usize::MAX).unwrap();
    Table::OF_REPOSITORIES
        .iter()
        .flat_map(|table| rows(*table).into_iter().map(|(key, value)| (*table, key, value)))
        .collect()
}

/// Reads everything there is.
fn read_all(repository: &RepositoryCatalog, rows: &Rows) -> Result<(), Error> {
    repository.chunk(&rows.chunk.id)?;
    repository.pack(rows.pack.name.number)?;
    repository.entries(rows.pack.name.number)?;
    repository.object(&rows.object.name)?;
    repository.put_id(&rows.put_id.put_id)?;
    repository.begin().remove_put_id_by_serial(rows.put_id.serial)?;
    repository.head(HEAD_AT)?;
    repository.releases_page(None, usize::MAX)?;
    repository.tip()?;
    repository.dirty(0)?;
    Ok(())
}

fn replace(catalog: &Catalog, table: Table, key: &[u8], value: Vec<u8>) {
    let mut batch = Batch::new();
    batch.put(table, key.to_vec(), value);
    catalog.tables.commit(batch).unwrap();
}

fn memory_with_rows() -> (Catalog, RepositoryCatalog, Rows) {
    let catalog = Catalog::open(&Location::Memory, &small_limits()).unwrap();
    let (repository, rows) = (catalog.repository(ID, &keys(0)).unwrap(), Rows::some());
    let mut transaction = repository.begin();
    rows.set(&mut transaction);
    transaction.commit().unwrap();
    (catalog, repository, rows)
}

#[test]
fn a_flipped_or_cut_row_is_an_error_that_names_its_table() {
    let (catalog, repository, rows) = memory_with_rows();
    let stored = stored_rows(&catalog);
    assert_eq!(stored.len(), Table::OF_REPOSITORIES.len(), "a row in every table");
    for (table, key, value) in stored {
        let flips = (0..value.len()).map(|at| {
            let mut flipped = value.clone();
            flipped[at] ^= 1 << (at % 8);
            flipped
        });
        let cuts = [0, 1, 15, value.len() - 1].map(|len| value[..len.min(value.len() - 1)].to_vec());
        for wrong in flips.chain(cuts).chain([[&value[..], &[0]].concat()]) {
            replace(&catalog, table, &key, wrong);
            let error = read_all(&repository, &rows).unwrap_err();
            assert!(
                matches!(error, Error::Row { table: named, .. } if named == table),
                "{table}: {error:?}"
            );
        }
        replace(&catalog, table, &key, value);
    }
    read_all(&repository, &rows).unwrap();
}

#[test]
fn a_row_moved_to_another_key_or_table_is_an_error() {
    let (catalog, repository, rows) = memory_with_rows();
    let stored = stored_rows(&catalog);
    for (table, key, value) in &stored {
        for (other_table, _, other_value) in stored.iter().filter(|(other, ..)| other != table) {
            replace(&catalog, *table, key, other_value.clone());
            let error = read_all(&repository, &rows).unwrap_err();
            assert!(
                matches!(error, Error::Row { .. }),
                "{other_table} in {table}: {error:?}"
            );
        }
        replace(&catalog, *table, key, value.clone());
    }
    read_all(&repository, &rows).unwrap();

    let chunks = sample(some_chunk(), 2);
    let mut transaction = repository.begin();
    chunks.iter().for_each(|chunk| transaction.set_chunk(chunk));
    transaction.commit().unwrap();
    let key = |chunk: &ChunkRow| repository.sealer.stored_key(&repository.sealer.chunk_key(&chunk.id));
    let [first, second] = [0, 1].map(|at| catalog.tables.get(Table::Chunks, &key(&chunks[at])).unwrap().unwrap());
    replace(&catalog, Table::Chunks, &key(&chunks[0]), second);
    replace(&catalog, Table::Chunks, &key(&chunks[1]), first);
    for chunk in &chunks {
        assert!(matches!(
            repository.chunk(&chunk.id),
            Err(Error::Row {
                table: Table::Chunks,
                ..
            })
        ));
    }
}

#[test]
fn ids_that_share_a_row_key_are_told_apart() {
    let (_, repository, rows) = memory_with_rows();
    let mut similar = rows.chunk.id;
    similar.0[31] ^= 1;
    assert!(matches!(
        repository.chunk(&similar),
        Err(Error::Row {
            table: Table::Chunks,
            ..
        })
    ));
}

#[test]
fn other_keys_read_nothing() {
    let (catalog, _, rows) = memory_with_rows();
    let stranger = catalog.repository(ID, &keys(100)).unwrap();
    assert_eq!(
        stranger.chunk(&rows.chunk.id).unwrap(),
        None,
        "not even its row key is known"
    );
    assert!(matches!(stranger.tip(), Err(Error::Row { table: Table::Tips, .. })));
    assert!(matches!(
        stranger.pack(rows.pack.name.number),
        Err(Error::Row {
            table: Table::Packs,
            ..
        })
    ));
}

#[test]
fn the_files_show_no_name_id_or_put_id() {
    let directory = tempfile::tempdir().unwrap();
    let location = Location::Directory(directory.path().to_owned());
    let chunks = sample(some_chunk(), 2_000);
    let mut objects = sample(some_object(), 500);
    for (at, object) in objects.iter_mut().enumerate() {
        object.name = ObjectName::new(format!("secret/holiday-{at:04}.jpg")).unwrap();
        object.metadata = vec![("confidential-key".to_owned(), "confidential-value".to_owned())];
    }
    let entries = sample(some_entries(), 20);
    {
        let catalog = Catalog::open(&location, &small_limits()).unwrap();
        let repository = catalog.repository(ID, &keys(0)).unwrap();
        for _ in 0..4 {
            let mut transaction = repository.begin();
            chunks.iter().for_each(|chunk| transaction.set_chunk(chunk));
            for (serial, object) in (1..).zip(&objects) {
                transaction.set_object(object);
                let row = PutIdRow::of(object.put_id.unwrap_or([1; 16]), object, serial);
                transaction.set_put_id(&row).unwrap();
                transaction.set_release(&ReleaseRow {
                    id: chunks[serial as usize].id,
                    kind: BlobKind::Leaf,
                    cursor: 1,
                });
            }
            for (counter, entries) in (0..).zip(&entries) {
                transaction.set_entries(PackNumber { epoch: 1, counter }, entries);
            }
            transaction.commit().unwrap();
        }
        catalog.persist().unwrap();
    }
    // Opened again, what was in journals goes to tables: both are looked at.
    drop(Catalog::open(&location, &small_limits()).unwrap());
    let mut files = Vec::new();
    list_files(directory.path(), &mut files);
    let contents: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    // Short pieces, so that a part of an id in clear shows too; and the one thing that is in clear, so that the search
    // itself is known to find.
    let (mut secret_pieces, mut shown) = (std::collections::HashSet::new(), false);
    let ids = chunks.iter().map(|chunk| chunk.id.0);
    let entry_ids = entries
        .iter()
        .flat_map(|row| row.entries.iter().map(|entry| entry.id.0));
    for id in ids.chain(entry_ids) {
        secret_pieces.extend(id.chunks_exact(8).map(|piece| <[u8; 8]>::try_from(piece).unwrap()));
    }
    for object in &objects {
        secret_pieces.extend(
            object
                .put_id
                .unwrap_or([1; 16])
                .chunks_exact(8)
                .map(|piece| <[u8; 8]>::try_from(piece).unwrap()),
        );
    }
    for text in ["secret/h", "holiday-", "confiden"] {
        secret_pieces.insert(text.as_bytes().try_into().unwrap());
    }
    for (file, content) in files.iter().zip(&contents) {
        for piece in content.windows(8) {
            shown |= piece == &ID.0[..8];
            assert!(!secret_pieces.contains(piece), "{} shows {piece:02x?}", file.display());
        }
    }
    assert!(shown, "the search finds what is there");
}

#[test]
fn parts_stay_dirty_that_changed_after_a_checkpoint() {
    on_every_catalog(|catalog| {
        let catalog = catalog.repository(ID, &keys(1)).unwrap();
        let (still, changed) = (DirtyKey::Objects(1), DirtyKey::Objects(2));
        let change = |change: &dyn Fn(&mut Transaction)| {
            let mut tx = catalog.begin();
            change(&mut tx);
            tx.commit().unwrap();
        };
        change(&|tx| [still, changed].into_iter().for_each(|key| tx.mark_dirty(key, 7)));
        assert_eq!(catalog.dirty(6).unwrap(), [still, changed]);
        assert_eq!(catalog.dirty(7).unwrap(), []);
        change(&|tx| tx.mark_dirty(changed, 8));
        assert_eq!(catalog.dirty(7).unwrap(), [changed]);
        change(&|tx| {
            for key in [still, changed] {
                tx.forget_dirty(key, 7).unwrap();
            }
        });
        assert_eq!(catalog.dirty(0).unwrap(), [changed]);
        change(&|tx| tx.forget_dirty(changed, 8).unwrap());
        assert_eq!(catalog.dirty(0).unwrap(), []);
    });
}

#[test]
fn a_part_is_marked_once_after_every_checkpoint() {
    on_every_catalog(|catalog| {
        let part = DirtyKey::Objects(1);
        let repository = catalog.repository(ID, &keys(1)).unwrap();
        let tip = sample(some_tip(), 100)
            .into_iter()
            .find(|tip| tip.tip.is_some())
            .unwrap();
        // A commit of this log number, when this checkpoint is the newest.
        let commit = |log_number, newest: Option<u64>| {
            let mut tip = tip.clone();
            tip.tip.as_mut().unwrap().log_number = log_number;
            tip.checkpoints[0] = newest.map(|log_number| {
                let name = CheckpointName {
                    epoch: 1,
                    log_number,
                    id: CheckpointId([1; 32]),
                };
                (name, log_number)
            });
            let mut tx = repository.begin();
            tx.mark_dirty(part, log_number);
            tx.set_tip(&tip);
            tx.commit().unwrap();
        };
        let marked_at = |log_number: u64| {
            repository.dirty(log_number - 1).unwrap() == [part] && repository.dirty(log_number).unwrap().is_empty()
        };
        commit(5, None);
        commit(6, None);
        assert!(marked_at(5), "6 is not above any checkpoint that 5 is not above");
        drop(repository.snapshot_for_checkpoint(6));
        commit(7, None);
        assert!(marked_at(7), "the checkpoint of 6 does not have it");
        commit(8, Some(6));
        assert!(marked_at(7), "nor did it before it was there");
        commit(11, Some(10));
        assert!(marked_at(11), "one of another process");
        let mut tx = repository.begin();
        tx.mark_dirty(part, 12);
        tx.commit().unwrap();
        assert!(marked_at(12), "to have it written once more");
        catalog.clear(ID, &[Table::Dirty]).unwrap();
        commit(13, Some(10));
        assert!(marked_at(13), "the row was gone");
        let again = catalog.repository(ID, &keys(1)).unwrap();
        drop(again.snapshot_for_checkpoint(13));
        commit(14, Some(10));
        assert!(marked_at(14), "whoever began the checkpoint");
    });
}

#[test]
fn parts_that_do_not_say_when_they_changed_are_dirty_until_a_checkpoint_has_them() {
    on_every_catalog(|catalog| {
        let tables = catalog.tables.clone();
        let catalog = catalog.repository(ID, &keys(1)).unwrap();
        let parts = [DirtyKey::Objects(1), DirtyKey::Objects(2)];
        for (part, former) in parts.into_iter().zip([&b""[..], b"taken"]) {
            let key = part.row_key();
            let row = catalog.sealer.seal(Table::Dirty, &key, former.to_vec());
            let mut batch = Batch::new();
            batch.put(Table::Dirty, catalog.sealer.stored_key(&key).to_vec(), row);
            tables.commit(batch).unwrap();
        }
        assert_eq!(catalog.dirty(u64::MAX).unwrap(), parts);
        let mut tx = catalog.begin();
        tx.forget_dirty(parts[0], 9).unwrap();
        tx.mark_dirty(parts[1], 10);
        tx.commit().unwrap();
        assert_eq!(catalog.dirty(9).unwrap(), [parts[1]]);
        assert_eq!(catalog.dirty(10).unwrap(), []);
    });
}
