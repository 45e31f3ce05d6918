//! Space comes back while everything in use stays as it is.

use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::*;
use crate::backend::Backend;
use crate::catalog::{Lookup, PackRow};
use crate::codec::ChunkSizes;
use crate::engine::reclaim::{checkpoint_bytes, release_step};
use crate::format::{BlobKind, Entry, PackKind, PackName};
use crate::testkit::faulty::{Faulty, Kind};

/// Drops what holds nothing and moves nothing.
const NO_MOVES: ReclaimOptions = ReclaimOptions {
    dry_run: false,
    garbage_percent_max: 100,
    merge_packs_min: 0,
};

fn small_chunks() -> NewRepository {
    NewRepository {
        chunk_sizes: ChunkSizes::with_average(16 << 10).unwrap(),
        ..NewRepository::named("default").unwrap()
    }
}

async fn put(repository: &Repository, name: &str, data: &[u8]) -> Result<PutOutcome> {
    repository.put(name, data, PutOptions::default()).await
}

struct Scene {
    files: Arc<InMemory>,
    repository: Repository,
    store: Store,
}

impl Scene {
    /// A store with small chunks and packs of a mebibyte.
    async fn new(name: &str) -> Self {
        Self::tuned(name, |_| {}).await
    }

    async fn tuned(name: &str, tune: impl FnOnce(&mut Options)) -> Self {
        let mut options = StoreOptions::in_memory(name).unwrap();
        options.options.pack_bytes_target = 1 << 20;
        tune(&mut options.options);
        Self::on(Arc::default(), options, small_chunks()).await
    }

    /// A store of its own, with its own catalog, on what may be there already.
    async fn on(files: Arc<InMemory>, options: StoreOptions, first: NewRepository) -> Self {
        let backend = Backend::with_object_store(files.clone(), options.location.clone());
        let store = Store::open_on(options, backend, first).await.unwrap();
        let repository = store.repository("default").await.unwrap();
        Self {
            files,
            repository,
            store,
        }
    }

    /// A store that can be kept waiting.
    async fn faulty(name: &str, pack_bytes_target: usize) -> (Self, Faulty) {
        let mut options = StoreOptions::in_memory(name).unwrap();
        options.options.pack_bytes_target = pack_bytes_target;
        let faulty = Faulty::over(Arc::new(InMemory::new()));
        let store = Store::open_on(options, faulty.backend(), small_chunks()).await.unwrap();
        let repository = store.repository("default").await.unwrap();
        let scene = Self {
            files: Arc::default(),
            repository,
            store,
        };
        (scene, faulty)
    }

    async fn put(&self, name: &str, data: &[u8]) {
        put(&self.repository, name, data).await.unwrap();
    }

    async fn delete(&self, name: &str) {
        assert!(
            self.repository.delete(name, Precondition::None).await.unwrap(),
            "{name}"
        );
    }

    async fn reclaim(&self, options: ReclaimOptions) -> Reclaimed {
        self.repository.reclaim(options).await.unwrap()
    }

    fn packs(&self) -> Vec<PackRow> {
        self.repository.core().catalog.packs_page(None, usize::MAX).unwrap()
    }

    /// What is stored of blobs, and how much of it is in use.
    fn blobs(&self) -> (u64, u64) {
        let packs = self.packs();
        let stored = packs.iter().map(|row| row.blob_bytes).sum();
        (stored, packs.iter().map(|row| row.live_bytes).sum())
    }

    /// Everything is sound, and a rebuild counts as the catalog does.
    async fn check(&self) {
        self.check_counters().await;
        let status = self.repository.status().unwrap();
        assert_eq!(self.repository.rebuild().await.unwrap(), status);
    }

    /// Everything is sound.
    async fn check_counters(&self) {
        let options = ScrubOptions {
            depth: Depth::Full,
            ..ScrubOptions::default()
        };
        let report = self.repository.scrub(options, &ScrubProgress::default()).await.unwrap();
        assert!(report.is_sound(), "{report:#?}");
        assert_eq!((report.strays, report.unknown.len()), (0, 0), "{report:#?}");
    }

