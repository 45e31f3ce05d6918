//! The tables of the catalog where every write can be the one that finds no room: of the journal, of a flush, of a
//! compaction in the background.

use std::collections::BTreeMap;
use std::path::Path;

use cairn_agent::catalog::{Batch, EmbeddedTables, Error, Limits, Table, Tables};

use super::{Foreign, KIB, MIB};
use crate::support::{Volume, eventually, is_long, random_bytes};

fn limits() -> Limits {
    Limits {
        cache_bytes: 1 << 20,
        write_buffer_bytes: 1 << 20,
        ..Limits::default()
    }
}

/// Opens them; a child that another test is just starting may hold their lock for an instant.
fn open(directory: &Path) -> EmbeddedTables {
    eventually("the tables are free", || {
        match EmbeddedTables::open(directory, &limits()) {
            Err(Error::Held { .. }) => None,
            opened => Some(opened.unwrap()),
        }
    })
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Batches of a few rows each, as a history of commits.
fn batches() -> Vec<Rows> {
    let batch = |number: u64| {
        (0..4).map(move |row| {
            let key = format!("{:02}", (number * 7 + row * 3) % 60).into_bytes();
            let bytes = random_bytes(number * 10 + row, 6 << 10);
            (key, bytes)
        })
    };
    (0..180).map(|number| batch(number).collect()).collect()
}

fn of(rows: &Rows) -> Batch {
    let mut batch = Batch::new();
    for (key, value) in rows {
        batch.put(Table::Chunks, key.clone(), value.clone());
    }
    batch
}

fn all(tables: &EmbeddedTables) -> Result<Rows, Error> {
    Ok(tables.scan(Table::Chunks, &[], None, 10_000)?.into_iter().collect())
}

/// Commits until a failure; what may be there afterwards: everything before it, and perhaps itself.
fn commit(tables: &EmbeddedTables, batches: &[Rows], rows: &mut Rows) -> Option<(usize, Error)> {
    for (number, batch) in batches.iter().enumerate() {
        if let Err(error) = tables.commit(of(batch)) {
            return Some((number, error));
        }
        rows.extend(batch.clone());
    }
    None
}

/// Fills a volume but for `left`, and goes on with the history when there is room again.
fn meet(volume: &Path, left: u64) -> Option<usize> {
    let directory = volume.join(format!("catalog-{left}"));
    let tables = open(&directory);
    let (batches, mut rows) = (batches(), Rows::new());
    let half = batches.len() / 3;
    assert!(commit(&tables, &batches[..half], &mut rows).is_none());
    let snapshot = tables.snapshot();
    let foreign = Foreign::all_but(volume, left);
    let failed = commit(&tables, &batches[half..], &mut rows);
    if let Some((number, error)) = &failed {
        assert!(error.is_want_of_room(), "left {left}, batch {number}: {error:?}");
        let found =
            all(&tables).unwrap_or_else(|error| panic!("left {left}: what was committed cannot be read: {error}"));
        assert!(
            found == rows,
            "left {left}: a batch that failed is seen, or one that was committed is not"
        );
        let trouble = tables.trouble().expect("it says so");
        assert!(trouble.is_want_of_room(), "left {left}: {trouble:?}");
        assert!(tables.ready().is_err());
    }
    drop(foreign);
    eventually("the tables", || tables.ready().ok());
    assert!(tables.trouble().is_none(), "left {left}");
    let rest = half + failed.as_ref().map_or(batches.len() - half, |(number, _)| *number);
    let found = all(&tables).unwrap();
    let mut with_failed = rows.clone();
    with_failed.extend(batches.get(rest).cloned().unwrap_or_default());
    assert!(
        found == rows || found == with_failed,
        "left {left}: what was committed is there, what failed wholly or not"
    );
    assert!(commit(&tables, &batches[rest..], &mut rows).is_none());
    assert!(all(&tables).unwrap() == rows);
    // Taken before the failure, and never shows anything else. It ends when the tables are opened anew, which may have gone
    // well without anybody noticing.
    if let Ok(then) = snapshot.scan(Table::Chunks, &[], None, 10_000) {
        let mut expected = Rows::new();
        batches[..half].iter().for_each(|batch| expected.extend(batch.clone()));
        assert!(then.into_iter().collect::<Rows>() == expected);
    }
    drop((snapshot, tables));
    let again = open(&directory);
    assert!(all(&again).unwrap() == rows, "left {left}");
    again.persist().unwrap();
    drop(again);
    std::fs::remove_dir_all(&directory).unwrap();
    failed.map(|(number, _)| number)
}

#[test]
fn tables_on_a_full_file_system_keep_what_was_committed_and_go_on() {
    let Some(volume) = Volume::of_bytes(40 * MIB) else {
        return;
    };
    let (step, most) = if is_long() {
        (8 * KIB, 8 * MIB)
    } else {
        (320 * KIB, 5 * MIB)
    };
    let mut failures = Vec::new();
    for left in (0..=most).step_by(usize::try_from(step).unwrap()) {
        failures.push(meet(volume.path(), left));
    }
    let first = failures.iter().flatten().count();
    println!("{first} of {} histories met a failure: {failures:?}", failures.len());
    assert!(first > failures.len() / 4, "{failures:?}");
}
