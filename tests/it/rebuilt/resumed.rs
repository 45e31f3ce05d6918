//! A rebuild that ends anywhere and goes on, whoever wrote meanwhile, ends as one that does not.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_agent::engine::{ByteRange, Precondition, PutOptions, Reason, ReclaimOptions, Repository};
use cairn_agent::testkit::faulty::{Fault, Faulty, FaultyTables, Kind, Step, Stop, store_of};

use super::tables::Dump;
use crate::crash::examine::{contents, objects_of, open_catalog, secrets};
use crate::crash::history::{History, agent};
use crate::support::is_long;
use crate::world::{Place, noise, read, rng};

/// A store after a history, with nothing in flight.
async fn store() -> BTreeMap<String, Bytes> {
    objects_of(&History::record().await.store).await
}

fn dump(repository: &Repository, tables: &FaultyTables, objects: &BTreeMap<String, Bytes>) -> Dump {
    Dump::of(&open_catalog(repository, tables, &secrets(objects)))
}

/// The catalog that a rebuild without interruption makes.
async fn made_at_once(objects: &BTreeMap<String, Bytes>) -> Dump {
    let tables = FaultyTables::default();
    let place = Place::Faulty(Faulty::over(store_of(objects).await));
    let (_store, repository) = agent(&tables).open(&place).await.unwrap();
    dump(&repository, &tables, objects)
}

