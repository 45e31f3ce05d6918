//! What a lookup found stays there until it is held, and what has gone is not found: the races between lookups and
//! packs that go, each in the one order that would harm.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use cairn_agent::catalog::Table;
use cairn_agent::engine::{
    ByteRange, Precondition, PutOptions, ReclaimOptions, Repository, ScrubOptions, ScrubProgress,
};
use cairn_agent::format::Layout;
use cairn_agent::testkit::faulty::{Access, Faulty, FaultyTables, Kind};
use object_store::memory::InMemory;
use rand::RngExt;

use crate::support::{Announce, is_long, seed};
use crate::world::{Agent, Place, names, noise, read, rng};

async fn put(repository: &Repository, name: &str, bytes: &[u8]) {
    repository.put(name, bytes, PutOptions::default()).await.unwrap();
}

/// Time for another task to do what it must not do. A lock that is kept makes the test take it all.
const LONG_ENOUGH: Duration = Duration::from_millis(500);

/// A lookup has read where a chunk is, and holds nothing yet. Meanwhile that pack is condemned, wholly or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pack_is_not_condemned_between_finding_it_and_holding_it() {
    let tables = FaultyTables::default();
    let place = Place::memory();
    let (_store, repository) = Agent::with_tables(&tables).open(&place).await.unwrap();
    // Few chunks: listed in the record, so that nothing has to be released before the pack can go.
    let bytes = noise(&mut rng(1), 84 << 10);
    put(&repository, "first", &bytes).await;
    put(&repository, "kept", b"kept").await;
    repository.delete("first", Precondition::None).await.unwrap();

    let (reached, reached_here) = mpsc::channel();
    let (go_on, told_to_go_on) = mpsc::channel::<()>();
    let told_to_go_on = Mutex::new(told_to_go_on);
    let (armed, commits) = (AtomicBool::new(true), Arc::new(AtomicUsize::new(0)));
    let counted = commits.clone();
    tables.watch(move |access| match access {
        Access::Committed => drop(counted.fetch_add(1, Ordering::SeqCst)),
        Access::Got(Table::Chunks) if armed.swap(false, Ordering::SeqCst) => {
            reached.send(()).unwrap();
            let _ = told_to_go_on.lock().unwrap().recv();
        }
        Access::Got(_) => {}
    });
    let putting = {
        let (repository, bytes) = (repository.clone(), bytes.clone());
        tokio::spawn(async move { repository.put("second", bytes.as_slice(), PutOptions::default()).await })
    };
    tokio::task::spawn_blocking(move || reached_here.recv().unwrap())
        .await
        .unwrap();
    let reclaiming = {
        let repository = repository.clone();
        tokio::spawn(async move { repository.reclaim(ReclaimOptions::default()).await })
    };
    // Checkpoints, the condemnation: if nothing holds it up it does not take long.
    let started = Instant::now();
    while started.elapsed() < LONG_ENOUGH && !reclaiming.is_finished() {
        tokio::task::yield_now().await;
    }
    go_on.send(()).unwrap();
    reclaiming.await.unwrap().unwrap();
    putting.await.unwrap().unwrap();
    assert!(commits.load(Ordering::SeqCst) > 0);
    assert!(read(&repository, "second", ByteRange::All).await.unwrap() == bytes);
    repository.rebuild().await.unwrap();
    assert!(read(&repository, "second", ByteRange::All).await.unwrap() == bytes);
}

