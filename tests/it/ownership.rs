//! Who writes: of two agents on one store, each with a catalog of its own, the later one, and what it finds is whole.

mod claims;

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_agent::engine::{ByteRange, Precondition, PutOptions, Reason, ReclaimOptions, Repository, Store};
use cairn_agent::format::Layout;
use cairn_agent::format::names::{parse_owner, parse_pack};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::world::{Agent, Place, edited, names, noise, read, rng};

async fn put(repository: &Repository, name: &str, bytes: &[u8]) -> cairn_agent::engine::Result<()> {
    repository.put(name, bytes, PutOptions::default()).await.map(drop)
}

async fn owners(place: &Place, repository: &Repository) -> Vec<u64> {
    let prefix = Layout::new(repository.id()).owners_prefix();
    let files = place.backend().await.list(&prefix, None).await.unwrap();
    files.iter().filter_map(|file| parse_owner(&file.path)).collect()
}

async fn packs_of(place: &Place, repository: &Repository, epoch: u64) -> usize {
    let prefix = Layout::new(repository.id()).packs_prefix();
    let files = place.backend().await.list(&prefix, None).await.unwrap();
    files
        .iter()
        .filter_map(|file| parse_pack(&file.path))
        .filter(|name| name.number.epoch == epoch)
        .count()
}