    /// A chunk of both interleaved objects, or of the one that is left, and the pack it lies in beside garbage.
    fn shared_chunk(&self) -> (PackName, Entry) {
        let core = self.repository.core();
        let found = self.packs().into_iter().find_map(|row| {
            let entries = core.catalog.entries(row.name.number).unwrap()?;
            let entry = entries.entries.iter().find(|entry| {
                let chunk = core.catalog.chunk(&entry.id).unwrap();
                let is_here = chunk.is_some_and(|chunk| chunk.pack == row.name.number && chunk.count > 0);
                entry.kind == BlobKind::Data && is_here && row.blob_bytes > 700 << 10
            })?;
            Some((row.name, *entry))
        });
        found.expect("the second object has chunks in large packs")
    }

    /// Two objects that share packs: the second is every other piece of the first. Returns the second's bytes.
    async fn interleaved(&self) -> Vec<u8> {
        const PIECE: usize = 200 << 10;
        let all = bytes(1, 8 << 20);
        let half: Vec<u8> = all.chunks(PIECE).step_by(2).flatten().copied().collect();
        self.put("all", &all).await;
        self.put("half", &half).await;
        half
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_moves_out_of_sparse_packs() {
    let scene = Scene::new("sparse").await;
    let half = scene.interleaved().await;
    scene.delete("all").await;
    let before = scene.blobs().0;
    let foreseen = scene
        .reclaim(ReclaimOptions {
            dry_run: true,
            ..ReclaimOptions::default()
        })
        .await;
    assert_eq!(foreseen.packs_rewritten, 0, "releases come first");
    let reclaimed = scene.reclaim(ReclaimOptions::default()).await;
    let (stored, live) = scene.blobs();
    assert!(reclaimed.packs_rewritten >= 4, "{reclaimed:?}");
    assert!(reclaimed.freed_bytes > 3 << 20, "{reclaimed:?}");
    assert!(before > 8 << 20 && stored * 9 <= live * 10, "{before} {stored} {live}");
    assert!(read(&scene.repository, "half", ByteRange::All).await == half);
    scene.check().await;
    assert!(read(&scene.repository, "half", ByteRange::All).await == half);
    // What moved is found again: the same bytes are not stored twice.
    let again = scene.repository.put("again", half.as_slice(), PutOptions::default());
    assert_eq!(again.await.unwrap().new_chunks, 0);
    // Nothing more is to be had, so nothing is done.
    scene.reclaim(ReclaimOptions::default()).await;
    let nothing = scene.reclaim(ReclaimOptions::default()).await;
    assert_eq!(nothing, Reclaimed::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_what_a_run_would_do_and_does_nothing() {
    let scene = Scene::new("dry").await;
    scene.interleaved().await;
    scene.delete("all").await;
    scene.repository.release_deleted().await.unwrap();
    let before = scene.packs();
    let foreseen = scene
        .reclaim(ReclaimOptions {
            dry_run: true,
            ..ReclaimOptions::default()
        })
        .await;
    assert_eq!(scene.packs(), before);
    let reclaimed = scene.reclaim(ReclaimOptions::default()).await;
    assert_eq!(foreseen.packs_rewritten, reclaimed.packs_rewritten);
    let ratio = foreseen.freed_bytes as f64 / reclaimed.freed_bytes as f64;
    assert!((0.9..1.1).contains(&ratio), "{foreseen:?} {reclaimed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tiny_packs_are_merged() {
    let scene = Scene::new("tiny").await;
    let objects: Vec<_> = (0..60).map(|seed| bytes(seed, 9 << 10)).collect();
    for (index, data) in objects.iter().enumerate() {
        scene.put(&format!("object-{index}"), data).await;
    }
    assert!(scene.packs().len() >= 60);
    scene.reclaim(ReclaimOptions::default()).await;
    let packs = scene.packs();
    assert!(packs.len() < 16, "{packs:#?}");
    let stored: u64 = packs.iter().map(|row| row.size).sum();
    assert!(stored * 10 < 60 * (9 << 10) * 13, "{stored}");
    for (index, data) in objects.iter().enumerate() {
        assert!(read(&scene.repository, &format!("object-{index}"), ByteRange::All).await == *data);
    }
    scene.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_move_like_chunks_and_still_lead_to_them() {
    let scene = Scene::new("manifests").await;
    // Its chunks, its leaf and its root take one pack, wherever it is cut: keys decide that, and they are drawn.
    let data = bytes(1, 400 << 10);
    scene.put("source", &data).await;
    scene
        .repository
        .copy("source", "copy", PutOptions::default())
        .await
        .unwrap();
    // Its root goes; its leaf stays for the copy.
    scene.delete("source").await;
    let places = || {
        let mut places = Vec::new();
        for row in scene.packs() {
            let entries = scene
                .repository
                .core()
                .catalog
                .entries(row.name.number)
                .unwrap()
                .unwrap_or_default();
            let manifests = entries.entries.into_iter().filter(|entry| entry.kind != BlobKind::Data);
            places.extend(manifests.map(|entry| (entry.id, row.name.number)));
        }
        places
    };
    let before = places();
    scene.reclaim(ReclaimOptions::THOROUGH).await;
    assert!(places().iter().any(|place| !before.contains(place)), "none moved");
    assert!(read(&scene.repository, "copy", ByteRange::All).await == data);
    scene.check().await;
    scene.delete("copy").await;
    scene.reclaim(ReclaimOptions::THOROUGH).await;
    scene.reclaim(ReclaimOptions::THOROUGH).await;
    assert_eq!(scene.blobs().1, 0, "all they led to was released");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_block_is_not_copied_and_does_not_keep_the_rest() {
    let scene = Scene::new("damaged").await;
    let half = scene.interleaved().await;
    let core = scene.repository.core();
    let (pack, entry) = scene.shared_chunk();
    let path = Path::from(core.layout.pack(&pack));
    let mut stored = Vec::from(scene.files.get(&path).await.unwrap().bytes().await.unwrap());
    stored[entry.offset as usize + 3] ^= 1;
    scene.files.put(&path, stored.into()).await.unwrap();
    scene.delete("all").await;

    scene.reclaim(ReclaimOptions::THOROUGH).await;
    let chunk = core.catalog.chunk(&entry.id).unwrap().unwrap();
    assert_eq!(
        (chunk.pack, chunk.quarantined),
        (pack.number, true),
        "it stays where it is"
    );
    let row = core.catalog.pack(pack.number).unwrap().unwrap();
    assert!(row.damaged > 0 && row.condemned_at == 0);
    let (stored, live) = scene.blobs();
    assert!(stored < live + (2 << 20), "{stored} {live}");
    // Put again, it is healed, and its old pack can go.
    scene.put("healed", &half).await;
    scene.reclaim(ReclaimOptions::THOROUGH).await;
    assert!(core.catalog.pack(pack.number).unwrap().is_none());
    assert!(read(&scene.repository, "half", ByteRange::All).await == half);
    scene.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_a_reader_holds_is_moved_out_of_and_stays_until_the_reader_ends() {
    let scene = Scene::new("reader").await;
    let half = scene.interleaved().await;
    let mut reader = scene.repository.get("half", ByteRange::All).await.unwrap();
    let mut found = Vec::from(reader.next().await.unwrap().unwrap());
    scene.delete("all").await;
    scene.delete("half").await;
    scene.put("half again", &half).await;
    scene.reclaim(ReclaimOptions::THOROUGH).await;
    while let Some(part) = reader.next().await.unwrap() {
        found.extend_from_slice(&part);
    }
    assert!(found == half);
    drop(reader);
    let reclaimed = scene.reclaim(ReclaimOptions::THOROUGH).await;
    assert!(reclaimed.packs_dropped > 0, "{reclaimed:?}");
    assert!(read(&scene.repository, "half again", ByteRange::All).await == half);
    scene.check().await;
}

/// A manifest with many children is released in steps. Each is as long as it may be, and whatever happens between two of
/// them, the counts are right.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_stopped_half_way_goes_on() {
    let scene = Scene::tuned("steps", |options| options.release_children_max = 7).await;
    let core = scene.repository.core().clone();
    let data = bytes(1, 3 << 20);
    scene.put("object", &data).await;
    scene.delete("object").await;
    let queued = || core.catalog.releases_page(None, 10).unwrap();
    // The root goes at once, since it has one leaf; of the leaf only the first step.
    let [root] = queued().try_into().unwrap();
    release_step(&core, &root).await.unwrap();
    let [leaf] = queued().try_into().unwrap();
    assert_eq!((leaf.kind, leaf.cursor), (BlobKind::Leaf, 0));
    release_step(&core, &leaf).await.unwrap();
    assert_eq!(queued()[0].cursor, 7);
    scene.check_counters().await;

    // The same content comes again: the leaf is not found, and what it leads to is counted again.
    scene.put("again", &data).await;
    assert!(queued().iter().all(|row| row.id != leaf.id));
    assert!(read(&scene.repository, "again", ByteRange::All).await == data);
    scene.check_counters().await;
    scene.repository.release_deleted().await.unwrap();
    scene.check().await;

    scene.delete("again").await;
    scene.reclaim(ReclaimOptions::THOROUGH).await;
    scene.reclaim(ReclaimOptions::THOROUGH).await;
    assert_eq!(scene.blobs().1, 0);
    scene.check().await;
}

/// A copy is on its way to another pack when the original is found to be gone and the same bytes are put again. The copy
/// arrives last, and its pack has the lower number: the later pack keeps the place, as a rebuild will have it.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_arrives_late_does_not_take_the_place_of_what_was_put_anew() {
    let (scene, faulty) = Scene::faulty("late copy", 1 << 20).await;
    let repository = scene.repository.clone();
    let half = scene.interleaved().await;
    scene.delete("all").await;
    // What holds nothing goes now, so that the next pack that is put is one with copies.
    scene.reclaim(NO_MOVES).await;
    let core = repository.core().clone();
    let (pack, entry) = scene.shared_chunk();
    faulty.hold(|kind, path| kind == Kind::Put && path.contains("/packs/"));
    let reclaiming = {
        let repository = repository.clone();
        tokio::spawn(async move { repository.reclaim(ReclaimOptions::THOROUGH).await })
    };
    let copies = faulty.held(|_| true).await;
    faulty.hold_no_more();
    // The original is gone; whoever reads it finds that out.
    faulty.backend().delete(&core.layout.pack(&pack)).await.unwrap();
    let mut reader = repository.get("half", ByteRange::All).await.unwrap();
    while let Ok(Some(_)) = reader.next().await {}
    drop(reader);
    scene.put("again", &half).await;
    let anew = core.catalog.chunk(&entry.id).unwrap().unwrap();
    assert!(anew.pack > pack.number && !anew.quarantined, "{anew:?}");
    assert!(faulty.release(copies.operation).await);
    reclaiming.await.unwrap().unwrap();
    let after = core.catalog.chunk(&entry.id).unwrap().unwrap();
    assert!(after.pack >= anew.pack, "{after:?} {anew:?}");
    for name in ["half", "again"] {
        assert!(read(&repository, name, ByteRange::All).await == half);
    }
    repository.rebuild().await.unwrap();
    assert_eq!(core.catalog.chunk(&entry.id).unwrap().unwrap(), after);
}

/// A put has a pack open while copies are written, which then have a higher number. The commit that introduces them has a
/// higher one still: what lies above the newest commit is taken for left-overs, and goes.
#[tokio::test(flavor = "multi_thread")]
async fn copies_written_beside_a_put_survive_the_end_of_the_writer() {
    struct Stalling(Vec<u8>, std::sync::mpsc::Receiver<()>);
    impl std::io::Read for Stalling {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let len = self.0.len().min(buffer.len());
            if len == 0 {
                let _ = self.1.recv();
                return Err(std::io::Error::other("it breaks off"));
            }
            buffer[..len].copy_from_slice(&self.0[..len]);
            self.0.drain(..len);
            Ok(len)
        }
    }
    let (scene, faulty) = Scene::faulty("beside a put", 4 << 20).await;
    let half = scene.interleaved().await;
    scene.delete("all").await;
    scene.reclaim(NO_MOVES).await;
    let (go_on, told) = std::sync::mpsc::channel();
    let putting = {
        let repository = scene.repository.clone();
        // A slab and a part of the next: the first is placed, the second waits.
        let source = Blocking::new(Stalling(bytes(9, (1 << 20) + 4096), told));
        tokio::spawn(async move { repository.put("stalls", source, PutOptions::default()).await })
    };
    let access = scene.repository.write_access().await.unwrap();
    while access.packer.open_bytes() < 1 << 19 {
        tokio::task::yield_now().await;
    }
    drop(access);
    faulty.hold(|kind, path| kind == Kind::Put && path.contains("/packs/"));
    let reclaiming = {
        let repository = scene.repository.clone();
        tokio::spawn(async move { repository.reclaim(ReclaimOptions::THOROUGH).await })
    };
    // Copies, and whatever it takes to introduce them; the commit that condemns what they came from fails.
    let is_moved = || {
        scene
            .packs()
            .iter()
            .any(|row| row.kind == PackKind::Chunk && row.live > 0 && row.live == row.entries)
    };
    while !is_moved() {
        let soon = Duration::from_millis(20);
        if let Ok(put) = tokio::time::timeout(soon, faulty.held(|waiting| !waiting.abandoned)).await
            && !is_moved()
        {
            assert!(faulty.release(put.operation).await);
        }
    }
    let condemning = faulty.held(|waiting| !waiting.abandoned).await;
    assert!(faulty.refuse(condemning.operation));
    faulty.hold_no_more();
    assert!(reclaiming.await.unwrap().is_err());
    go_on.send(()).unwrap();
    assert!(putting.await.unwrap().is_err());
    scene.put("next", b"next").await;
    assert!(read(&scene.repository, "half", ByteRange::All).await == half);
    scene.check().await;
}

/// A put fails while a reclaim deletes packs. The reclaim ends with the writer it has, so that the next one can begin,
/// whatever the storage makes of the delete.
#[tokio::test(flavor = "multi_thread")]
async fn a_reclaim_does_not_keep_the_next_writer_waiting() {
    let (scene, faulty) = Scene::faulty("next writer", 1 << 20).await;
    let half = scene.interleaved().await;
    scene.delete("all").await;
    let of_packs = |kind: Kind| move |found: Kind, path: &str| found == kind && path.contains("/packs/");
    faulty.hold(of_packs(Kind::Delete));
    let reclaiming = {
        let repository = scene.repository.clone();
        tokio::spawn(async move { repository.reclaim(ReclaimOptions::default()).await })
    };
    let deleting = faulty.held(|waiting| waiting.kind == Kind::Delete).await;
    faulty.hold(of_packs(Kind::Put));
    let putting = {
        let repository = scene.repository.clone();
        tokio::spawn(async move { put(&repository, "fails", &bytes(3, 3 << 20)).await })
    };
    let upload = faulty.held(|waiting| waiting.kind == Kind::Put).await;
    assert!(faulty.refuse(upload.operation));
    faulty.hold_no_more();
    for waiting in faulty.waiting() {
        if waiting.kind == Kind::Put {
            faulty.release(waiting.operation).await;
        }
    }
    assert!(putting.await.unwrap().is_err());
    let next = tokio::time::timeout(Duration::from_secs(60), put(&scene.repository, "next", b"next"));
    next.await.expect("the next writer begins").unwrap();
    assert!(reclaiming.await.unwrap().is_err());
    assert!(
        faulty
            .waiting()
            .iter()
            .any(|waiting| waiting.operation == deleting.operation)
    );
    for waiting in faulty.waiting() {
        faulty.release(waiting.operation).await;
    }
    assert!(read(&scene.repository, "half", ByteRange::All).await == half);
    scene.reclaim(ReclaimOptions::default()).await;
    scene.check().await;
}

/// Room is short and nothing can be dropped, since all of it is held: copies would only take more.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_more_is_copied_where_nothing_can_be_dropped() {
    let scene = Scene::new("all held").await;
    let half = scene.interleaved().await;
    scene.delete("all").await;
    scene.reclaim(NO_MOVES).await;
    let before = scene.packs();
    let holder = scene.repository.core().in_flight.background_holder();
    assert!(before.iter().all(|row| holder.pin(row.name.number)));
    scene.store.set_store_bytes_max(Some(1));
    scene.reclaim(ReclaimOptions::THOROUGH).await;
    let copies = scene.packs().iter().filter(|row| row.kind == PackKind::Chunk).count();
    let were = before.iter().filter(|row| row.kind == PackKind::Chunk).count();
    // A full pack, and what did not fit into it.
    assert!(were > 4 && copies <= were + 2, "{were} {copies}");

    drop(holder);
    scene.reclaim(ReclaimOptions::THOROUGH).await;
    let (stored, live) = scene.blobs();
    assert!(stored < live + (1 << 20), "{stored} {live}");
    assert!(read(&scene.repository, "half", ByteRange::All).await == half);
    scene.store.set_store_bytes_max(None);
    scene.check().await;
}

/// One agent releases a root in part. Another one, whose catalog knows nothing of that, finds the root and puts the object
/// again. When the first follows its log, what it has released counts again.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_owner_found_in_use_is_not_released() {
    let mut options = StoreOptions::in_memory("two owners").unwrap();
    options.options.release_children_max = 1;
    let first = NewRepository {
        chunk_sizes: ChunkSizes::new(256, 512, 1024).unwrap(),
        ..NewRepository::named("default").unwrap()
    };
    let one = Scene::on(Arc::default(), options.clone(), first.clone()).await;
    // Chunks for more than one leaf.
    let data = bytes(1, 2 << 20);
    one.put("object", &data).await;
    let other = Scene::on(one.files.clone(), options, first).await;
    other.repository.follow_others().await.unwrap();
    one.delete("object").await;
    other.repository.follow_others().await.unwrap();
    let core = other.repository.core().clone();
    let [root] = core.catalog.releases_page(None, 10).unwrap().try_into().unwrap();
    assert_eq!(root.kind, BlobKind::Root);
    release_step(&core, &root).await.unwrap();
    assert_eq!(core.catalog.release(&root.id).unwrap().unwrap().cursor, 1);

    // A root is that of a name.
    let again = put(&one.repository, "object", &data).await.unwrap();
    assert_eq!(again.new_chunks, 0);
    other.repository.follow_others().await.unwrap();
    assert!(read(&other.repository, "object", ByteRange::All).await == data);
    other.repository.release_deleted().await.unwrap();
    other.reclaim(ReclaimOptions::THOROUGH).await;
    assert!(read(&other.repository, "object", ByteRange::All).await == data);
    other.check().await;
}

/// Without room for a checkpoint nothing can be dropped: what is kept back for it is no less than it takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_takes_no_more_than_is_kept_back_for_it() {
    let scene = Scene::new("checkpoint").await;
    let puts = (0..3000u64).map(|number| {
        let repository = scene.repository.clone();
        let options = PutOptions {
            put_id: Some(u128::from(number + 1).to_be_bytes()),
            ..PutOptions::default()
        };
        async move {
            let name = format!("object {}", number % 10);
            repository.put(&name, &number.to_le_bytes()[..], options).await
        }
    });
    for outcome in futures::future::join_all(puts).await {
        outcome.unwrap();
    }
    let core = scene.repository.core();
    let kept_back = checkpoint_bytes(core);
    scene.repository.write_checkpoints(&[]).await.unwrap();
    let files = core
        .backend
        .list(&core.layout.checkpoints_prefix(), None)
        .await
        .unwrap();
    let sizes: Vec<_> = files.iter().map(|file| file.size).collect();
    // Two of them, which share what did not change.
    let largest = sizes.iter().max().unwrap();
    assert!(
        *largest > 150_000 && sizes.iter().sum::<u64>() <= 2 * kept_back,
        "{kept_back} {sizes:?}"
    );
}