/// A reader has read where a chunk is, and holds nothing yet. Meanwhile that copy is found to be gone and the chunk is put
/// again: its place moves to another pack. The reader holds the new one too, or what it reads could be reclaimed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_chunk_does_not_move_between_finding_it_and_holding_it() {
    let tables = FaultyTables::default();
    let faulty = Faulty::over(Arc::new(InMemory::new()));
    let (_store, repository) = Agent::with_tables(&tables)
        .open(&Place::Faulty(faulty.clone()))
        .await
        .unwrap();
    // Few chunks: listed in the record, so that a delete releases them at once.
    let bytes = noise(&mut rng(3), 84 << 10);
    put(&repository, "first", &bytes).await;
    let backend = faulty.backend();
    for pack in backend
        .list(&Layout::new(repository.id()).packs_prefix(), None)
        .await
        .unwrap()
    {
        backend.delete(&pack.path).await.unwrap();
    }
    read(&repository, "first", ByteRange::All).await.unwrap_err();

    let (reached, reached_here) = mpsc::channel();
    let (go_on, told_to_go_on) = mpsc::channel::<()>();
    let told_to_go_on = Mutex::new(told_to_go_on);
    let armed = AtomicBool::new(true);
    tables.watch(move |access| {
        if access == Access::Got(Table::Chunks) && armed.swap(false, Ordering::SeqCst) {
            reached.send(()).unwrap();
            let _ = told_to_go_on.lock().unwrap().recv();
        }
    });
    let opening = {
        let repository = repository.clone();
        tokio::spawn(async move { repository.get("first", ByteRange::Last(1)).await })
    };
    tokio::task::spawn_blocking(move || reached_here.recv().unwrap())
        .await
        .unwrap();
    let putting = {
        let (repository, bytes) = (repository.clone(), bytes.clone());
        tokio::spawn(async move { put(&repository, "second", &bytes).await })
    };
    // If nothing holds it up it does not take long.
    let started = Instant::now();
    while started.elapsed() < LONG_ENOUGH && !putting.is_finished() {
        tokio::task::yield_now().await;
    }
    go_on.send(()).unwrap();
    putting.await.unwrap();
    let mut reader = opening.await.unwrap().unwrap();
    for name in ["first", "second"] {
        assert!(repository.delete(name, Precondition::None).await.unwrap());
    }
    repository.reclaim(ReclaimOptions::default()).await.unwrap();
    assert_eq!(
        reader.next().await.unwrap().as_deref(),
        bytes.last_chunk::<1>().map(|byte| &byte[..])
    );
    drop(reader);
    let reclaimed = repository.reclaim(ReclaimOptions::default()).await.unwrap();
    assert!(reclaimed.packs_dropped > 0, "only the reader kept it: {reclaimed:?}");
}

/// A reclaim has read the manifest of a deleted object. Before it releases what that leads to, the same object is put again
/// and refers to the same manifest.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_manifest_that_is_in_use_again_is_not_released() {
    let faulty = Faulty::over(Arc::new(InMemory::new()));
    let place = Place::Faulty(faulty.clone());
    let (_store, repository) = Agent::with_catalog().open(&place).await.unwrap();
    let bytes = noise(&mut rng(4), 900 << 10);
    put(&repository, "object", &bytes).await;
    repository.delete("object", Precondition::None).await.unwrap();
    faulty.hold(|kind, path| kind == Kind::Get && path.contains("/packs/"));
    let reclaiming = {
        let repository = repository.clone();
        tokio::spawn(async move { repository.reclaim(ReclaimOptions::default()).await })
    };
    let reading = faulty.held(|_| true).await;
    faulty.hold_no_more();
    put(&repository, "object", &bytes).await;
    assert!(faulty.release(reading.operation).await);
    reclaiming.await.unwrap().unwrap();
    assert!(read(&repository, "object", ByteRange::All).await.unwrap() == bytes);
    let status = repository.status().unwrap();
    assert_eq!(repository.rebuild().await.unwrap(), status);
}

/// An agent that knows the entries of a pack by heart gives its epoch up; another one drops the pack. Following the log,
/// the first has to unlearn it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pack_that_another_owner_condemned_is_not_found_in_the_cache() {
    let faulty = Faulty::over(Arc::new(InMemory::new()));
    let place = Place::Faulty(faulty.clone());
    let (_first_store, first) = Agent::with_catalog().open(&place).await.unwrap();
    // Few chunks: listed in the record, so that a delete releases them at once, in every catalog.
    let bytes = noise(&mut rng(2), 84 << 10);
    put(&first, "one", &bytes).await;
    put(&first, "two", &bytes).await;
    put(&first, "kept", b"kept").await;
    first.close().await;

    let (second_store, second) = Agent::with_catalog().open(&place).await.unwrap();
    drop_in_one_commit(&faulty, &second, &["one", "two"]).await;
    let before = names(&second).await;
    let reclaimed = second.reclaim(ReclaimOptions::default()).await.unwrap();
    assert!(reclaimed.packs_dropped > 0, "{reclaimed:?}");
    second_store.close().await;

    put(&first, "again", &bytes).await;
    assert!(read(&first, "again", ByteRange::All).await.unwrap() == bytes);
    assert_eq!(names(&first).await.len(), before.len() + 1);
    let status = first.status().unwrap();
    assert_eq!(first.rebuild().await.unwrap(), status);
    assert!(read(&first, "again", ByteRange::All).await.unwrap() == bytes);
}