async fn places() -> [Place; 2] {
    [Place::memory(), Place::s3().await]
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_overtaken_writes_no_more() {
    for place in places().await {
        let (a, b) = (Agent::with_catalog(), Agent::with_catalog());
        let (_first_store, first) = a.open(&place).await.unwrap();
        put(&first, "before", b"one").await.unwrap();
        let (_second_store, second) = b.open(&place).await.unwrap();
        put(&second, "after", b"two").await.unwrap();

        let error = put(&first, "late", b"three").await.unwrap_err();
        assert_eq!(error.reason(), Reason::Fenced);
        for _ in 0..3 {
            assert_eq!(
                put(&first, "late", b"three").await.unwrap_err().reason(),
                Reason::Fenced
            );
            assert_eq!(
                first.delete("before", Precondition::None).await.unwrap_err().reason(),
                Reason::Fenced
            );
            assert_eq!(
                first.reclaim(ReclaimOptions::default()).await.unwrap_err().reason(),
                Reason::Fenced
            );
        }
        put(&second, "later", b"four").await.unwrap();

        let (_third_store, third) = Agent::forgetful().open(&place).await.unwrap();
        for repository in [&second, &third] {
            assert_eq!(names(repository).await, ["after", "before", "later"]);
            assert_eq!(read(repository, "before", ByteRange::All).await.unwrap(), b"one");
        }
        second.rebuild().await.unwrap();
        assert_eq!(names(&second).await, ["after", "before", "later"]);
    }
}

/// A process that lost its answer has failed, not been fenced: it may try again, but not when it was overtaken.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_failed_does_not_take_the_repository_back() {
    use cairn_agent::testkit::faulty::{Fault, Faulty};
    let faulty = Faulty::over(std::sync::Arc::new(object_store::memory::InMemory::new()));
    let place = Place::Faulty(faulty.clone());
    let (_first_store, first) = Agent::with_catalog().open(&place).await.unwrap();
    put(&first, "before", b"one").await.unwrap();
    faulty.order(Some(Fault::Freeze(0)));
    put(&first, "cut off", b"two").await.unwrap_err();
    faulty.order(None);
    let (_second_store, second) = Agent::with_catalog().open(&place).await.unwrap();
    put(&second, "after", b"three").await.unwrap();
    for _ in 0..2 {
        assert_eq!(put(&first, "late", b"four").await.unwrap_err().reason(), Reason::Fenced);
    }
    put(&second, "later", b"five").await.unwrap();
    assert_eq!(names(&second).await, ["after", "before", "later"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_first_left_unfinished_is_swept_by_the_second() {
    for place in places().await {
        let (first_store, first) = Agent::with_catalog().open(&place).await.unwrap();
        put(&first, "before", b"one").await.unwrap();
        // Several packs are put, and their stream never ends.
        let (stalled, arrived) = stalled(noise(&mut rng(1), 6 << 20));
        let putting = {
            let first = first.clone();
            tokio::spawn(async move { first.put("never", stalled, PutOptions::default()).await })
        };
        arrived.await.unwrap();
        while packs_of(&place, &first, 1).await < 4 {
            tokio::task::yield_now().await;
        }
        putting.abort();
        drop((first, first_store));

        let (_store, second) = Agent::with_catalog().open(&place).await.unwrap();
        put(&second, "after", b"two").await.unwrap();
        second.reclaim(ReclaimOptions::default()).await.unwrap();
        let status = second.status().unwrap();
        assert!(status.stored_bytes < 1 << 20, "{status:?}");
        let listed = place
            .backend()
            .await
            .list(&Layout::new(second.id()).packs_prefix(), None)
            .await
            .unwrap();
        assert_eq!(listed.len() as u64, status.packs, "{listed:?}");
        assert_eq!(names(&second).await, ["after", "before"]);
    }
}

/// A source that brings these bytes and then nothing more; and the news that they have been taken.
fn stalled(
    bytes: Vec<u8>,
) -> (
    impl tokio::io::AsyncRead + Unpin + Send,
    tokio::sync::oneshot::Receiver<()>,
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut feed, source) = tokio::io::duplex(64 << 10);
    let (sender, taken) = tokio::sync::oneshot::channel();
    let len = bytes.len() as u64;
    tokio::spawn(async move {
        feed.write_all(&bytes).await.ok();
        sender.send(()).ok();
        // Keeps the pipe open for as long as somebody reads from it.
        feed.read_u8().await.ok();
    });
    (source.take(len + 1), taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_owner_file_still_takes_its_epoch() {
    for (place, contents) in places().await.into_iter().zip([&b""[..], b"torn"]) {
        let agent = Agent::with_catalog();
        let (store, repository) = agent.open(&place).await.unwrap();
        put(&repository, "a", b"one").await.unwrap();
        let layout = Layout::new(repository.id());
        store.close().await;
        place
            .backend()
            .await
            .put(&layout.owner(7), Bytes::from_static(contents))
            .await
            .unwrap();
        put(&repository, "b", b"two").await.unwrap();
        assert_eq!(owners(&place, &repository).await, [8]);
        assert_eq!(names(&repository).await, ["a", "b"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_takes_no_epoch() {
    for place in places().await {
        let (_store, writer) = Agent::with_catalog().open(&place).await.unwrap();
        put(&writer, "a", b"one").await.unwrap();
        let before = owners(&place, &writer).await;
        for agent in [Agent::forgetful(), Agent::with_catalog()] {
            let (_store, reader) = agent.open(&place).await.unwrap();
            assert_eq!(read(&reader, "a", ByteRange::All).await.unwrap(), b"one");
            reader.verify("a").await.unwrap();
            reader.status().unwrap();
        }
        assert_eq!(owners(&place, &writer).await, before);
        put(&writer, "b", b"two").await.unwrap();
    }
}

/// One of two agents that take turns.
struct Side {
    agent: Agent,
    open: Option<(Store, Repository)>,
}

impl Side {
    fn new() -> Self {
        Self {
            agent: Agent::with_catalog(),
            open: None,
        }
    }

    /// Takes over: as a process that was started anew, or as one that gave up its writer and goes on.
    async fn take_over(&mut self, place: &Place, rng: &mut ChaCha8Rng) -> Repository {
        if self.open.is_none() || rng.random_bool(0.5) {
            self.open = None;
            self.open = Some(self.agent.open(place).await.unwrap());
        }
        self.open.as_ref().unwrap().1.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_that_take_turns_lose_nothing() {
    for (place, turns) in places().await.into_iter().zip([40, 12]) {
        let mut rng = rng(11);
        let mut sides = [Side::new(), Side::new()];
        let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let base = noise(&mut rng, 7 << 20);
        for turn in 0..turns {
            let repository = sides[turn % 2].take_over(&place, &mut rng).await;
            for _ in 0..rng.random_range(1..8) {
                let name = format!("object {}", rng.random_range(0..8));
                match rng.random_range(0..10) {
                    0..5 => {
                        let whole = rng.random_bool(0.3);
                        let part = if whole {
                            &base[..]
                        } else {
                            &base[..rng.random_range(0..300 << 10)]
                        };
                        let bytes = edited(&mut rng, part);
                        put(&repository, &name, &bytes).await.unwrap();
                        model.insert(name, bytes);
                    }
                    5..8 => {
                        let deleted = repository.delete(&name, Precondition::None).await.unwrap();
                        assert_eq!(deleted, model.remove(&name).is_some());
                    }
                    _ => drop(repository.reclaim(ReclaimOptions::default()).await.unwrap()),
                }
            }
            if rng.random_bool(0.3) {
                repository.reclaim(ReclaimOptions::default()).await.unwrap();
                let before = repository.status().unwrap();
                assert_eq!(repository.rebuild().await.unwrap(), before);
            }
            assert_eq!(
                names(&repository).await,
                model.keys().cloned().collect::<Vec<_>>(),
                "turn {turn}"
            );
            for (name, bytes) in &model {
                let found = read(&repository, name, ByteRange::All).await.unwrap();
                assert!(found == *bytes, "{name:?} differs in turn {turn}");
            }
            // The other one may go on with what it has open: this one gives up its epoch of its own accord.
            repository.close().await;
        }
    }
}

/// Reclaim releases in its own catalog what deleted objects held; the log tells the other only which packs went.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_follows_the_reclaim_of_another() {
    for place in places().await {
        let (first_store, first) = Agent::with_catalog().open(&place).await.unwrap();
        let (kept, dropped) = (noise(&mut rng(1), 5 << 20), noise(&mut rng(2), 5 << 20));
        put(&first, "kept", &kept).await.unwrap();
        put(&first, "dropped", &dropped).await.unwrap();
        let agent = Agent::with_catalog();
        let (second_store, second) = agent.open(&place).await.unwrap();
        assert!(read(&second, "dropped", ByteRange::All).await.unwrap() == dropped);
        drop((second_store, second));
        first.delete("dropped", Precondition::None).await.unwrap();
        let reclaimed = first.reclaim(ReclaimOptions::default()).await.unwrap();
        assert!(reclaimed.packs_dropped >= 3, "{reclaimed:?}");
        first_store.close().await;

        let (_store, second) = agent.open(&place).await.unwrap();
        assert_eq!(names(&second).await, ["kept"]);
        put(&second, "again", &dropped).await.unwrap();
        for (name, bytes) in [("kept", &kept), ("again", &dropped)] {
            assert!(
                read(&second, name, ByteRange::All).await.unwrap() == *bytes,
                "{name} differs"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_race_of_claims_loses_no_acknowledged_object() {
    for place in places().await {
        // The keyring is there before the race.
        drop(Agent::forgetful().open(&place).await.unwrap());
        for round in 0..4 {
            let racers = (0..5).map(|racer| {
                let name = format!("round {round} racer {racer}");
                let open = Agent::forgetful();
                let place = &place;
                async move {
                    let (store, repository) = open.open(place).await.unwrap();
                    let result = put(&repository, &name, name.as_bytes()).await;
                    drop(store);
                    (name, result)
                }
            });
            let results = futures::future::join_all(racers).await;
            let (_store, reader) = Agent::forgetful().open(&place).await.unwrap();
            let present = names(&reader).await;
            for (name, result) in results {
                match result {
                    Ok(()) => assert!(present.contains(&name), "{name} was acknowledged and is gone"),
                    Err(error) => assert_eq!(error.reason(), Reason::Fenced, "{name}: {error:?}"),
                }
            }
            for name in present {
                assert_eq!(read(&reader, &name, ByteRange::All).await.unwrap(), name.as_bytes());
            }
        }
        let (_store, last) = Agent::forgetful().open(&place).await.unwrap();
        put(&last, "last", b"word").await.unwrap();
        assert_eq!(owners(&place, &last).await.len(), 1);
    }
}
