//! The contract of tables, run on every implementation; the claims about rows and repositories are below.

mod repository;
mod rows;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// Small enough that tests reach flushes.
fn small_limits() -> Limits {
    Limits {
        cache_bytes: 1 << 20,
        write_buffer_bytes: 1 << 20,
        ..Limits::default()
    }
}

/// Runs a claim on every implementation.
fn on_every_implementation(claim: impl Fn(&dyn Tables)) {
    claim(&MemoryTables::default());
    let directory = tempfile::tempdir().unwrap();
    claim(&EmbeddedTables::open(directory.path(), &small_limits()).unwrap());
}

fn put(tables: &dyn Tables, table: Table, rows: &[(&[u8], &[u8])]) {
    let mut batch = Batch::new();
    for (key, value) in rows {
        batch.put(table, key.to_vec(), value.to_vec());
    }
    tables.commit(batch).unwrap();
}

fn keys(rows: Vec<KeyValue>) -> Vec<Vec<u8>> {
    rows.into_iter().map(|(key, _)| key).collect()
}

#[test]
fn a_committed_row_is_read_back_from_its_table_only() {
    on_every_implementation(|tables| {
        put(tables, Table::Chunks, &[(b"key", b"value"), (b"empty", b"")]);
        assert_eq!(
            tables.get(Table::Chunks, b"key").unwrap().as_deref(),
            Some(&b"value"[..])
        );
        assert_eq!(tables.get(Table::Chunks, b"empty").unwrap().as_deref(), Some(&b""[..]));
        assert_eq!(tables.get(Table::Chunks, b"ke").unwrap(), None);
        for table in Table::ALL.into_iter().filter(|table| *table != Table::Chunks) {
            assert_eq!(tables.get(table, b"key").unwrap(), None, "{table}");
        }
    });
}

#[test]
fn the_last_change_of_a_key_counts_within_and_across_batches() {
    on_every_implementation(|tables| {
        let mut batch = Batch::new();
        batch.put(Table::Heads, b"a".to_vec(), b"1".to_vec());
        batch.put(Table::Heads, b"a".to_vec(), b"2".to_vec());
        batch.put(Table::Heads, b"b".to_vec(), b"1".to_vec());
        batch.delete(Table::Heads, b"b".to_vec());
        batch.delete(Table::Heads, b"never there".to_vec());
        assert_eq!(batch.len(), 3);
        tables.commit(batch).unwrap();
        assert_eq!(tables.get(Table::Heads, b"a").unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!(tables.get(Table::Heads, b"b").unwrap(), None);

        put(tables, Table::Heads, &[(b"a", b"3")]);
        assert_eq!(tables.get(Table::Heads, b"a").unwrap().as_deref(), Some(&b"3"[..]));
    });
}

#[test]
fn an_empty_batch_is_fine() {
    on_every_implementation(|tables| tables.commit(Batch::new()).unwrap());
}

#[test]
fn a_scan_keeps_to_prefix_order_and_limit() {
    on_every_implementation(|tables| {
        let rows: [(&[u8], &[u8]); 6] = [
            (b"a", b"0"),
            (b"b", b"1"),
            (b"b\x00", b"2"),
            (b"b\xff", b"3"),
            (b"b\xff\xff", b"4"),
            (b"c", b"5"),
        ];
        put(tables, Table::Objects, &rows);
        let scan = |prefix: &[u8], after: Option<&[u8]>, limit| {
            keys(tables.scan(Table::Objects, prefix, after, limit).unwrap())
        };
        assert_eq!(scan(b"b", None, 10), [&b"b"[..], b"b\x00", b"b\xff", b"b\xff\xff"]);
        assert_eq!(scan(b"b", None, 2), [&b"b"[..], b"b\x00"]);
        assert_eq!(scan(b"b", Some(b"b\x00"), 1), [&b"b\xff"[..]]);
        assert_eq!(scan(b"b\xff", None, 10), [&b"b\xff"[..], b"b\xff\xff"]);
        assert_eq!(scan(b"b", Some(b"a"), 1), [&b"b"[..]]);
        assert_eq!(scan(b"", None, 10).len(), 6);
        assert_eq!(scan(b"", Some(b"b\xff\xff"), 10), [&b"c"[..]]);
        assert!(scan(b"b", Some(b"c"), 10).is_empty());
        assert!(scan(b"b", Some(b"zzz"), 10).is_empty());
        assert!(scan(b"b", None, 0).is_empty());
        assert!(scan(b"\xff\xff", None, 10).is_empty());
    });
}

#[test]
fn a_reader_sees_a_batch_wholly_or_not_at_all() {
    // Read in the order in which it is written, so that a partly applied batch would show as a newer first row.
    const ROUNDS: u32 = 2_000;
    on_every_implementation(|tables| {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    let value = round.to_be_bytes();
                    let mut batch = Batch::new();
                    batch.put(Table::Chunks, b"first".to_vec(), value.to_vec());
                    batch.put(Table::Objects, b"last".to_vec(), value.to_vec());
                    tables.commit(batch).unwrap();
                }
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Acquire) {
                let first = tables.get(Table::Chunks, b"first").unwrap();
                let last = tables.get(Table::Objects, b"last").unwrap();
                assert!(last >= first, "{last:?} is older than {first:?}");
            }
        });
    });
}

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<(Table, Vec<u8>, Option<Vec<u8>>)>),
    Persist,
    Reopen,
}