/// Deletes in a commit that also brings something in: a commit pack that stays, as whoever follows the log needs it.
async fn drop_in_one_commit(faulty: &Faulty, repository: &Repository, dropped: &[&str]) {
    faulty.hold(|kind, path| kind == Kind::Put && path.contains("/packs/"));
    let opening = {
        let repository = repository.clone();
        tokio::spawn(async move { put(&repository, "opening", b"opening").await })
    };
    let held = faulty.held(|_| true).await;
    faulty.hold_no_more();
    let deleting: Vec<_> = dropped
        .iter()
        .map(|name| {
            let (repository, name) = (repository.clone(), (*name).to_owned());
            tokio::spawn(async move { repository.delete(&name, Precondition::None).await.unwrap() })
        })
        .collect();
    let bringing = {
        let repository = repository.clone();
        tokio::spawn(async move { put(&repository, "beside", b"beside").await })
    };
    // They wait for the commit that is held. There is nothing to see of that from outside.
    for _ in 0..2000 {
        tokio::task::yield_now().await;
    }
    crate::support::pause(Duration::from_millis(50));
    assert!(faulty.release(held.operation).await);
    opening.await.unwrap();
    bringing.await.unwrap();
    for deleted in deleting {
        assert!(deleted.await.unwrap());
    }
}

/// Few contents that come and go all the time, under names that are replaced and deleted, while reclaims follow each other
/// without a pause: nearly every put meets chunks that are being released, moved or dropped. `CAIRN_LONG=1` makes 100,000 puts.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn chunks_that_are_put_while_they_are_reclaimed_are_never_lost() {
    const TASKS: u64 = 8;
    let puts = if is_long() { 100_000 } else { 4_000 };
    let seed = seed(8);
    let _announce = Announce(seed);
    let place = Place::memory();
    // It keeps the directory of the catalog.
    let agent = Agent::with_catalog();
    let (store, repository) = agent.open(&place).await.unwrap();
    // Most are listed in their records; some have a manifest.
    let contents: Arc<Vec<Vec<u8>>> = {
        let mut rng = rng(seed);
        let len = |index| if index % 6 == 0 { 250 << 10 } else { 1 << 10 };
        Arc::new((0..24).map(|index| noise(&mut rng, len(index))).collect())
    };
    let done = Arc::new(AtomicBool::new(false));
    let reclaiming = {
        let (repository, done) = (repository.clone(), done.clone());
        tokio::spawn(async move {
            let mut sum = (0, 0);
            while !done.load(Ordering::Relaxed) {
                let reclaimed = repository.reclaim(ReclaimOptions::THOROUGH).await.unwrap();
                sum = (sum.0 + reclaimed.packs_dropped, sum.1 + reclaimed.packs_rewritten);
            }
            sum
        })
    };
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (repository, contents) = (repository.clone(), contents.clone());
            let mut rng = rng(seed ^ (task + 1) << 32);
            tokio::spawn(async move {
                let mut last = None;
                for _ in 0..puts / TASKS {
                    let name = format!("task {task}");
                    let content = rng.random_range(0..contents.len());
                    put(&repository, &name, &contents[content]).await;
                    let found = read(&repository, &name, ByteRange::All).await.unwrap();
                    assert!(found == contents[content], "{name} differs");
                    last = Some(content);
                    if rng.random_bool(0.3) {
                        assert!(repository.delete(&name, Precondition::None).await.unwrap());
                        last = None;
                    }
                }
                last
            })
        })
        .collect();
    let mut expected = Vec::new();
    for (task, ended) in tasks.into_iter().enumerate() {
        expected.extend(ended.await.unwrap().map(|content| (format!("task {task}"), content)));
    }
    done.store(true, Ordering::Relaxed);
    let (dropped, rewritten) = reclaiming.await.unwrap();
    assert!(dropped > 0 && rewritten > 0, "{dropped} {rewritten}");
    let duplicates = store.counters().chunks_duplicate.value();
    assert!(
        duplicates > puts / 10,
        "{duplicates}: the puts met nothing that was there"
    );
    println!("{puts} puts, {duplicates} duplicate chunks, {dropped} packs dropped, {rewritten} of them rewritten");
    for (name, content) in &expected {
        assert!(
            read(&repository, name, ByteRange::All).await.unwrap() == contents[*content],
            "{name}"
        );
    }
    repository.close().await;
    repository.reclaim(ReclaimOptions::THOROUGH).await.unwrap();
    let report = repository
        .scrub(ScrubOptions::default(), &ScrubProgress::default())
        .await
        .unwrap();
    assert!(report.is_sound(), "{report:#?}");
    let status = repository.status().unwrap();
    assert_eq!(repository.rebuild().await.unwrap(), status);
}
