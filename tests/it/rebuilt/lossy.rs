//! A rebuild of a store that lacks something: what is said, what goes on without it, and what heals.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_agent::engine::{ByteRange, Depth, Precondition, PutOptions, Reason, ReclaimOptions, Repository, Result};
use cairn_agent::engine::{ScrubOptions, ScrubProgress, Store};
use cairn_agent::format::names::parse_pack;
use cairn_agent::format::pack::{HEADER_LEN, open_pack_directory};
use cairn_agent::testkit::faulty::{Faulty, FaultyTables, store_of};

use crate::crash::examine::{objects_of, secrets};
use crate::world::{Agent, Place, noise, read, rng};

type Objects = BTreeMap<String, Bytes>;

const NAMES: [(&str, u64, usize); 3] = [("a", 1, 3 << 20), ("b", 2, 300 << 10), ("c", 3, 2 << 20)];

async fn put(repository: &Repository, (name, seed, len): (&str, u64, usize)) {
    let bytes = noise(&mut rng(seed), len);
    repository
        .put(name, bytes.as_slice(), PutOptions::default())
        .await
        .unwrap();
}

/// A store with three objects, and a checkpoint after each commit if `checkpoints`.
async fn store(checkpoints: bool) -> (Objects, FaultyTables) {
    let tables = FaultyTables::default();
    let faulty = Faulty::over(store_of(&Objects::new()).await);
    let agent = Agent::with_tables(&tables).tuned(|options| {
        options.checkpoint_log_bytes = if checkpoints { 1 } else { u64::MAX };
    });
    let (store, repository) = agent.open(&Place::Faulty(faulty.clone())).await.unwrap();
    for object in NAMES {
        put(&repository, object).await;
    }
    store.close().await;
    (objects_of(&faulty).await, tables)
}

async fn open(objects: &Objects, tables: &FaultyTables) -> Result<(Faulty, Store, Repository)> {
    let faulty = Faulty::over(store_of(objects).await);
    let (store, repository) = Agent::with_tables(tables).open(&Place::Faulty(faulty.clone())).await?;
    Ok((faulty, store, repository))
}

/// The paths of packs: those of commits, and the others.
fn packs(objects: &Objects) -> (Vec<String>, Vec<String>) {
    let secrets = secrets(objects);
    let paths = objects.keys().filter(|path| path.contains("/packs/")).cloned();
    paths.partition(|path| {
        let directory = open_pack_directory(&secrets, &parse_pack(path).unwrap(), &objects[path]).unwrap();
        directory.commit.is_some()
    })
}

