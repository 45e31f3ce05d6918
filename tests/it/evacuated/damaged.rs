//! Damage at the source: the list is exact, and exactly what it says is missing from the copy.

use std::ops::Range;

use cairn_agent::engine::DamagedObject;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions as StoreOptions, PutPayload, PutResult, Result as StoreResult,
};
use parking_lot::Mutex;

use super::*;

const BLOCK: usize = 64 << 10;

struct Scene {
    files: Arc<InMemory>,
    agent: Agent,
    from: Place,
    store: Store,
    repository: Repository,
}

impl Scene {
    /// Three objects of packs of their own, all of chunks that nobody shares.
    async fn new() -> Self {
        let files = Arc::new(InMemory::new());
        let from = Place::Faulty(Faulty::over(files.clone()));
        let agent = Agent::with_catalog();
        let (store, repository) = agent.open(&from).await.unwrap();
        for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
            put(&repository, name, seed, 900 << 10).await.unwrap();
        }
        Self {
            files,
            agent,
            from,
            store,
            repository,
        }
    }

    async fn large_packs(&self) -> Vec<Path> {
        large_packs(&self.files).await
    }

    async fn edit(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::from(self.files.get(path).await.unwrap().bytes().await.unwrap());
        change(&mut bytes);
        self.files.put(path, bytes.into()).await.unwrap();
    }
}

/// Packs with chunks, in their order.
async fn large_packs(files: &InMemory) -> Vec<Path> {
    use futures::TryStreamExt;
    let listed: Vec<_> = files.list(None).try_collect().await.unwrap();
    let packs = listed
        .into_iter()
        .filter(|file| file.location.as_ref().contains("/packs/") && file.size > 300 << 10);
    let mut packs: Vec<_> = packs.map(|file| file.location).collect();
    packs.sort();
    packs
}

/// The copy has everything but the ranges that were told, and says so of these.
async fn assert_lacks_exactly(to: &Place, objects: &[DamagedObject]) {
    let (store, repository) = Agent::forgetful().open(to).await.unwrap();
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        let bytes = noise(&mut rng(seed), 900 << 10);
        let lost = objects.iter().find(|object| object.name == name);
        let ranges = lost.map_or(&[][..], |object| &object.ranges);
        let mut at = 0;
        for range in ranges {
            let (from, until) = (range.offset as usize, (range.offset + range.length) as usize);
            assert_reads(&repository, name, &bytes, at..from).await;
            let error = read_range(&repository, name, from..until).await.unwrap_err();
            assert_eq!(error.reason(), Reason::DataLoss, "{error}");
            at = until;
        }
        assert_reads(&repository, name, &bytes, at..bytes.len()).await;
    }
    store.close().await;
}

async fn assert_reads(repository: &Repository, name: &str, bytes: &[u8], range: std::ops::Range<usize>) {
    if !range.is_empty() {
        assert_eq!(read_range(repository, name, range.clone()).await.unwrap(), bytes[range]);
    }
}

