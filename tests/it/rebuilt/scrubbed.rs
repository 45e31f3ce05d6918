//! A scrub beside a rebuild, beside another agent, and beside the end of its key: nothing that is whole is called damaged.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_agent::engine::{Depth, Precondition, PutOptions, Reason, ReclaimOptions, Repository, Result};
use cairn_agent::engine::{ScrubOptions, ScrubProgress, ScrubReport, Store};
use cairn_agent::testkit::faulty::{Faulty, FaultyTables, Kind, store_of};
use rand::RngExt;

use crate::crash::examine::objects_of;
use crate::crash::history::{History, agent};
use crate::support::is_long;
use crate::world::{Place, noise, rng};

async fn scrub(repository: Repository, depth: Depth) -> Result<ScrubReport> {
    let options = ScrubOptions {
        depth,
        ..ScrubOptions::default()
    };
    repository.scrub(options, &ScrubProgress::default()).await
}

/// Opens a store whose reads of packs wait.
async fn holding(objects: &BTreeMap<String, Bytes>) -> (Faulty, Store, Repository) {
    let faulty = Faulty::over(store_of(objects).await);
    let opened = agent(&FaultyTables::default())
        .open(&Place::Faulty(faulty.clone()))
        .await;
    let (store, repository) = opened.unwrap();
    faulty.hold(|kind, path| kind == Kind::Get && path.contains("/packs/"));
    (faulty, store, repository)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_beside_a_scrub_makes_nothing_look_damaged() {
    let objects = objects_of(&History::record().await.store).await;
    let mut begun_again = 0;
    for seed in 0..if is_long() { 400 } else { 40 } {
        let mut random = rng(seed);
        let (faulty, store, repository) = holding(&objects).await;
        let before = repository.status().unwrap();
        let depth = [Depth::Structure, Depth::Full][seed as usize % 2];
        let scrubbing = tokio::spawn(scrub(repository.clone(), depth));
        // So far the scrub gets before the catalog is made anew.
        for _ in 0..random.random_range(0..60) {
            match faulty.waiting().first() {
                Some(first) => drop(faulty.release(first.operation).await),
                None if scrubbing.is_finished() => break,
                None => tokio::task::yield_now().await,
            }
        }
        let rebuilding = tokio::spawn({
            let repository = repository.clone();
            async move { repository.rebuild().await }
        });
        while !scrubbing.is_finished() || !rebuilding.is_finished() {
            let waiting = faulty.waiting();
            match waiting.len() {
                0 => tokio::task::yield_now().await,
                len => drop(faulty.release(waiting[random.random_range(0..len)].operation).await),
            }
        }
        assert_eq!(rebuilding.await.unwrap().unwrap(), before, "seed {seed}");
        let report = scrubbing.await.unwrap().unwrap();
        assert!(
            report.is_sound() && report.damage_count == 0,
            "seed {seed}: {report:#?}"
        );
        assert_eq!((report.packs, report.next), (before.packs, None), "seed {seed}");
        assert_eq!(store.counters().chunks_quarantined.value(), 0, "seed {seed}");
        begun_again += u64::from(report.bytes > 0);
    }
    assert!(begun_again > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_that_is_asked_for_during_a_rebuild_waits_for_it() {
    let objects = objects_of(&History::record().await.store).await;
    let (faulty, store, repository) = holding(&objects).await;
    let before = repository.status().unwrap();
    let rebuilding = tokio::spawn({
        let repository = repository.clone();
        async move { repository.rebuild().await }
    });
    while repository.stat("no such object").await.unwrap_err().reason() == Reason::ObjectNotFound {
        match faulty.waiting().first() {
            Some(first) => drop(faulty.release(first.operation).await),
            None => tokio::task::yield_now().await,
        }
    }
    let scrubbing = tokio::spawn(scrub(repository.clone(), Depth::Full));
    // As far as it gets while the catalog is nothing to compare with.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!scrubbing.is_finished());
    faulty.hold_no_more();
    for waiting in faulty.waiting() {
        faulty.release(waiting.operation).await;
    }
    assert_eq!(rebuilding.await.unwrap().unwrap(), before);
    let report = scrubbing.await.unwrap().unwrap();
    assert!(report.is_sound() && report.damage_count == 0, "{report:#?}");
    assert_eq!((report.packs, report.next), (before.packs, None));
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_ends_as_retryable_when_the_catalog_cannot_be_made_anew() {
    let objects = objects_of(&History::record().await.store).await;
    let (faulty, store, repository) = holding(&objects).await;
    let scrubbing = tokio::spawn(scrub(repository.clone(), Depth::Structure));
    let first = faulty.held(|_| true).await.operation;
    let rebuilding = tokio::spawn({
        let repository = repository.clone();
        async move { repository.rebuild().await }
    });
    // Reads go well until the rebuild has given up the catalog, and fail from then on.
    while repository.stat("no such object").await.unwrap_err().reason() == Reason::ObjectNotFound {
        match faulty.waiting().iter().find(|waiting| waiting.operation != first) {
            Some(waiting) => drop(faulty.release(waiting.operation).await),
            None => tokio::task::yield_now().await,
        }
    }
    while !rebuilding.is_finished() {
        match faulty.waiting().iter().find(|waiting| waiting.operation != first) {
            Some(waiting) => drop(faulty.refuse(waiting.operation)),
            None => tokio::task::yield_now().await,
        }
    }
    assert_eq!(
        rebuilding.await.unwrap().unwrap_err().reason(),
        Reason::BackendUnavailable
    );
    faulty.hold_no_more();
    faulty.release(first).await;
    let error = scrubbing.await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Reason::CatalogFailed, "{error}");
    assert!(error.reason().is_retryable());
    repository.rebuild().await.unwrap();
    let report = scrub(repository, Depth::Full).await.unwrap();
    assert!(report.is_sound(), "{report:#?}");
    assert_eq!(store.counters().chunks_quarantined.value(), 0);
}

/// Another agent takes over, deletes what is there, and reclaims it.
async fn reclaimed_elsewhere(place: &Place) {
    let (store, other) = agent(&FaultyTables::default()).open(place).await.unwrap();
    for name in ["second", "passing", "large"] {
        other.delete(name, Precondition::None).await.unwrap();
    }
    let bytes = noise(&mut rng(99), 300 << 10);
    other
        .put("other", bytes.as_slice(), PutOptions::default())
        .await
        .unwrap();
    assert!(other.reclaim(ReclaimOptions::default()).await.unwrap().packs_dropped > 0);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_that_another_agent_reclaimed_are_not_missing() {
    let objects = objects_of(&History::record().await.store).await;
    for depth in [Depth::Structure, Depth::Full] {
        let place = Place::Faulty(Faulty::over(store_of(&objects).await));
        let (store, repository) = agent(&FaultyTables::default()).open(&place).await.unwrap();
        reclaimed_elsewhere(&place).await;
        let report = scrub(repository.clone(), depth).await.unwrap();
        assert!(report.is_sound() && report.damage_count == 0, "{depth}: {report:#?}");
        assert!(repository.stat("other").await.is_ok(), "the log was followed");
        assert_eq!(store.counters().chunks_quarantined.value(), 0);
        assert!(repository.damaged_objects("").await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_was_overtaken_scrubs_no_more() {
    let objects = objects_of(&History::record().await.store).await;
    let place = Place::Faulty(Faulty::over(store_of(&objects).await));
    let (store, repository) = agent(&FaultyTables::default()).open(&place).await.unwrap();
    repository.put("own", &b"own"[..], PutOptions::default()).await.unwrap();
    reclaimed_elsewhere(&place).await;
    let error = scrub(repository, Depth::Full).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Fenced, "{error}");
    assert_eq!(store.counters().chunks_quarantined.value(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_ends_when_its_key_is_taken_away() {
    let objects = objects_of(&History::record().await.store).await;
    for depth in [Depth::Structure, Depth::Full] {
        let (faulty, store, repository) = holding(&objects).await;
        let scrubbing = tokio::spawn(scrub(repository, depth));
        let held = faulty.held(|_| true).await;
        assert!(store.unload_key("test").await);
        let error = scrubbing.await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Reason::KeysUnavailable, "{error}");
        faulty.release(held.operation).await;
        assert_eq!(store.counters().chunks_quarantined.value(), 0);
    }
}