fn some_table() -> impl Strategy<Value = Table> {
    prop_oneof![Just(Table::Chunks), Just(Table::Objects), Just(Table::Dirty)]
}

fn some_key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255)], 1..4)
}

fn some_step() -> impl Strategy<Value = Step> {
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..8));
    prop_oneof![
        8 => prop::collection::vec((some_table(), some_key(), value), 0..12).prop_map(Step::Commit),
        1 => Just(Step::Persist),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn both_implementations_equal_a_plain_map(
        steps in prop::collection::vec(some_step(), 1..16),
        scans in prop::collection::vec((some_table(), prop::option::of(some_key()), prop::option::of(some_key()), 0usize..20), 8),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let memory = MemoryTables::default();
        let mut embedded = EmbeddedTables::open(directory.path(), &small_limits()).unwrap();
        let mut model: BTreeMap<(Table, Vec<u8>), Vec<u8>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Persist => embedded.persist().unwrap(),
                Step::Reopen => {
                    drop(embedded);
                    embedded = EmbeddedTables::open(directory.path(), &small_limits()).unwrap();
                }
                Step::Commit(changes) => {
                    let mut batch = Batch::new();
                    for (table, key, value) in changes {
                        match value {
                            Some(value) => {
                                batch.put(table, key.clone(), value.clone());
                                model.insert((table, key), value);
                            }
                            None => {
                                batch.delete(table, key.clone());
                                model.remove(&(table, key));
                            }
                        }
                    }
                    memory.commit(batch.clone()).unwrap();
                    embedded.commit(batch).unwrap();
                }
            }
        }
        for (table, prefix, after, limit) in scans {
            let prefix = prefix.unwrap_or_default();
            let expected: Vec<KeyValue> = model
                .iter()
                .filter(|((of, key), _)| *of == table && key.starts_with(&prefix))
                .filter(|((_, key), _)| after.as_ref().is_none_or(|after| key > after))
                .take(limit)
                .map(|((_, key), value)| (key.clone(), value.clone()))
                .collect();
            prop_assert_eq!(&memory.scan(table, &prefix, after.as_deref(), limit).unwrap(), &expected);
            prop_assert_eq!(&embedded.scan(table, &prefix, after.as_deref(), limit).unwrap(), &expected);
        }
        for ((table, key), value) in &model {
            prop_assert_eq!(memory.get(*table, key).unwrap(), Some(value.clone()));
            prop_assert_eq!(embedded.get(*table, key).unwrap(), Some(value.clone()));
        }
    }
}

