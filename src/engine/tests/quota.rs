//! Quotas and the limit of a store: what does not fit is refused, and what fits is not.

use super::*;

const MIB: usize = 1 << 20;

fn logical(bytes: usize) -> Quota {
    Quota {
        logical_bytes: Some(bytes as u64),
        ..Quota::default()
    }
}

fn stored(bytes: usize) -> Quota {
    Quota {
        stored_bytes: Some(bytes as u64),
        ..Quota::default()
    }
}

async fn put(repository: &Repository, name: &str, seed: u64, len: usize) -> Result<PutOutcome> {
    let data = bytes(seed, len);
    repository.put(name, data.as_slice(), PutOptions::default()).await
}

fn over<T: std::fmt::Debug>(result: Result<T>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.reason(), Reason::QuotaExceeded, "{error}");
    error.to_string()
}

fn totals(repository: &Repository) -> RepositoryStatus {
    repository.status().unwrap()
}

/// A source that waits in the middle until it is told to go on, and tells that it waits.
struct Paused {
    parts: Vec<Vec<u8>>,
    waits: tokio::sync::mpsc::Sender<()>,
    go_on: tokio::sync::watch::Receiver<bool>,
}

impl Source for Paused {
    async fn fill(&mut self, mut buffer: Vec<u8>, room: std::ops::Range<usize>) -> std::io::Result<(Vec<u8>, usize)> {
        if self.parts.len() == 1 {
            self.waits.send(()).await.unwrap();
            self.go_on.wait_for(|go_on| *go_on).await.unwrap();
        }
        let Some(part) = self.parts.first_mut() else {
            return Ok((buffer, 0));
        };
        let len = part.len().min(room.len());
        buffer[room][..len].copy_from_slice(&part[..len]);
        part.drain(..len);
        if part.is_empty() {
            self.parts.remove(0);
        }
        Ok((buffer, len))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_beyond_the_quota_is_refused_and_a_delete_brings_it_back_at_once() {
    let repository = store("quota").await.repository("default").await.unwrap();
    repository.set_quota(logical(3 * MIB));
    put(&repository, "a", 1, 2 * MIB).await.unwrap();
    let line = over(put(&repository, "b", 2, MIB + 1).await);
    for part in ["\"default\"", "3145728", "2097152 are used", "in flight"] {
        assert!(line.contains(part), "{line}");
    }
    assert_eq!(repository.stat("b").await.unwrap_err().reason(), Reason::ObjectNotFound);
    put(&repository, "b", 2, MIB).await.unwrap();
    put(&repository, "empty", 3, 0).await.expect("nothing is added");
    over(put(&repository, "c", 3, 1).await);
    over(repository.copy("a", "d", PutOptions::default()).await);

    // What takes the place of as much is no more than there was.
    put(&repository, "a", 4, 2 * MIB).await.unwrap();
    put(&repository, "a", 5, MIB).await.unwrap();
    over(put(&repository, "a", 6, 2 * MIB + 1).await);
    put(&repository, "a", 4, 2 * MIB).await.unwrap();
    repository.copy("b", "a", PutOptions::default()).await.unwrap();

    repository.delete("b", Precondition::None).await.unwrap();
    put(&repository, "c", 7, 2 * MIB).await.unwrap();
    assert_eq!(totals(&repository).logical_bytes, 3 * MIB as u64);
    assert_eq!(totals(&repository).in_flight, InFlightBytes::default());
    repository.set_quota(Quota::default());
    put(&repository, "d", 8, MIB).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn below_what_is_used_only_what_adds_nothing_is_taken() {
    let repository = store("quota below").await.repository("default").await.unwrap();
    put(&repository, "a", 1, 2 * MIB).await.unwrap();
    repository.set_quota(logical(MIB));
    put(&repository, "a", 2, 2 * MIB)
        .await
        .expect("it is no more than before");
    over(put(&repository, "a", 3, 2 * MIB + 1).await);
    over(put(&repository, "b", 3, 1).await);
    repository.set_quota(logical(0));
    put(&repository, "empty", 1, 0).await.unwrap();
    over(put(&repository, "b", 3, 1).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_is_sent_again_is_not_refused() {
    let repository = store("quota again").await.repository("default").await.unwrap();
    for quota in [logical(MIB), stored(2 * MIB)] {
        repository.set_quota(Quota::default());
        let options = || PutOptions {
            put_id: Some([1 + u8::from(quota.stored_bytes.is_some()); 16]),
            expected_bytes: Some(MIB as u64),
            ..PutOptions::default()
        };
        let data = bytes(1, MIB);
        let first = repository.put("a", data.as_slice(), options()).await.unwrap();
        repository.set_quota(quota);
        // Another object has taken what was left.
        let _ = put(&repository, "b", 2, MIB - (1 << 17)).await;
        let again = repository.put("a", data.as_slice(), options()).await.unwrap();
        assert_eq!(again.object, first.object);
        repository.delete("b", Precondition::None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_to_be_too_long_is_refused_before_its_first_byte() {
    let repository = store("quota declared").await.repository("default").await.unwrap();
    repository.set_quota(logical(MIB));
    let of = |bytes| PutOptions {
        expected_bytes: Some(bytes),
        ..PutOptions::default()
    };
    over(repository.begin_put("a", of(MIB as u64 + 1)).await.map(drop));
    let first = repository.begin_put("a", of(MIB as u64 - 10)).await.unwrap();
    assert_eq!(totals(&repository).in_flight.logical, MIB as u64 - 10);
    let line = over(repository.begin_put("b", of(11)).await.map(drop));
    assert!(line.contains("1048566 are in flight"), "{line}");
    repository.begin_put("b", of(10)).await.map(drop).unwrap();
    drop(first);
    assert_eq!(totals(&repository).in_flight.logical, 0, "given up");
    repository.begin_put("b", of(11)).await.map(drop).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_refused_as_soon_as_what_arrived_does_not_fit_beside_others() {
    let repository = store("quota streams").await.repository("default").await.unwrap();
    repository.set_quota(logical(4 * MIB));
    let (waits, mut waiting) = tokio::sync::mpsc::channel(1);
    let (go_on, going_on) = tokio::sync::watch::channel(false);
    let paused = Paused {
        parts: vec![bytes(1, MIB), bytes(2, MIB), bytes(3, 1000)],
        waits,
        go_on: going_on,
    };
    let writing = tokio::spawn({
        let repository = repository.clone();
        async move { repository.put("slow", paused, PutOptions::default()).await }
    });
    waiting.recv().await.unwrap();
    assert_eq!(totals(&repository).in_flight.logical, 2 * MIB as u64);
    // It would fit, were it not for what has arrived of the other.
    let line = over(put(&repository, "b", 4, 3 * MIB).await);
    assert!(line.contains("0 are used"), "{line}");
    put(&repository, "b", 4, MIB).await.unwrap();
    go_on.send_replace(true);
    writing.await.unwrap().unwrap();
    assert_eq!(totals(&repository).logical_bytes, 3 * MIB as u64 + 1000);
}

/// Of many at once, each of `len`, so many as fit come in: never more, and none that fits is refused for ever.
async fn many_at_once(repository: &Repository, len: usize, quota: Quota) -> usize {
    repository.set_quota(quota);
    let puts = (0..24).map(|number| {
        let repository = repository.clone();
        tokio::spawn(async move { put(&repository, &format!("{number}"), 100 + number, len).await })
    });
    let mut stored = 0;
    for put in puts.collect::<Vec<_>>() {
        match put.await.unwrap() {
            Ok(_) => stored += 1,
            Err(error) => drop(over(Err::<(), _>(error))),
        }
    }
    let page = repository.list("", None, 1000).await.unwrap();
    assert_eq!(page.objects.len(), stored, "nothing of a refused put is visible");
    assert_eq!(totals(repository).in_flight.logical, 0);
    stored
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_at_once_never_exceed_a_quota_together() {
    let repository = store("quota together").await.repository("default").await.unwrap();
    let stored = many_at_once(&repository, 100_000, logical(1_000_000)).await;
    assert!((1..=10).contains(&stored), "{stored}");
    assert_eq!(totals(&repository).logical_bytes, stored as u64 * 100_000);
    // Those that were refused beside others that came in or went are taken when they come again.
    for number in stored..10 {
        put(&repository, &format!("again {number}"), number as u64, 100_000)
            .await
            .unwrap();
    }
    over(put(&repository, "one more", 99, 1).await);
    assert_eq!(totals(&repository).logical_bytes, 1_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_all_fit_are_all_taken() {
    let repository = store("quota exact").await.repository("default").await.unwrap();
    assert_eq!(many_at_once(&repository, 100_000, logical(2_400_000)).await, 24);
    assert_eq!(totals(&repository).logical_bytes, 2_400_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_of_stored_bytes_counts_packs_on_their_way() {
    let repository = store("quota stored").await.repository("default").await.unwrap();
    let most = 8 * MIB;
    let count = many_at_once(&repository, MIB, stored(most)).await;
    assert!((1..8).contains(&count), "{count}");
    assert!(
        totals(&repository).stored_bytes <= most as u64,
        "{:?}",
        totals(&repository)
    );
    // The same bytes take no room twice, but that is known too late; a delete frees nothing until space is given back.
    let line = over(put(&repository, "large", 1, 9 * MIB).await);
    assert!(line.contains("bytes of packs") && line.contains("gc"), "{line}");
    for object in repository.list("", None, 1000).await.unwrap().objects {
        repository.delete(&object.name, Precondition::None).await.unwrap();
    }
    repository.reclaim(ReclaimOptions::default()).await.unwrap();
    put(&repository, "large", 1, 4 * MIB).await.unwrap();
    assert!(
        totals(&repository).stored_bytes <= most as u64,
        "{:?}",
        totals(&repository)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_word_is_said_with_the_record() {
    let repository = store("quota decided").await.repository("default").await.unwrap();
    let (waits, mut waiting) = tokio::sync::mpsc::channel(1);
    let (go_on, going_on) = tokio::sync::watch::channel(false);
    let paused = Paused {
        parts: vec![bytes(1, MIB), bytes(3, 0)],
        waits,
        go_on: going_on,
    };
    let writing = tokio::spawn({
        let repository = repository.clone();
        async move { repository.put("slow", paused, PutOptions::default()).await }
    });
    waiting.recv().await.unwrap();
    // Set after all of it was admitted.
    repository.set_quota(logical(MIB - 1));
    go_on.send_replace(true);
    over(writing.await.unwrap());
    assert_eq!(totals(&repository).objects, 0);
    assert_eq!(totals(&repository).in_flight.logical, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_decided_for_one_commit_counts_together() {
    let repository = store("quota in a commit").await.repository("default").await.unwrap();
    let (waits, mut waiting) = tokio::sync::mpsc::channel(8);
    let (go_on, going_on) = tokio::sync::watch::channel(false);
    let puts = (0..8).map(|number| {
        let (repository, waits, go_on) = (repository.clone(), waits.clone(), going_on.clone());
        let parts = vec![bytes(number, MIB), Vec::new()];
        tokio::spawn(async move {
            let source = Paused { parts, waits, go_on };
            repository.put(&number.to_string(), source, PutOptions::default()).await
        })
    });
    let puts: Vec<_> = puts.collect();
    for _ in 0..8 {
        waiting.recv().await.unwrap();
    }
    // Set after all of them were admitted. All but the first come to share a commit.
    repository.set_quota(logical(3 * MIB));
    go_on.send_replace(true);
    let mut refused = 0;
    for put in puts {
        if let Err(error) = put.await.unwrap() {
            over(Err::<(), _>(error));
            refused += 1;
        }
    }
    assert_eq!((refused, totals(&repository).logical_bytes), (5, 3 * MIB as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_are_by_name_and_may_come_before_the_repository() {
    let mut options = StoreOptions::in_memory("quota by name").unwrap();
    options.options.quotas = [("later".to_owned(), logical(10))].into();
    let first = NewRepository::named("default").unwrap();
    let store = Store::open_or_create(options, first).await.unwrap();
    put(&store.repository("default").await.unwrap(), "a", 1, 1000)
        .await
        .unwrap();
    let later = store
        .create_repository(NewRepository::named("later").unwrap())
        .await
        .unwrap();
    over(put(&later, "a", 1, 11).await);
    put(&later, "a", 1, 10).await.unwrap();
    assert_eq!(totals(&later).quota, logical(10));
    assert_eq!(store.quotas().len(), 1);
    assert_eq!(store.counters().quota_refusals.value(), 1);
}

/// Options of a store with a limit and small packs; the place is another's affair.
fn limited() -> StoreOptions {
    let mut options = StoreOptions::in_memory("store limit").unwrap();
    options.options.store_bytes_max = Some(24 * MIB as u64);
    options.options.pack_bytes_target = MIB;
    options
}

/// Whether the limit is a cause of the mode now.
async fn limit_is_felt(store: &Store) -> bool {
    let status = store.status().await.unwrap();
    status.causes.iter().any(|cause| cause.code == cause_code::LIMIT)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_a_store_in_memory_refuses_puts_and_lets_go_when_there_is_room_again() {
    let first = NewRepository::named("default").unwrap();
    limit_comes_and_goes(Store::open_or_create(limited(), first).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_a_store_on_a_volume_refuses_puts_and_lets_go_when_there_is_room_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = limited();
    options.location = crate::backend::Location::Directory(directory.path().join("store"));
    let first = NewRepository::named("default").unwrap();
    limit_comes_and_goes(Store::open_or_create(options, first).await.unwrap()).await;
}

#[cfg(feature = "s3")]
#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_a_store_in_a_bucket_refuses_puts_and_lets_go_when_there_is_room_again() {
    let server = crate::testkit::s3_server::S3Server::start().await;
    let first = NewRepository::named("default").unwrap();
    let store = Store::open_on(limited(), server.backend("limit").await, first).await;
    limit_comes_and_goes(store.unwrap()).await;
}

async fn limit_comes_and_goes(store: Store) {
    let repository = store.repository("default").await.unwrap();
    assert!(!limit_is_felt(&store).await);
    let capacity = store.status().await.unwrap().capacity;
    assert_eq!(capacity.limit_bytes, Some(24 * MIB as u64));
    let mut number = 0;
    let refused = loop {
        match put(&repository, &number.to_string(), 1000 + number, MIB).await {
            Ok(_) => number += 1,
            Err(error) => break error,
        }
        assert!(number < 24, "the limit is passed");
    };
    assert_eq!(refused.reason(), Reason::NoCapacity, "{refused}");
    let full = store.status().await.unwrap();
    assert_eq!((full.mode, full.causes[0].code), (Mode::NoCapacity, cause_code::LIMIT));
    assert_eq!(full.causes[0].mode, Mode::NoCapacity);
    assert_eq!(full.capacity.free_bytes, Some(full.causes[0].value));
    assert!(full.capacity.used_bytes <= 24 * MIB as u64);
    for deleted in 0..number {
        repository
            .delete(&deleted.to_string(), Precondition::None)
            .await
            .unwrap();
    }
    repository.reclaim(ReclaimOptions::default()).await.unwrap();
    assert!(!limit_is_felt(&store).await);
    put(&repository, "a", 1, MIB).await.unwrap();
    // A limit holds from when it is set.
    store.set_store_bytes_max(Some(MIB as u64));
    assert_eq!(
        put(&repository, "b", 2, MIB).await.unwrap_err().reason(),
        Reason::NoCapacity
    );
    store.set_store_bytes_max(None);
    put(&repository, "b", 2, MIB).await.unwrap();
    assert_eq!(store.status().await.unwrap().capacity.limit_bytes, None);
}