/// Reads of packs so far.
fn pack_reads(faulty: &Faulty) -> usize {
    let journal = faulty.journal();
    let reads = journal
        .iter()
        .filter(|event| event.kind == Kind::Get && event.step == Step::Began && event.path.contains("/packs/"));
    reads.count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_interrupted_at_any_commit_of_the_catalog_goes_on() {
    let objects = store().await;
    let expected = made_at_once(&objects).await;
    type Interruption = fn(usize) -> Stop;
    let interruptions: [Interruption; 3] = [Stop::From, Stop::At, Stop::LoseAnswer];
    for interruption in interruptions {
        let (mut number, mut reads) = (0, Vec::new());
        loop {
            let tables = FaultyTables::default();
            let faulty = Faulty::over(store_of(&objects).await);
            let place = Place::Faulty(faulty.clone());
            tables.order(Some(interruption(number)));
            let interrupted = agent(&tables).open(&place).await.map(drop);
            if interrupted.is_ok() && tables.commits() <= number {
                break;
            }
            tables.order(None);
            faulty.order([]);
            let what = format!("{:?}", interruption(number));
            let opened = agent(&tables).open(&place).await;
            let (_store, repository) = opened.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            dump(&repository, &tables, &objects).equals(&expected, &what);
            reads.push(pack_reads(&faulty));
            number += 1;
        }
        assert!(number > 15, "{number} commits");
        // Each goes on with what those before it have read.
        let (first, last) = (reads[0], *reads.last().unwrap());
        println!("reads of packs after an interruption: {reads:?}");
        assert!(last * 2 < first, "{first} reads at first, {last} in the end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_whose_read_fails_goes_on() {
    let objects = store().await;
    let expected = made_at_once(&objects).await;
    let mut number = 0;
    loop {
        let tables = FaultyTables::default();
        let faulty = Faulty::over(store_of(&objects).await);
        let place = Place::Faulty(faulty.clone());
        faulty.order([Fault::Refuse(number)]);
        let first = agent(&tables).open(&place).await;
        let what = format!("operation {number}: {:?}", first.as_ref().map(drop));
        if faulty.operations() <= number {
            first.unwrap();
            break;
        }
        let (_store, repository) = match first {
            // One that was done without this answer, as it would with another.
            Ok(opened) => opened,
            Err(error) => {
                assert_eq!(error.reason(), Reason::BackendUnavailable, "{what}");
                faulty.order([]);
                agent(&tables).open(&place).await.unwrap()
            }
        };
        dump(&repository, &tables, &objects).equals(&expected, &what);
        number += 1;
    }
    assert!(number > 30, "{number} operations");
}

/// What another agent does meanwhile: packs of the interrupted rebuild go, others come, and a checkpoint is written.
async fn write_elsewhere(place: &Place, seed: u64) {
    let (store, other) = agent(&FaultyTables::default()).open(place).await.unwrap();
    for name in ["second", "passing", "large"] {
        other.delete(name, Precondition::None).await.unwrap();
    }
    other.reclaim(ReclaimOptions::default()).await.unwrap();
    for (name, seed, len) in [
        ("new", seed, 700 << 10),
        ("small", seed + 1, 9 << 10),
        ("passing", 5, 1300 << 10),
    ] {
        let bytes = noise(&mut rng(seed), len);
        other.put(name, bytes.as_slice(), PutOptions::default()).await.unwrap();
    }
    other.delete("new", Precondition::None).await.unwrap();
    other.reclaim(ReclaimOptions::default()).await.unwrap();
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_goes_on_after_another_agent_wrote() {
    let objects = store().await;
    for number in (0..).step_by(if is_long() { 1 } else { 3 }) {
        let tables = FaultyTables::default();
        let faulty = Faulty::over(store_of(&objects).await);
        let place = Place::Faulty(faulty.clone());
        tables.order(Some(Stop::From(number)));
        if agent(&tables).open(&place).await.is_ok() {
            break;
        }
        tables.order(None);
        write_elsewhere(&place, 700 + number as u64).await;
        let objects = objects_of(&faulty).await;
        let (store, repository) = agent(&tables).open(&place).await.unwrap();
        let what = format!("interrupted at commit {number}");
        let resumed = dump(&repository, &tables, &objects);
        resumed.equals(&made_at_once(&objects).await, &what);
        assert!(resumed.packs() > 0);
        // And it is as good as any other from then on.
        let before = contents(&repository, &what).await;
        repository.reclaim(ReclaimOptions::default()).await.unwrap();
        let status = repository.status().unwrap();
        assert_eq!(repository.rebuild().await.unwrap(), status, "{what}");
        assert!(contents(&repository, &what).await == before, "{what}");
        store.close().await;
    }
}

/// What a repository says while its catalog is not whole: nothing is missing, but it cannot be had.
async fn is_unusable(repository: &Repository) -> bool {
    let stat = repository.stat("no such object").await.unwrap_err().reason();
    let list = repository.list("", None, 10).await.map_err(|error| error.reason());
    match stat {
        Reason::ObjectNotFound => assert!(list.is_ok()),
        other => assert_eq!(
            (other, list.unwrap_err()),
            (Reason::CatalogFailed, Reason::CatalogFailed)
        ),
    }
    stat == Reason::CatalogFailed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_failed_is_healed_in_the_same_process() {
    let objects = store().await;
    let expected = made_at_once(&objects).await;
    let (mut whole, mut unusable) = (0, 0);
    for number in 0.. {
        let tables = FaultyTables::default();
        let faulty = Faulty::over(store_of(&objects).await);
        let (_store, repository) = agent(&tables).open(&Place::Faulty(faulty.clone())).await.unwrap();
        // Every other time it is the catalog that fails.
        let is_catalog = number % 2 == 1;
        match is_catalog {
            true => tables.order(Some(Stop::From(number / 2))),
            false => faulty.order([Fault::Refuse(number / 2)]),
        }
        let failed = repository.rebuild().await;
        let asked = if is_catalog {
            tables.commits()
        } else {
            faulty.operations()
        };
        if failed.is_ok() {
            if asked <= number / 2 && number > 60 {
                break;
            }
            continue;
        }
        match is_unusable(&repository).await {
            true => unusable += 1,
            false => whole += 1,
        }
        tables.order(None);
        faulty.order([]);
        let what = format!("{number}");
        // By another rebuild, or by the next put, which needs the catalog.
        if number % 4 < 2 {
            repository.rebuild().await.unwrap();
            dump(&repository, &tables, &objects).equals(&expected, &what);
        } else {
            repository
                .put("next", &b"next"[..], PutOptions::default())
                .await
                .unwrap();
            assert_eq!(read(&repository, "next", ByteRange::All).await.unwrap(), b"next");
        }
        assert!(!is_unusable(&repository).await, "{what}");
        contents(&repository, &what).await;
    }
    // Until a base is found, nothing is given up.
    assert!(whole > 3 && unusable > 10, "{whole} whole, {unusable} not");
}