#[test]
fn rows_survive_flushes_and_a_reopen_without_persist() {
    let directory = tempfile::tempdir().unwrap();
    let value = vec![7u8; 4096];
    let rows = 2_000u32;
    {
        let tables = EmbeddedTables::open(directory.path(), &small_limits()).unwrap();
        for base in (0..rows).step_by(100) {
            let mut batch = Batch::new();
            for row in base..base + 100 {
                batch.put(Table::Entries, row.to_be_bytes().to_vec(), value.clone());
            }
            tables.commit(batch).unwrap();
        }
    }
    let tables = EmbeddedTables::open(directory.path(), &small_limits()).unwrap();
    for row in 0..rows {
        assert_eq!(
            tables.get(Table::Entries, &row.to_be_bytes()).unwrap().as_ref(),
            Some(&value),
            "row {row}"
        );
    }
    assert_eq!(
        tables.scan(Table::Entries, b"", None, usize::MAX).unwrap().len(),
        rows as usize
    );
}

/// What it says is in tables then, and what comes later counts as later.
#[test]
fn a_long_journal_is_emptied_when_the_catalog_is_closed() {
    let (directory, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let journal = directory.path().join("tables/0.jnl");
    let rows = 3_000u32;
    let of = |round: u64, row: u32| {
        let mut value = vec![0; 4000];
        ChaCha8Rng::seed_from_u64(round << 32 | u64::from(row)).fill_bytes(&mut value);
        value
    };
    let tables = EmbeddedTables::open(directory.path(), &small_limits()).unwrap();
    for base in (0..rows).step_by(100) {
        let mut batch = Batch::new();
        for row in base..base + 100 {
            let table = Table::ALL[row as usize % Table::ALL.len()];
            batch.put(table, row.to_be_bytes().to_vec(), of(0, row));
        }
        tables.commit(batch).unwrap();
    }
    drop(tables);
    assert_eq!(fs::metadata(&journal).unwrap().len(), 0);
    // Rounds of every third row are written anew or removed: by a clean end, and by a kill, with a short journal.
    for round in 1..=3 {
        let tables = EmbeddedTables::open(directory.path(), &small_limits()).unwrap();
        let expected = |round: u64, row: u32| match row % 3 {
            0 if round > 1 => Some(round - 1),
            1 if round > 1 => None,
            _ => Some(0),
        };
        let check = |tables: &EmbeddedTables, round| {
            for row in 0..rows {
                let found = tables.get(Table::ALL[row as usize % Table::ALL.len()], &row.to_be_bytes());
                let expected = expected(round, row).map(|round| of(round, row));
                assert!(found.unwrap() == expected, "row {row} in round {round}");
            }
        };
        check(&tables, round);
        let mut batch = Batch::new();
        for row in 0..rows {
            let (table, key) = (Table::ALL[row as usize % Table::ALL.len()], row.to_be_bytes().to_vec());
            match row % 3 {
                0 => batch.put(table, key, of(round, row)),
                1 => batch.delete(table, key),
                _ => {}
            }
        }
        tables.commit(batch).unwrap();
        let copy = copy.path().join(round.to_string());
        copy_directory(directory.path(), &copy);
        check(&EmbeddedTables::open(&copy, &small_limits()).unwrap(), round + 1);
    }
}

#[test]
fn a_commit_is_in_the_files_without_persist_or_a_clean_end() {
    // A copy of the files of an open catalog is what a killed process leaves.
    let (directory, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tables = EmbeddedTables::open(directory.path(), &small_limits()).unwrap();
    put(&tables, Table::Packs, &[(b"pack", b"row")]);
    copy_directory(directory.path(), copy.path());
    let after_kill = EmbeddedTables::open(copy.path(), &small_limits()).unwrap();
    assert_eq!(
        after_kill.get(Table::Packs, b"pack").unwrap().as_deref(),
        Some(&b"row"[..])
    );
}

/// A copy of the files of a database while it is open and nobody commits: of a moment in which none came, grew or went.
fn copy_directory(from: &Path, to: &Path) {
    loop {
        fs::create_dir_all(to).unwrap();
        let before = files_of(from).ok();
        let copied = before.as_ref().is_some_and(|files| {
            files.keys().all(|path| {
                let target = to.join(path.strip_prefix(from).unwrap());
                fs::create_dir_all(target.parent().unwrap()).unwrap();
                fs::copy(path, target).is_ok()
            })
        });
        if copied && files_of(from).ok() == before {
            return;
        }
        fs::remove_dir_all(to).unwrap();
    }
}

/// The files below a directory, with their lengths.
fn files_of(directory: &Path) -> io::Result<BTreeMap<PathBuf, u64>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_of(&entry.path())?);
        } else {
            files.insert(entry.path(), entry.metadata()?.len());
        }
    }
    Ok(files)
}