fn garbage(objects: &mut Objects, path: &str) {
    let len = objects[path].len();
    objects.insert(path.to_owned(), noise(&mut rng(77), len).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_ends_before_its_newest_checkpoint_is_a_loss() {
    let (whole, tables) = store(true).await;
    let (commits, _) = packs(&whole);
    let newest = commits.last().unwrap();
    let mut missing = whole.clone();
    missing.remove(newest);
    for tables in [FaultyTables::default(), tables.state_at(usize::MAX, 0)] {
        let error = open(&missing, &tables).await.map(drop).unwrap_err();
        assert_eq!(error.reason(), Reason::DataLoss, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_finds_the_log_broken_leaves_the_catalog_as_it_is() {
    let (whole, tables) = store(true).await;
    let (faulty, _store, repository) = open(&whole, &tables.state_at(usize::MAX, 0)).await.unwrap();
    let (commits, _) = packs(&whole);
    let newest = commits.last().unwrap();
    faulty.backend().delete(newest).await.unwrap();
    let error = repository.rebuild().await.unwrap_err();
    assert_eq!(error.reason(), Reason::DataLoss, "{error}");
    for (name, seed, len) in &NAMES[..2] {
        let found = read(&repository, name, ByteRange::All).await.unwrap();
        assert!(found == noise(&mut rng(*seed), *len));
    }
    // The pack is restored, and that is all that was needed.
    faulty.backend().put(newest, whole[newest].clone()).await.unwrap();
    assert_eq!(repository.rebuild().await.unwrap().objects, 3);
    repository.verify("c").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_pack_that_may_be_a_commit_ends_a_rebuild() {
    for checkpoints in [false, true] {
        let (whole, _) = store(checkpoints).await;
        let (commits, chunks) = packs(&whole);
        let mut without = whole.clone();
        garbage(&mut without, commits.last().unwrap());
        let error = open(&without, &FaultyTables::default()).await.map(drop).unwrap_err();
        assert_eq!(error.reason(), Reason::DataLoss, "{error}");
        for path in &chunks {
            let mut without = whole.clone();
            garbage(&mut without, path);
            let (_faulty, _store, repository) = open(&without, &FaultyTables::default()).await.unwrap();
            assert_eq!(repository.status().unwrap().objects, 3, "{path}");
            let damaged = repository.damaged_objects("").await.unwrap();
            for (name, ..) in NAMES {
                let is_damaged = damaged.iter().any(|object| object.name == name);
                assert_eq!(repository.verify(name).await.is_err(), is_damaged, "{path}: {name}");
            }
            assert_eq!(damaged.len(), 1, "{path}: {damaged:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_says_nothing_that_the_rest_does_not() {
    let (whole, _) = store(true).await;
    let mut headless = whole.clone();
    for path in whole.keys().filter(|path| path.contains("/packs/")) {
        let mut bytes = Vec::from(whole[path].clone());
        // Those that are read as a whole are read with their header.
        if bytes.len() > 256 << 10 {
            bytes[..HEADER_LEN].fill(0xff);
            headless.insert(path.clone(), bytes.into());
        }
    }
    assert!(headless != whole);
    let (_faulty, _store, repository) = open(&headless, &FaultyTables::default()).await.unwrap();
    for (name, ..) in NAMES {
        repository.verify(name).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_pack_stays_until_nothing_is_missing_and_goes_then() {
    let (whole, _) = store(true).await;
    let (_, chunks) = packs(&whole);
    for path in &chunks {
        let mut without = whole.clone();
        garbage(&mut without, path);
        let (faulty, _store, repository) = open(&without, &FaultyTables::default()).await.unwrap();
        let is_there = async || objects_of(&faulty).await.contains_key(path);
        repository.reclaim(ReclaimOptions::default()).await.unwrap();
        assert!(is_there().await, "it may be restored");
        let damaged = repository.damaged_objects("").await.unwrap();
        assert_eq!(damaged.len(), 1);
        // The object comes again: everything that was in the pack is stored anew.
        let object = NAMES.into_iter().find(|(name, ..)| *name == damaged[0].name).unwrap();
        put(&repository, object).await;
        repository.verify(object.0).await.unwrap();
        assert!(repository.damaged_objects("").await.unwrap().is_empty());
        repository.reclaim(ReclaimOptions::default()).await.unwrap();
        repository.reclaim(ReclaimOptions::default()).await.unwrap();
        assert!(!is_there().await, "nothing is missing any more");
        let report = scrub(&repository).await;
        assert_eq!((report.damage_count, report.contradictions), (0, Vec::new()));
        for (name, ..) in NAMES {
            repository.verify(name).await.unwrap();
        }
        // Nor does it come back in the next rebuild.
        let status = repository.status().unwrap();
        assert_eq!(repository.rebuild().await.unwrap(), status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_goes_with_the_last_that_refers_to_it() {
    let (whole, _) = store(true).await;
    let (_, chunks) = packs(&whole);
    let mut without = whole.clone();
    garbage(&mut without, &chunks[0]);
    let (faulty, _store, repository) = open(&without, &FaultyTables::default()).await.unwrap();
    for (name, ..) in NAMES {
        repository.delete(name, Precondition::None).await.unwrap();
    }
    repository.reclaim(ReclaimOptions::default()).await.unwrap();
    let status = repository.status().unwrap();
    assert_eq!((status.objects, status.chunks, status.unique_bytes), (0, 0, 0));
    assert!(!objects_of(&faulty).await.contains_key(&chunks[0]));
    assert_eq!(repository.rebuild().await.unwrap(), repository.status().unwrap());
    assert_eq!(scrub(&repository).await.contradictions, Vec::<String>::new());
}

async fn scrub(repository: &Repository) -> cairn_agent::engine::ScrubReport {
    let options = ScrubOptions {
        depth: Depth::Full,
        ..ScrubOptions::default()
    };
    repository.scrub(options, &ScrubProgress::default()).await.unwrap()
}
