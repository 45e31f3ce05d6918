//! What a rebuild asks of the storage, and how much of it at once.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cairn_agent::engine::PutOptions;
use cairn_agent::format::BlobKind;
use cairn_agent::format::names::parse_pack;
use cairn_agent::format::pack::open_pack_directory;
use cairn_agent::testkit::faulty::{Faulty, FaultyTables, Kind, Step, store_of};

use crate::crash::examine::{objects_of, secrets};
use crate::world::{Agent, Place, noise, rng};

/// A store of some dozens of packs, with large objects and small ones, and copies of both.
async fn store() -> BTreeMap<String, Bytes> {
    let faulty = Faulty::over(store_of(&BTreeMap::new()).await);
    let (store, repository) = Agent::forgetful().open(&Place::Faulty(faulty.clone())).await.unwrap();
    for (number, len) in [9 << 20, 5 << 20, 300 << 10, 40 << 10, 7 << 20].into_iter().enumerate() {
        let (name, bytes) = (format!("object {number}"), noise(&mut rng(number as u64), len));
        repository
            .put(&name, bytes.as_slice(), PutOptions::default())
            .await
            .unwrap();
        let copy = format!("copy {number}");
        repository.copy(&name, &copy, PutOptions::default()).await.unwrap();
    }
    store.close().await;
    objects_of(&faulty).await
}

/// Stretches of a pack in which manifests lie together.
fn runs(objects: &BTreeMap<String, Bytes>, path: &str) -> usize {
    let directory = open_pack_directory(&secrets(objects), &parse_pack(path).unwrap(), &objects[path]).unwrap();
    let mut end = 0;
    let mut runs = 0;
    for entry in directory.entries.iter().filter(|entry| entry.kind != BlobKind::Data) {
        runs += usize::from(u64::from(entry.offset) != end);
        end = entry.end();
    }
    runs
}

#[tokio::test(flavor = "multi_thread")]
async fn each_pack_is_asked_for_its_tail_and_its_runs_of_manifests_once() {
    let objects = store().await;
    let faulty = Faulty::over(store_of(&objects).await);
    let (_store, repository) = Agent::with_tables(&FaultyTables::default())
        .open(&Place::Faulty(faulty.clone()))
        .await
        .unwrap();
    let mut gets: BTreeMap<String, usize> = BTreeMap::new();
    let mut listings = 0;
    for event in faulty.journal().iter().filter(|event| event.step == Step::Began) {
        match event.kind {
            Kind::Get => *gets.entry(event.path.clone()).or_default() += 1,
            Kind::List => listings += 1,
            Kind::Put | Kind::Delete => panic!("a rebuild wrote {}", event.path),
        }
    }
    let newest = objects.keys().rfind(|path| path.contains("/packs/")).unwrap();
    let (mut packs, mut all_runs) = (0, 0);
    for path in objects.keys().filter(|path| path.contains("/packs/")) {
        let (asked, runs) = (gets.remove(path).unwrap_or(0), runs(&objects, path));
        // The end of the log is looked for by the checkpoint and by who writes next.
        let most = 1 + runs + 2 * usize::from(path == newest);
        assert!(
            (1..=most).contains(&asked),
            "{path}: {asked} requests, {runs} runs of manifests"
        );
        packs += 1;
        all_runs += runs;
    }
    assert!(packs > 20 && all_runs > 5, "{packs} packs, {all_runs} runs");
    for (path, asked) in gets.iter().filter(|(path, _)| path.contains("/checkpoints/")) {
        // What the file is, and its contents.
        assert!(*asked <= 2, "{path}: {asked} requests");
    }
    assert!(listings <= 12, "{listings} listings");
    assert_eq!(repository.status().unwrap().objects, 10);
}

/// The longest tail that is read of a pack of this store.
const TAIL: usize = 128 << 10;

/// The most reads of packs, and the most bytes they may ask for, that wait at the same time while a store is opened
/// without its catalog. The clock must be paused.
async fn reads_at_once(objects: &BTreeMap<String, Bytes>, budget_bytes: usize) -> (usize, usize) {
    let faulty = Faulty::over(store_of(objects).await);
    faulty.hold(|kind, path| kind == Kind::Get && path.contains("/packs/"));
    let opening = tokio::spawn({
        let place = Place::Faulty(faulty.clone());
        async move {
            let agent = Agent::forgetful().tuned(|options| options.budget_bytes = budget_bytes);
            agent.open(&place).await.map(drop)
        }
    });
    let (mut most, mut most_bytes) = (0, 0);
    while !opening.is_finished() {
        // The paused clock moves only when nothing else can: whatever begins without an answer has begun by then.
        tokio::time::sleep(Duration::from_micros(1)).await;
        let waiting = faulty.waiting();
        most = most.max(waiting.len());
        let bytes = waiting
            .iter()
            .map(|waiting| objects[&waiting.path].len().min(TAIL))
            .sum();
        most_bytes = most_bytes.max(bytes);
        if let Some(first) = waiting.first() {
            faulty.release(first.operation).await;
        }
    }
    opening.await.unwrap().unwrap();
    (most, most_bytes)
}

#[tokio::test(start_paused = true)]
async fn reads_of_packs_are_bounded_in_number_and_in_bytes() {
    let objects = store().await;
    let (most, bytes) = reads_at_once(&objects, 24 << 20).await;
    assert!((2..=8).contains(&most), "{most}");
    assert!(bytes > 3 * TAIL, "{bytes}");
    // Half of the budget is for reads, and one read is done without asking for room.
    let (_, bytes) = reads_at_once(&objects, 4 * TAIL).await;
    assert!(bytes <= 3 * TAIL, "{bytes}");
    // Without any room one after the other is read all the same.
    assert_eq!(reads_at_once(&objects, 2).await.0, 1);
}