fn open_error(location: &Location) -> Error {
    match Catalog::open(location, &small_limits()) {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

#[test]
fn a_second_open_says_who_holds_the_catalog() {
    let directory = tempfile::tempdir().unwrap();
    let location = Location::Directory(directory.path().join("catalog"));
    let first = Catalog::open(&location, &small_limits()).unwrap();
    let error = open_error(&location);
    assert!(
        matches!(error, Error::Held { pid: Some(pid), .. } if pid == std::process::id()),
        "{error:?}"
    );
    drop(first);
    Catalog::open(&location, &small_limits()).unwrap();
}

#[test]
fn a_foreign_directory_is_refused_untouched() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("letter.txt"), "dear").unwrap();
    let error = open_error(&Location::Directory(directory.path().to_owned()));
    assert!(
        matches!(&error, Error::Foreign { found, .. } if found == "letter.txt"),
        "{error:?}"
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn the_root_of_a_new_filesystem_is_not_foreign() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("lost+found")).unwrap();
    let location = Location::Directory(directory.path().to_owned());
    Catalog::open(&location, &small_limits()).unwrap();
}

#[test]
fn a_file_in_place_of_the_directory_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = open_error(&Location::Directory(file));
    assert!(matches!(error, Error::Unwritable { .. }), "{error:?}");
}

#[test]
fn an_interrupted_creation_is_begun_anew() {
    let directory = tempfile::tempdir().unwrap();
    let location = Location::Directory(directory.path().to_owned());
    drop(Catalog::open(&location, &small_limits()).unwrap());
    let (whole, begun) = (directory.path().join("tables"), directory.path().join("tables.new"));
    fs::rename(&whole, &begun).unwrap();
    // Killed between making this file and writing it, the database cannot be opened again.
    fs::write(begun.join("version"), "").unwrap();
    drop(Catalog::open(&location, &small_limits()).unwrap());
    assert!(whole.is_dir() && !begun.exists());
}

#[test]
fn a_database_that_lost_its_version_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let location = Location::Directory(directory.path().to_owned());
    drop(Catalog::open(&location, &small_limits()).unwrap());
    fs::remove_file(directory.path().join("tables/version")).unwrap();
    let error = open_error(&location);
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
}

#[test]
fn a_tree_for_each_table_asks_for_a_rebuild() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("cairn-catalog"), "").unwrap();
    let database = fjall::Database::builder(directory.path().join("tables"))
        .open()
        .unwrap();
    let chunks = database.keyspace("chunks", Default::default).unwrap();
    chunks.insert("key", "value").unwrap();
    drop((chunks, database));
    let error = open_error(&Location::Directory(directory.path().to_owned()));
    assert!(
        matches!(
            error,
            Error::Schema {
                found: 1,
                known: SCHEMA
            }
        ),
        "{error:?}"
    );
}