async fn read_range(repository: &Repository, name: &str, range: std::ops::Range<usize>) -> Result<Vec<u8>> {
    let range = ByteRange::Inclusive {
        first: range.start as u64,
        last: range.end as u64 - 1,
    };
    read(repository, name, range).await
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_blocks_are_listed_and_the_rest_is_there() {
    let scene = Scene::new().await;
    let packs = scene.large_packs().await;
    scene.edit(&packs[1], |bytes| bytes[3 * BLOCK + 100] ^= 1).await;
    let to = Place::memory();
    let report = evacuate(&scene.store, &to).await.unwrap();
    assert_eq!(report.verdict(), Verdict::Incomplete);
    let [lost] = &report.lost[..] else {
        panic!("{report:#?}")
    };
    assert_eq!((lost.path.as_str(), lost.copied), (packs[1].as_ref(), true));
    assert_eq!((lost.offset, lost.length), (3 * BLOCK as u64, BLOCK as u64));
    assert_eq!((report.lost_count, report.objects_count), (1, 1), "{report:#?}");
    assert!(
        report.objects[0].ranges.iter().all(|range| range.length < 100 << 10),
        "{report:#?}"
    );
    assert_lacks_exactly(&to, &report.objects).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_packs_and_packs_without_a_directory_are_listed() {
    let scene = Scene::new().await;
    let packs = scene.large_packs().await;
    scene.files.delete(&packs[0]).await.unwrap();
    scene.edit(&packs[2], |bytes| *bytes.last_mut().unwrap() ^= 1).await;
    let to = Place::memory();
    let report = evacuate(&scene.store, &to).await.unwrap();
    let lost: Vec<_> = report
        .lost
        .iter()
        .map(|lost| (lost.path.as_str(), lost.copied))
        .collect();
    assert_eq!(
        lost,
        [(packs[0].as_ref(), false), (packs[2].as_ref(), false)],
        "{report:#?}"
    );
    assert!(report.objects_count >= 2, "{report:#?}");
    assert_lacks_exactly(&to, &report.objects).await;

    // Somebody finds the missing pack in a backup: the next run brings it over.
    let scene = Scene::new().await;
    let packs = scene.large_packs().await;
    let kept = scene.files.get(&packs[0]).await.unwrap().bytes().await.unwrap();
    scene.files.delete(&packs[0]).await.unwrap();
    scene.edit(&packs[1], |bytes| bytes[BLOCK] ^= 1).await;
    let to = Place::memory();
    assert_eq!(evacuate(&scene.store, &to).await.unwrap().lost_count, 2);
    scene.files.put(&packs[0], kept.into()).await.unwrap();
    scene.edit(&packs[1], |bytes| bytes[BLOCK] ^= 1).await;
    let report = evacuate(&scene.store, &to).await.unwrap();
    assert_eq!((report.packs_copied, report.lost_count), (2, 0), "{report:#?}");
    assert_lacks_exactly(&to, &[]).await;
}

/// A copy with damage in it is never taken for whole: not by the next run, and not by one that has lost its memory.
#[tokio::test(flavor = "multi_thread")]
async fn damage_is_told_again_by_the_next_run() {
    let mut scene = Scene::new().await;
    let packs = scene.large_packs().await;
    scene.edit(&packs[1], |bytes| bytes[3 * BLOCK + 100] ^= 1).await;
    let to = Place::memory();
    let first = evacuate(&scene.store, &to).await.unwrap();
    let again = evacuate(&scene.store, &to).await.unwrap();
    assert_eq!((&again.lost, &again.objects), (&first.lost, &first.objects));
    scene.store.close().await;
    drop((scene.repository, scene.store));
    scene.agent.forget();
    let (store, _repository) = scene.agent.open(&scene.from).await.unwrap();
    let again = evacuate(&store, &to).await.unwrap();
    assert_eq!((&again.lost, &again.objects), (&first.lost, &first.objects));
    assert_eq!(again.packs_copied, 1, "what is whole was compared, not copied");
}

/// Somebody brings the pack back, and a scrub finds it whole: nothing but the note tells that its copy is not.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_healed_since_is_copied_again() {
    let scene = Scene::new().await;
    let packs = scene.large_packs().await;
    scene.edit(&packs[1], |bytes| bytes[3 * BLOCK + 100] ^= 1).await;
    let to = Place::memory();
    assert_eq!(evacuate(&scene.store, &to).await.unwrap().lost_count, 1);
    scene.edit(&packs[1], |bytes| bytes[3 * BLOCK + 100] ^= 1).await;
    assert_sound(&scene.repository, "healed").await;
    let report = evacuate(&scene.store, &to).await.unwrap();
    assert_eq!(
        (report.packs_copied, report.verdict()),
        (1, Verdict::Complete),
        "{report:#?}"
    );
    assert_lacks_exactly(&to, &[]).await;
}

/// A disk that fails over a part of a pack: read in smaller ranges, all but the bad blocks are there.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_read_in_smaller_ranges() {
    let disk = BadDisk::default();
    let from = Place::Faulty(Faulty::over(Arc::new(disk.clone())));
    let (store, repository) = Agent::with_catalog().open(&from).await.unwrap();
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        put(&repository, name, seed, 900 << 10).await.unwrap();
    }
    let pack = large_packs(&disk.files).await[1].clone();
    *disk.bad.lock() = Some((pack.to_string(), 5 * BLOCK as u64 + 10..6 * BLOCK as u64 + 1));
    let to = Place::memory();
    let report = evacuate(&store, &to).await.unwrap();
    let [lost] = &report.lost[..] else {
        panic!("{report:#?}")
    };
    assert_eq!((lost.path.as_str(), lost.copied), (pack.as_ref(), true));
    assert_eq!((lost.offset, lost.length), (5 * BLOCK as u64, 2 * BLOCK as u64));
    assert!(lost.problem.contains("cannot be read"), "{lost:?}");
    assert_eq!(report.objects_count, 1, "{report:#?}");
    assert_lacks_exactly(&to, &report.objects).await;

    // The next disk that shows the same files has no bad blocks.
    *disk.bad.lock() = None;
    let report = evacuate(&store, &to).await.unwrap();
    assert_eq!(
        (report.packs_copied, report.verdict()),
        (1, Verdict::Complete),
        "{report:#?}"
    );
    assert_lacks_exactly(&to, &[]).await;
}

/// A path, and the bytes there.
type BadRange = (String, Range<u64>);

/// A store of which a range of one object cannot be read.
#[derive(Clone, Debug, Default)]
struct BadDisk {
    files: Arc<InMemory>,
    bad: Arc<Mutex<Option<BadRange>>>,
}

impl std::fmt::Display for BadDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a bad disk")
    }
}

#[async_trait::async_trait]
impl ObjectStore for BadDisk {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: StoreOptions) -> StoreResult<PutResult> {
        self.files.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.files.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        let bad = self.bad.lock().clone().filter(|(path, _)| path == location.as_ref());
        let fails = bad.is_some_and(|(_, bad)| match &options.range {
            None => true,
            Some(GetRange::Bounded(range)) => range.start < bad.end && bad.start < range.end,
            Some(_) => false,
        });
        if fails {
            return Err(object_store::Error::Generic {
                store: "disk",
                source: std::io::Error::from_raw_os_error(5).into(),
            });
        }
        self.files.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        self.files.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.files.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.files.copy_opts(from, to, options).await
    }
}
