//! The engine from outside, in memory: what every caller relies on. The same claims on every backend, with restarts and
//! reclaim in between, are in the integration tests.

use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::catalog::Lookup;
use crate::codec::{ChunkSizes, Level};

mod checkpoints;
mod keys;
mod quota;
mod read;
mod reclaim;
mod scrub;

async fn store(name: &str) -> Store {
    let options = StoreOptions::in_memory(name).unwrap();
    Store::open_or_create(options, NewRepository::named("default").unwrap())
        .await
        .unwrap()
}

/// A store with options of its own, and the repository that is made in it.
async fn tuned(name: &str, first: NewRepository, tune: impl FnOnce(&mut Options)) -> (Store, Repository) {
    let mut options = StoreOptions::in_memory(name).unwrap();
    tune(&mut options.options);
    let store = Store::open_or_create(options, first).await.unwrap();
    let repository = store.repository("default").await.unwrap();
    (store, repository)
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

async fn read(repository: &Repository, name: &str, range: ByteRange) -> Vec<u8> {
    let mut reader = repository.get(name, range).await.unwrap();
    let mut all = Vec::new();
    while let Some(part) = reader.next().await.unwrap() {
        all.extend_from_slice(&part);
    }
    all
}

/// What nearly no call does, to open a repository or to become its writer, is on the heap when it is done: a call that had room
/// for it would be three times as long, and is moved about.
#[tokio::test]
async fn calls_do_not_carry_what_they_seldom_do() {
    const CALL_BYTES_MAX: usize = 4 << 10;
    let store = store("calls").await;
    let repository = store.repository("default").await.unwrap();
    repository
        .put("a", b"a".as_slice(), PutOptions::default())
        .await
        .unwrap();
    let mut reader = repository.get("a", ByteRange::All).await.unwrap();
    let calls = [
        ("open", size_of_val(&store.repository("default"))),
        (
            "put",
            size_of_val(&repository.put("a", b"a".as_slice(), PutOptions::default())),
        ),
        ("get", size_of_val(&repository.get("a", ByteRange::All))),
        ("next", size_of_val(&reader.next())),
        ("delete", size_of_val(&repository.delete("a", Precondition::None))),
    ];
    for (call, bytes) in calls {
        assert!(bytes <= CALL_BYTES_MAX, "{call} takes {bytes} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_every_size_come_back_as_they_went_in() {
    let repository = store("sizes").await.repository("default").await.unwrap();
    for (index, len) in [0, 1, 31 << 10, 600 << 10, 3 << 20, 40 << 20].into_iter().enumerate() {
        let data = bytes(index as u64, len);
        let name = format!("object-{len}");
        let outcome = repository
            .put(&name, data.as_slice(), PutOptions::default())
            .await
            .unwrap();
        assert_eq!(outcome.object.bytes, len as u64);
        assert_eq!(
            outcome.object.crc32c,
            crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &data) as u32
        );
        assert!(read(&repository, &name, ByteRange::All).await == data, "{name} differs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_are_stored_once() {
    let repository = store("twice").await.repository("default").await.unwrap();
    let data = bytes(7, 20 << 20);
    let first = repository
        .put("a", data.as_slice(), PutOptions::default())
        .await
        .unwrap();
    let second = repository
        .put("b", data.as_slice(), PutOptions::default())
        .await
        .unwrap();
    assert_eq!(first.new_chunks, first.object.chunks);
    assert_eq!(second.new_chunks, 0);
    assert_eq!(second.object.chunks, first.object.chunks);
    assert!(second.stored_bytes < 64 << 10, "{}", second.stored_bytes);
    assert!(read(&repository, "b", ByteRange::All).await == data);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_streams_with_the_same_bytes_at_once_store_them_once() {
    let repository = store("at once").await.repository("default").await.unwrap();
    let data = bytes(8, 12 << 20);
    let put = |name: &'static str| {
        let (repository, data) = (repository.clone(), data.clone());
        async move {
            repository
                .put(name, data.as_slice(), PutOptions::default())
                .await
                .unwrap()
        }
    };
    let (a, b) = tokio::join!(put("a"), put("b"));
    assert_eq!(a.new_chunks + b.new_chunks, a.object.chunks);
    for name in ["a", "b"] {
        assert!(read(&repository, name, ByteRange::All).await == data);
    }
}

/// A store whose pool has one thread, and what keeps that busy until it is sent something.
async fn store_with_a_busy_pool(name: &str, level: Level) -> (Repository, mpsc::Sender<()>) {
    let first = NewRepository {
        level,
        ..NewRepository::named("default").unwrap()
    };
    let (_, repository) = tuned(name, first, |options| options.compute_threads = NonZeroUsize::MIN).await;
    let (go, wait) = mpsc::channel::<()>();
    repository.core().compute.start(move || wait.recv().unwrap_or_default());
    (repository, go)
}

/// Longer by far than what these wait for takes.
const AT_MOST: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_short_stream_needs_no_thread_of_the_pool() {
    let (repository, go) = store_with_a_busy_pool("short", Level::DEFAULT).await;
    let data = bytes(12, (16 << 10) + 1);
    let (short, longer) = (&data[..16 << 10], data.as_slice());
    let put = repository.put("short", short, PutOptions::default());
    let put = tokio::time::timeout(AT_MOST, put)
        .await
        .expect("it waits for no thread");
    assert_eq!(put.unwrap().object.bytes, short.len() as u64);
    let mut putting = Box::pin(repository.put("longer", longer, PutOptions::default()));
    assert!(futures::poll!(&mut putting).is_pending());
    tokio::time::timeout(Duration::from_millis(50), &mut putting)
        .await
        .expect_err("it waits for a thread");
    go.send(()).unwrap();
    putting.await.unwrap();
    assert!(read(&repository, "short", ByteRange::All).await == short);
    assert!(read(&repository, "longer", ByteRange::All).await == longer);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_long_to_compress_is_left_to_the_pool() {
    let (repository, go) = store_with_a_busy_pool("level", Level::new(4).unwrap()).await;
    let mut putting = Box::pin(repository.put("short", b"a few bytes".as_slice(), PutOptions::default()));
    tokio::time::timeout(Duration::from_millis(50), &mut putting)
        .await
        .expect_err("it waits for a thread");
    go.send(()).unwrap();
    putting.await.unwrap();
}

#[tokio::test]
async fn a_short_stream_keeps_no_thread_while_chunks_move() {
    let repository = store("moving").await.repository("default").await.unwrap();
    let put = |name: &'static str| repository.put(name, name.as_bytes(), PutOptions::default());
    put("opens the log").await.unwrap();
    let core = repository.core().clone();
    let (moved, moving) = mpsc::channel::<()>();
    let (begun, begin) = tokio::sync::oneshot::channel();
    let mover = std::thread::spawn(move || {
        let _places = core.places.write();
        begun.send(()).unwrap();
        let _ = moving.recv_timeout(AT_MOST);
    });
    begin.await.unwrap();
    let since = Instant::now();
    let mut putting = Box::pin(put("short"));
    tokio::time::timeout(Duration::from_millis(50), &mut putting)
        .await
        .expect_err("where a chunk is may change");
    assert!(since.elapsed() < AT_MOST, "the only thread was kept until it had");
    moved.send(()).unwrap();
    putting.await.unwrap();
    mover.join().unwrap();
    assert_eq!(read(&repository, "short", ByteRange::All).await, b"short");
}

/// Where many small objects are put again, these are next.
#[tokio::test(flavor = "multi_thread")]
async fn a_short_stream_that_is_known_has_what_lies_beside_it_loaded() {
    let repository = store("beside").await.repository("default").await.unwrap();
    let core = repository.core();
    let put = |name: &'static str| repository.put(name, b"a few bytes".as_slice(), PutOptions::default());
    put("first").await.unwrap();
    let id = core.secrets.id_key().unwrap().id(b"a few bytes");
    assert_eq!(core.locality.find(&id), None);
    assert_eq!(put("again").await.unwrap().new_chunks, 0);
    assert!(core.locality.find(&id).is_some());
    assert_eq!(put("once more").await.unwrap().new_chunks, 0);
    let lookups = (&core.counters.lookups_catalog, &core.counters.lookups_locality);
    assert_eq!((lookups.0.value(), lookups.1.value()), (1, 1));
}

/// The first slab is small, and the second ends where a whole first one would have.
#[tokio::test(flavor = "multi_thread")]
async fn streams_end_anywhere_in_their_slabs() {
    let repository = store("slabs").await.repository("default").await.unwrap();
    let all = bytes(11, (2 << 20) + 1);
    for len in [1, 16 << 10, 64 << 10, 1 << 20, 2 << 20]
        .into_iter()
        .flat_map(|len| len - 1..=len + 1)
    {
        let put = repository.put("a", &all[..len], PutOptions::default()).await.unwrap();
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &all[..len]) as u32;
        assert_eq!((put.object.bytes, put.object.crc32c), (len as u64, crc));
        assert!(read(&repository, "a", ByteRange::All).await == all[..len]);
        let file = WholeFile::new(file_of(&all[..len])).unwrap();
        let put = repository.put("b", file, PutOptions::default()).await.unwrap();
        assert_eq!((put.object.bytes, put.object.crc32c), (len as u64, crc));
        assert!(read(&repository, "b", ByteRange::All).await == all[..len]);
        let whole = WholeBytes::new(all[..len].to_vec());
        let put = repository.put("c", whole, PutOptions::default()).await.unwrap();
        assert_eq!((put.object.bytes, put.object.crc32c), (len as u64, crc));
        assert_eq!(put.new_chunks, 0, "it is cut as the others are");
        assert!(read(&repository, "c", ByteRange::All).await == all[..len]);
    }
    let new = bytes(14, 5 << 20);
    let whole = WholeBytes::new(new.clone());
    repository.put("d", whole, PutOptions::default()).await.unwrap();
    assert!(read(&repository, "d", ByteRange::All).await == new);
}

fn file_of(bytes: &[u8]) -> std::fs::File {
    use std::io::Write;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Parts of it are read at once, and what the others brought waits for one that never comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_becomes_shorter_while_it_is_read_leaves_nothing_visible() {
    let repository = store("cut").await.repository("default").await.unwrap();
    for (len, left) in [(40 << 20, 20 << 20), (3 << 20, 100), (1 << 20, (1 << 20) - 1)] {
        let file = file_of(&bytes(12, len));
        let source = WholeFile::new(file.try_clone().unwrap()).unwrap();
        file.set_len(left).unwrap();
        let error = repository.put("a", source, PutOptions::default()).await.unwrap_err();
        assert_eq!(error.reason(), Reason::SourceFailed);
        assert!(error.to_string().contains("the file became shorter"), "{error}");
    }
    assert_eq!(repository.stat("a").await.unwrap_err().reason(), Reason::ObjectNotFound);
    repository.put("a", &b"whole"[..], PutOptions::default()).await.unwrap();
}

/// What is not in the page cache is waited for elsewhere than on the pool.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_comes_from_the_disk_and_from_memory() {
    let repository = store("cold").await.repository("default").await.unwrap();
    let data = bytes(15, 9 << 20);
    let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    std::io::Write::write_all(&mut file, &data).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    // Every third mebibyte or so is in memory, and what was read ahead.
    for start in (0..data.len()).step_by(3_000_000) {
        file.read_exact_at(&mut [0; 100_000], start as u64).unwrap();
    }
    let source = WholeFile::new(file).unwrap();
    let put = repository.put("a", source, PutOptions::default()).await.unwrap();
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &data) as u32;
    assert_eq!((put.object.bytes, put.object.crc32c), (data.len() as u64, crc));
    assert!(read(&repository, "a", ByteRange::All).await == data);
}

/// In whatever order they come, and if one panics the put ends.
#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_source_come_in_any_order() {
    /// Of two of its parts the first comes after the second. It panics at one of them.
    struct Late {
        bytes: Arc<Vec<u8>>,
        at: usize,
        panics_at: usize,
        first: Option<mpsc::Sender<()>>,
    }
    impl Source for Late {
        async fn fill(&mut self, _: Vec<u8>, _: std::ops::Range<usize>) -> std::io::Result<(Vec<u8>, usize)> {
            unreachable!("it comes in parts")
        }

        fn part(&mut self, len_max: usize) -> Option<Part> {
            let (start, bytes, panics_at) = (self.at, self.bytes.clone(), self.panics_at);
            let len = len_max.min(bytes.len() - start);
            self.at += len;
            let first = self.first.take();
            let mut second = None;
            if first.is_none() && len == len_max {
                let (sender, receiver) = mpsc::channel();
                self.first = Some(sender);
                second = Some(receiver);
            }
            Some(Part::new(len, move |target| {
                // Ends when the second of the two is through, in whatever way.
                second.map(|second| second.recv());
                assert!(!(start..start + len).contains(&panics_at), "as the test wants it");
                target.copy_from_slice(&bytes[start..start + len]);
                drop(first);
                Ok(())
            }))
        }
    }
    let data = Arc::new(bytes(13, 17 << 20));
    let source = |panics_at| Late {
        bytes: data.clone(),
        at: 0,
        panics_at,
        first: None,
    };
    // As many slabs are under way as there are threads, and two: the failure comes with a pair complete or half.
    for threads in 1..=4 {
        let (name, first) = (
            format!("parts, {threads} threads"),
            NewRepository::named("default").unwrap(),
        );
        let set_threads = |options: &mut Options| options.compute_threads = NonZeroUsize::new(threads).unwrap();
        let (_, repository) = tuned(&name, first, set_threads).await;
        let whole = source(usize::MAX);
        repository.put("a", whole, PutOptions::default()).await.unwrap();
        assert!(read(&repository, "a", ByteRange::All).await == *data);
        for panics_at in [0, 5 << 20, (17 << 20) - 1] {
            let put = repository.put("b", source(panics_at), PutOptions::default());
            assert_eq!(put.await.unwrap_err().reason(), Reason::Internal);
        }
        assert_eq!(repository.stat("b").await.unwrap_err().reason(), Reason::ObjectNotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_exact() {
    let repository = store("ranges").await.repository("default").await.unwrap();
    let data = bytes(9, 30 << 20);
    repository
        .put("a", data.as_slice(), PutOptions::default())
        .await
        .unwrap();
    for (first, last) in [(0, 0), (1 << 20, (9 << 20) + 17), ((30 << 20) - 5, (30 << 20) - 1)] {
        let range = ByteRange::Inclusive { first, last };
        assert!(read(&repository, "a", range).await == data[first as usize..=last as usize]);
    }
    assert!(read(&repository, "a", ByteRange::Last(100)).await == data[data.len() - 100..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn preconditions_and_put_ids_decide() {
    let repository = store("conditions").await.repository("default").await.unwrap();
    let put = |data: &'static [u8], precondition, put_id| {
        let options = PutOptions {
            precondition,
            put_id,
            ..PutOptions::default()
        };
        let repository = repository.clone();
        async move { repository.put("a", data, options).await }
    };
    let first = put(b"one", Precondition::CreateOnly, Some([1; 16]))
        .await
        .unwrap()
        .object;
    let again = put(b"one", Precondition::CreateOnly, Some([1; 16]))
        .await
        .unwrap()
        .object;
    assert_eq!(first, again, "the same put id returns the first result");
    let refused = put(b"two", Precondition::CreateOnly, None).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::ObjectExists);
    let refused = put(b"two", Precondition::IfVersion(first.version + 9), None)
        .await
        .unwrap_err();
    assert_eq!(refused.reason(), Reason::VersionMismatch);
    let second = put(b"two", Precondition::IfVersion(first.version), None)
        .await
        .unwrap()
        .object;
    assert!(second.version > first.version);
    let options = PutOptions {
        put_id: Some([1; 16]),
        ..PutOptions::default()
    };
    let refused = repository.put("b", &b"x"[..], options).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::PutIdReused);
    let refused = put(b"three", Precondition::None, Some([0; 16])).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::InvalidArgument, "{refused}");
    let options = PutOptions {
        put_id: Some([0; 16]),
        ..PutOptions::default()
    };
    let refused = repository.copy("a", "b", options).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::InvalidArgument, "{refused}");
    let catalog = &repository.core().catalog;
    let kept = catalog.put_ids().unwrap();
    assert_eq!(kept.len(), 1, "one that was not given is not kept: {kept:?}");
    assert_eq!(catalog.tip().unwrap().unwrap().put_serial, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_outlives_its_source_and_reclaim_returns_what_both_held() {
    let store = store("copy").await;
    let repository = store.repository("default").await.unwrap();
    let data = bytes(10, 25 << 20);
    repository
        .put("a", data.as_slice(), PutOptions::default())
        .await
        .unwrap();
    repository.copy("a", "b", PutOptions::default()).await.unwrap();
    assert!(repository.delete("a", Precondition::None).await.unwrap());
    repository.reclaim(ReclaimOptions::default()).await.unwrap();
    assert!(read(&repository, "b", ByteRange::All).await == data);
    assert!(repository.delete("b", Precondition::None).await.unwrap());
    assert!(!repository.delete("b", Precondition::None).await.unwrap());
    let reclaimed = repository.reclaim(ReclaimOptions::default()).await.unwrap();
    assert!(reclaimed.freed_bytes > 25 << 20, "{reclaimed:?}");
    let status = repository.status().unwrap();
    assert_eq!((status.objects, status.chunks, status.unique_bytes), (0, 0, 0));
    assert!(status.stored_bytes < 1 << 20, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_catalog_equals_the_one_that_was_lost() {
    let repository = store("rebuild").await.repository("default").await.unwrap();
    for index in 0..5 {
        let name = format!("object-{index}");
        repository
            .put(&name, bytes(index, 5 << 20).as_slice(), PutOptions::default())
            .await
            .unwrap();
    }
    repository.delete("object-2", Precondition::None).await.unwrap();
    repository
        .copy("object-3", "copy", PutOptions::default())
        .await
        .unwrap();
    repository.reclaim(ReclaimOptions::default()).await.unwrap();
    let before = repository.status().unwrap();
    let after = repository.rebuild().await.unwrap();
    assert_eq!(before, after);
    assert!(read(&repository, "copy", ByteRange::All).await == bytes(3, 5 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_leaves_nothing_visible() {
    struct Broken(usize);
    impl std::io::Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(1)
                .ok_or_else(|| std::io::Error::other("the cable is out"))?;
            buffer.fill(self.0 as u8);
            Ok(buffer.len())
        }
    }
    let repository = store("broken").await.repository("default").await.unwrap();
    let error = repository
        .put("a", Blocking::new(Broken(40)), PutOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::SourceFailed);
    assert_eq!(repository.stat("a").await.unwrap_err().reason(), Reason::ObjectNotFound);
    repository.put("a", &b"whole"[..], PutOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_records_than_a_commit_pack_holds_go_into_several() {
    let repository = store("records").await.repository("default").await.unwrap();
    let put = |index: usize| {
        let repository = repository.clone();
        let options = PutOptions {
            metadata: vec![("filler".to_owned(), "x".repeat(16_000))],
            ..PutOptions::default()
        };
        tokio::spawn(async move { repository.put(&format!("object-{index}"), &b""[..], options).await })
    };
    // Together 6.4 MB of records, where a commit pack takes 3 MiB. All but the first wait for its commit.
    let puts: Vec<_> = (0..400).map(put).collect();
    for put in puts {
        put.await.unwrap().unwrap();
    }
    let status = repository.status().unwrap();
    assert_eq!(status.objects, 400);
    assert_eq!(repository.rebuild().await.unwrap().objects, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_repositories_with_one_name_each_is_reached_by_its_id() {
    let options = StoreOptions::in_memory("twins").unwrap();
    let default = || NewRepository::named("default").unwrap();
    let one = Store::open_or_create(options.clone(), default()).await.unwrap();
    let other = Store::open(options.clone()).await.unwrap();
    let first = one
        .create_repository(NewRepository::named("twin").unwrap())
        .await
        .unwrap();
    let second = other
        .create_repository(NewRepository::named("twin").unwrap())
        .await
        .unwrap();
    let store = Store::open(options).await.unwrap();
    let refused = store.repository("twin").await.map(drop).unwrap_err();
    assert_eq!(refused.reason(), Reason::RepositoryExists);
    for id in [first.id(), second.id()] {
        assert!(refused.to_string().contains(&id.to_string()), "{refused}");
        assert_eq!(store.repository(&id.to_string()).await.unwrap().id(), id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_catalog_is_made_anew_nothing_is_said_to_be_missing() {
    let store = store("anew").await;
    let repository = store.repository("default").await.unwrap();
    let data = bytes(11, 9 << 20);
    repository.put("a", &data[..], PutOptions::default()).await.unwrap();
    let status = repository.status().unwrap();
    let rebuilds = std::sync::Arc::new(AtomicU64::new(0));
    let rebuilding = tokio::spawn({
        let (repository, rebuilds) = (repository.clone(), rebuilds.clone());
        async move {
            loop {
                repository.rebuild().await.unwrap();
                rebuilds.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
    });
    let mut answered = 0;
    while answered < 30 || rebuilds.load(Ordering::Relaxed) < 10 {
        let verified = repository.verify("a").await.map(drop);
        let listed = repository
            .list("", None, 10)
            .await
            .map(|page| assert_eq!(page.objects.len(), 1));
        let headed = repository
            .check_head(status.log_number, status.head)
            .map(|found| assert!(found));
        for outcome in [verified, listed, headed] {
            match outcome {
                Ok(()) => answered += 1,
                Err(error) => assert_eq!(error.reason(), Reason::CatalogFailed, "{error}"),
            }
        }
        tokio::task::yield_now().await;
    }
    rebuilding.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_waits_for_work_on_the_reserve_that_nobody_waits_for() {
    let directory = tempfile::tempdir().unwrap();
    let options = || {
        let mut options = StoreOptions::in_memory("default").unwrap();
        options.location = crate::backend::Location::Directory(directory.path().join("store"));
        options
    };
    let first = NewRepository::named("default").unwrap();
    let store = Store::open_or_create(options(), first).await.unwrap();
    let (go_on, told) = std::sync::mpsc::channel();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let keeping = tokio::spawn({
        let (gate, backend) = (store.inner.gate.clone(), store.backend().clone());
        async move {
            let work = move || {
                begun.send(()).unwrap();
                told.recv().unwrap();
                drop(backend);
            };
            gate.keep_reserve(work).await.unwrap();
        }
    });
    has_begun.await.unwrap();
    keeping.abort();
    assert!(keeping.await.unwrap_err().is_cancelled());
    let closed = store.clone();
    let mut closing = Box::pin(closed.close());
    assert!(futures::poll!(&mut closing).is_pending());
    go_on.send(()).unwrap();
    closing.await;
    drop((closed, store));
    Store::open(options()).await.unwrap();
}

/// An empty repository of chunks of 512 bytes on average, in which commits of their own are made for so many blobs.
async fn small_chunks(name: &str, budget_bytes: usize, pack_bytes: usize, blobs_max: usize) -> (Store, Repository) {
    let first = NewRepository {
        chunk_sizes: ChunkSizes::new(256, 512, 1024).unwrap(),
        ..NewRepository::named("default").unwrap()
    };
    let tune = |options: &mut Options| {
        options.pack_bytes_target = pack_bytes;
        options.budget_bytes = budget_bytes;
        options.introduce_packs_max = usize::MAX;
        options.introduce_blobs_max = blobs_max;
    };
    tuned(name, first, tune).await
}

/// How many commits it takes to put this.
async fn commits_of(repository: &Repository, data: &[u8]) -> u64 {
    let before = repository.status().unwrap();
    let put = repository.put("many", data, PutOptions::default()).await;
    assert!(put.unwrap().object.chunks > 8000);
    repository.status().unwrap().log_number - before.log_number
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_many_small_chunks_is_committed_along_the_way() {
    let data = bytes(1, 8 << 20);
    // A slab and its output cost more than all of the budget: they pass one at a time.
    let (_store, often) = small_chunks("often", 1 << 20, 64 << 10, 500).await;
    assert!(commits_of(&often, &data).await >= 3);
    // And no more often than that.
    let (_store, once) = small_chunks("once", 1 << 20, 64 << 10, usize::MAX).await;
    assert_eq!(commits_of(&once, &data).await, 1);
}

/// There is little new in it, but every manifest is, and counts all that it refers to: in many packs, or in one.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_known_chunks_with_small_edits_is_committed_along_the_way() {
    const BLOBS_MAX: usize = 3000;
    for (name, budget_bytes, pack_bytes) in [("small packs", 1 << 20, 64 << 10), ("one pack", 64 << 20, 16 << 20)] {
        let mut data = bytes(1, 8 << 20);
        let (_store, repository) = small_chunks(name, budget_bytes, pack_bytes, BLOBS_MAX).await;
        commits_of(&repository, &data).await;
        for part in data.chunks_mut(64 << 10) {
            part[0] ^= 1;
        }
        let before = repository.status().unwrap();
        let put = repository.put("edited", data.as_slice(), PutOptions::default());
        let new_chunks = put.await.unwrap().new_chunks as usize;
        assert!(new_chunks < BLOBS_MAX / 2, "{name}: {new_chunks}");
        let after = repository.status().unwrap();
        let commits = after.log_number - before.log_number;
        assert!(commits >= 2, "{name}: {commits}");
        assert!(after.packs - before.packs >= 4, "{name}");
        assert!(after.stored_bytes - before.stored_bytes < 2 << 20, "{name}");
    }
}