#[test]
fn another_schema_asks_for_a_rebuild() {
    let directory = tempfile::tempdir().unwrap();
    let location = Location::Directory(directory.path().to_owned());
    let catalog = Catalog::open(&location, &small_limits()).unwrap();
    put(&*catalog.tables, Table::Meta, &[(SCHEMA_KEY, &77u32.to_le_bytes())]);
    drop(catalog);
    let error = open_error(&location);
    assert!(
        matches!(
            error,
            Error::Schema {
                found: 77,
                known: SCHEMA
            }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains("rebuilt"), "{error}");
}

#[test]
fn damaged_files_give_an_error_or_an_older_state_but_no_panic() {
    let directory = tempfile::tempdir().unwrap();
    {
        let tables = EmbeddedTables::open(directory.path(), &small_limits()).unwrap();
        for row in 0..3_000u32 {
            put(&tables, Table::Entries, &[(&row.to_be_bytes(), &[1u8; 1024])]);
        }
    }
    let mut files = Vec::new();
    list_files(directory.path(), &mut files);
    for file in files.iter().filter(|file| !file.ends_with("cairn-catalog")) {
        let copy = tempfile::tempdir().unwrap();
        copy_directory(directory.path(), copy.path());
        let damaged = copy.path().join(file.strip_prefix(directory.path()).unwrap());
        let mut bytes = fs::read(&damaged).unwrap();
        let Some(middle) = bytes.len().checked_div(2).filter(|middle| *middle < bytes.len()) else {
            continue;
        };
        bytes[middle] ^= 0x40;
        fs::write(&damaged, &bytes).unwrap();
        let Ok(tables) = EmbeddedTables::open(copy.path(), &small_limits()) else {
            continue;
        };
        for row in 0..3_000u32 {
            if let Ok(Some(value)) = tables.get(Table::Entries, &row.to_be_bytes()) {
                assert_eq!(value, [1u8; 1024]);
            }
        }
    }
}

fn list_files(directory: &std::path::Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list_files(&path, files)
        } else {
            files.push(path)
        }
    }
}

#[test]
fn disk_bytes_do_not_count_journals_that_are_empty() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(&Location::Directory(directory.path().to_owned()), &Limits::default()).unwrap();
    let bytes = catalog.disk_bytes().unwrap();
    assert!(bytes > 0 && bytes < 4 << 20, "{bytes}");
}

#[test]
fn catalogs_in_memory_are_separate() {
    let one = Catalog::open(&Location::Memory, &Limits::default()).unwrap();
    let other = Catalog::open(&Location::Memory, &Limits::default()).unwrap();
    assert!(!Arc::ptr_eq(&one.tables, &other.tables));
}

#[test]
fn a_mode_is_read_back_also_from_a_row_of_the_first_version() {
    let tables = Arc::new(MemoryTables::default());
    let catalog = Catalog::of(tables.clone());
    assert_eq!(catalog.mode().unwrap(), None);
    let row = ModeRow {
        mode: 3,
        since_ms: -5,
        sequence: 1 << 40,
        causes: 0xdead_beef,
        held: 9,
    };
    catalog.set_mode(row).unwrap();
    assert_eq!(catalog.mode().unwrap(), Some(row));

    let mut first = vec![2];
    first.extend(7i64.to_le_bytes());
    first.extend(8u64.to_le_bytes());
    put(&*tables, Table::Meta, &[(MODE_KEY, &first)]);
    let read = catalog.mode().unwrap().unwrap();
    assert_eq!(
        (read.mode, read.since_ms, read.sequence, read.causes, read.held),
        (2, 7, 8, 0, 0)
    );
    put(&*tables, Table::Meta, &[(MODE_KEY, &first[..9])]);
    assert_eq!(catalog.mode().unwrap(), None);
}

#[test]
fn notes_are_kept_until_their_repository_is_forgotten() {
    let catalog = Catalog::open(&Location::Memory, &Limits::default()).unwrap();
    let (one, other) = (RepositoryId([1; 16]), RepositoryId([2; 16]));
    assert_eq!(catalog.note(one, "x").unwrap(), None);
    for id in [one, other] {
        catalog.set_note(id, "x", Some(b"1")).unwrap();
        catalog.set_note(id, "y", Some(b"2")).unwrap();
    }
    catalog.set_note(one, "x", None).unwrap();
    assert_eq!(catalog.note(one, "x").unwrap(), None);
    assert_eq!(catalog.note(one, "y").unwrap().as_deref(), Some(&b"2"[..]));
    catalog.forget(one).unwrap();
    assert_eq!(catalog.note(one, "y").unwrap(), None);
    assert_eq!(catalog.note(other, "x").unwrap().as_deref(), Some(&b"1"[..]));
}

#[test]
fn a_store_is_read_only_until_it_is_not() {
    let catalog = Catalog::open(&Location::Memory, &small_limits()).unwrap();
    assert!(!catalog.is_read_only().unwrap());
    catalog.set_read_only(true).unwrap();
    assert!(catalog.is_read_only().unwrap());
    catalog.set_read_only(false).unwrap();
    assert!(!catalog.is_read_only().unwrap());
}
