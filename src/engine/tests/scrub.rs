//! Scrub of stores in memory: what is whole is called whole, whatever happened to it.

use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::*;
use crate::backend::{Backend, Location};
use crate::codec::ChunkSizes;

struct Scene {
    files: Arc<InMemory>,
    repository: Repository,
    _store: Store,
}

impl Scene {
    async fn new(name: &str) -> Self {
        let mut options = StoreOptions::in_memory(name).unwrap();
        options.options.pack_bytes_target = 1 << 20;
        Self::open(options, Arc::default()).await
    }

    async fn open(options: StoreOptions, files: Arc<InMemory>) -> Self {
        let backend = Backend::with_object_store(files.clone(), Location::Memory("scrub".to_owned()));
        let first = NewRepository {
            chunk_sizes: ChunkSizes::with_average(16 << 10).unwrap(),
            ..NewRepository::named("default").unwrap()
        };
        let store = Store::open_on(options, backend, first).await.unwrap();
        let repository = store.repository("default").await.unwrap();
        Self {
            files,
            repository,
            _store: store,
        }
    }

    async fn put(&self, name: &str, seed: u64, len: usize) -> PutOutcome {
        let data = bytes(seed, len);
        let put = self.repository.put(name, data.as_slice(), PutOptions::default());
        put.await.unwrap()
    }

    async fn paths(&self, part: &str) -> Vec<Path> {
        use futures::TryStreamExt;
        let listed: Vec<_> = self.files.list(None).try_collect().await.unwrap();
        let mut paths: Vec<_> = listed.into_iter().map(|file| file.location).collect();
        paths.retain(|path| path.as_ref().contains(part));
        paths.sort();
        paths
    }

    async fn scrub(&self, depth: Depth) -> ScrubReport {
        let options = ScrubOptions {
            depth,
            ..ScrubOptions::default()
        };
        self.repository.scrub(options, &ScrubProgress::default()).await.unwrap()
    }

    async fn edit(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::from(self.files.get(path).await.unwrap().bytes().await.unwrap());
        change(&mut bytes);
        self.files.put(path, bytes.into()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_leaves_nothing_that_a_scrub_complains_about() {
    let scene = Scene::new("scrub history").await;
    let repository = &scene.repository;
    let check = async |when: &str| {
        for depth in [Depth::Bytes, Depth::Structure, Depth::Full] {
            let report = scene.scrub(depth).await;
            assert!(report.is_sound(), "{when}, {depth}: {report:#?}");
            assert_eq!((report.strays, report.next.clone()), (0, None), "{when}");
            assert!(report.unknown.is_empty(), "{when}: {:?}", report.unknown);
        }
    };
    check("at the start").await;
    scene.put("a", 1, 3 << 20).await;
    scene.put("b", 2, 500 << 10).await;
    scene.put("small", 3, 9 << 10).await;
    scene.put("again", 1, 3 << 20).await;
    check("after puts").await;
    repository.copy("a", "copy", PutOptions::default()).await.unwrap();
    repository.delete("a", Precondition::None).await.unwrap();
    repository.delete("small", Precondition::None).await.unwrap();
    check("after deletes").await;
    repository.reclaim(ReclaimOptions::THOROUGH).await.unwrap();
    check("after gc").await;
    repository.delete("again", Precondition::None).await.unwrap();
    repository.delete("copy", Precondition::None).await.unwrap();
    repository.reclaim(ReclaimOptions::THOROUGH).await.unwrap();
    check("after the second gc").await;
    repository.rebuild().await.unwrap();
    check("after a rebuild").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_in_slices_sees_what_one_in_one_go_sees() {
    let scene = Scene::new("scrub slices").await;
    scene.put("a", 1, 3 << 20).await;
    scene.put("b", 2, 700 << 10).await;
    let packs = scene.paths("/packs/").await;
    scene.edit(&packs[1], |bytes| bytes[5000] ^= 1).await;
    for depth in [Depth::Bytes, Depth::Structure, Depth::Full] {
        let whole = scene.scrub(depth).await;
        assert_eq!(whole.damage_count, u64::from(depth != Depth::Structure), "{whole:#?}");
        let (mut from, mut damage, mut stored_objects, mut slices) = (None::<ScrubCursor>, Vec::new(), 0, 0);
        loop {
            let options = ScrubOptions {
                depth,
                from: from.map(|cursor| cursor.to_string().parse().unwrap()),
                bytes_max: Some(1),
                ..ScrubOptions::default()
            };
            let report = scene
                .repository
                .scrub(options, &ScrubProgress::default())
                .await
                .unwrap();
            damage.extend(report.damage);
            stored_objects += report.packs;
            slices += 1;
            from = report.next;
            if from.is_none() {
                break;
            }
        }
        assert_eq!((damage, stored_objects), (whole.damage, whole.packs), "{depth}");
        assert!(slices > packs.len(), "{depth}: {slices}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_scrub_finds_damaged_is_healed_by_the_next_put_of_the_same_bytes() {
    for depth in [Depth::Structure, Depth::Full] {
        let scene = Scene::new("scrub heals").await;
        scene.put("a", 1, 3 << 20).await;
        scene.put("b", 2, 300 << 10).await;
        let packs = scene.paths("/packs/").await;
        // Everything gone but what records carry: chunks, leaves and roots.
        for path in &packs {
            scene.edit(path, |bytes| bytes[144..600].fill(0)).await;
        }
        scene.files.delete(&packs[0]).await.unwrap();
        let report = scene.scrub(depth).await;
        assert!(!report.is_sound());
        let names: Vec<_> = report.objects.iter().map(|object| object.name.as_str()).collect();
        assert!(names.contains(&"a"), "{depth}: {report:#?}");
        let listed = scene.repository.damaged_objects("").await.unwrap();
        assert_eq!(listed, report.objects, "{depth}");
        // Reads find the rest.
        for name in ["a", "b"] {
            while let Err(error) = scene.repository.verify(name).await {
                assert_eq!(error.reason(), Reason::DataLoss, "{error}");
                assert!(error.to_string().contains(name), "{error}");
                let seed = if name == "a" { 1 } else { 2 };
                let len = if name == "a" { 3 << 20 } else { 300 << 10 };
                let outcome = scene.put(name, seed, len).await;
                assert!(
                    outcome.new_chunks > 0 || outcome.stored_bytes > 0,
                    "nothing was stored again"
                );
            }
        }
        let report = scene.scrub(Depth::Full).await;
        assert!(report.objects.is_empty(), "{:#?}", report.objects);
        assert_eq!(scene.repository.damaged_objects("").await.unwrap(), []);
        assert_eq!(report.contradictions, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_put_back_is_in_use_again() {
    let scene = Scene::new("scrub restored").await;
    scene.put("a", 1, 3 << 20).await;
    let packs = scene.paths("/packs/").await;
    let saved = scene.files.get(&packs[0]).await.unwrap().bytes().await.unwrap();
    scene.files.delete(&packs[0]).await.unwrap();
    let report = scene.scrub(Depth::Full).await;
    assert!(
        matches!(report.damage[0].remedy, Remedy::Quarantined(1..)),
        "{report:#?}"
    );
    assert!(scene.repository.verify("a").await.is_err());
    scene.files.put(&packs[0], saved.into()).await.unwrap();
    scene.repository.verify("a").await.unwrap();
    let report = scene.scrub(Depth::Full).await;
    assert!(report.released > 0 && report.is_sound(), "{report:#?}");
    assert_eq!(scene.repository.damaged_objects("").await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_goes_on_without_packs_that_cannot_be_read() {
    for action in ["missing", "directory", "manifest"] {
        let scene = Scene::new("rebuild without").await;
        scene.put("a", 1, 3 << 20).await;
        scene.put("whole", 2, 300 << 10).await;
        scene.repository.copy("a", "copy", PutOptions::default()).await.unwrap();
        let before = scene.repository.status().unwrap();
        let packs = scene.paths("/packs/").await;
        match action {
            "missing" => scene.files.delete(&packs[0]).await.unwrap(),
            "directory" => {
                // Of the first pack, a chunk pack: the log is whole.
                scene
                    .edit(&packs[0], |bytes| {
                        let at = bytes.len() - 128 - 32 * 17 - 100;
                        bytes[at] ^= 1;
                    })
                    .await;
            }
            _ => {
                // Blobs of the packs of "a", leaves and roots among them.
                for path in &packs[..packs.len() - 2] {
                    scene
                        .edit(path, |bytes| {
                            let end = bytes.len().saturating_sub(20_000).clamp(144, 150_000);
                            bytes[144..end].fill(7);
                        })
                        .await;
                }
            }
        }
        let after = scene.repository.rebuild().await.unwrap();
        assert_eq!(
            (after.objects, after.logical_bytes),
            (before.objects, before.logical_bytes),
            "{action}"
        );
        scene.repository.verify("whole").await.unwrap();
        let _ = scene.repository.verify("a").await.unwrap_err();
        let report = scene.scrub(Depth::Full).await;
        let mut names: Vec<_> = report.objects.iter().map(|object| object.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "copy"], "{action}: {report:#?}");
        assert_eq!(report.contradictions, Vec::<String>::new(), "{action}");
        // gc keeps what may be restored, and what is put again heals it.
        scene.repository.reclaim(ReclaimOptions::THOROUGH).await.unwrap();
        assert_eq!(
            scene.paths(packs[0].as_ref()).await.len(),
            usize::from(action != "missing"),
            "{action}"
        );
        scene.put("a", 1, 3 << 20).await;
        scene.repository.verify("a").await.unwrap();
        // The copy's root has its own name in it: only who puts it again can heal that.
        if action == "manifest" {
            scene.put("copy", 1, 3 << 20).await;
        }
        scene.repository.verify("copy").await.unwrap();
        let report = scene.scrub(Depth::Full).await;
        assert_eq!(
            (report.objects, report.contradictions),
            (Vec::new(), Vec::new()),
            "{action}"
        );
        for name in ["a", "copy", "whole"] {
            scene.repository.delete(name, Precondition::None).await.unwrap();
        }
        scene.repository.reclaim(ReclaimOptions::THOROUGH).await.unwrap();
        let report = scene.scrub(Depth::Full).await;
        assert_eq!(report.contradictions, Vec::<String>::new(), "{action}");
        let status = scene.repository.status().unwrap();
        assert_eq!((status.chunks, status.unique_bytes), (0, 0), "{action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_is_written_anew_from_the_catalog() {
    let mut options = StoreOptions::in_memory("scrub checkpoint").unwrap();
    options.options.checkpoint_log_bytes = 1;
    let scene = Scene::open(options, Arc::default()).await;
    for name in ["a", "b", "c"] {
        scene.put(name, 1, 1000).await;
    }
    // The one that the last put asked for is still being written, and clears away others.
    scene.repository.write_checkpoints(&[]).await.unwrap();
    let checkpoints = scene.paths("/checkpoints/").await;
    assert!(checkpoints.len() >= 3, "{checkpoints:?}");
    for damaged in checkpoints {
        if scene.files.head(&damaged).await.is_err() {
            continue;
        }
        scene.edit(&damaged, |bytes| bytes[700] ^= 1).await;
        let report = scene.scrub(Depth::Structure).await;
        assert_eq!(report.damage_count, 1, "{report:#?}");
        assert_eq!(report.damage[0].path, damaged.as_ref());
        assert_eq!(report.damage[0].remedy, Remedy::Repaired);
        let report = scene.scrub(Depth::Structure).await;
        assert_eq!(report.damage, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyring_copy_is_written_anew_from_the_other() {
    let options = StoreOptions::in_memory("scrub keyring").unwrap();
    let scene = Scene::open(options.clone(), Arc::default()).await;
    let copies = scene.paths("/keyring/").await;
    let whole = scene.files.get(&copies[0]).await.unwrap().bytes().await.unwrap();
    let are_whole = async || {
        for path in &copies {
            assert_eq!(scene.files.get(path).await.unwrap().bytes().await.unwrap(), whole);
        }
    };
    for path in &copies {
        scene.edit(path, |bytes| bytes[300] ^= 1).await;
        let report = scene.scrub(Depth::Structure).await;
        assert_eq!(
            (report.damage_count, report.damage[0].remedy),
            (1, Remedy::Repaired),
            "{report:#?}"
        );
        are_whole().await;
        scene.files.delete(path).await.unwrap();
        let again = Scene::open(options.clone(), scene.files.clone()).await;
        again.repository.status().unwrap();
        are_whole().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_lost_keyring_does_not_keep_other_repositories_from_opening() {
    let options = StoreOptions::in_memory("scrub two").unwrap();
    let scene = Scene::open(options.clone(), Arc::default()).await;
    let other = scene
        ._store
        .create_repository(NewRepository::named("other").unwrap())
        .await
        .unwrap();
    let lost = format!("{}/keyring", other.id());
    for path in scene.paths(&lost).await {
        scene.edit(&path, |bytes| bytes.truncate(10)).await;
    }
    let again = Scene::open(options, scene.files.clone()).await;
    again.put("a", 1, 1000).await;
    let report = again
        ._store
        .scrub_bytes(ScrubOptions::default(), &ScrubProgress::default())
        .await
        .unwrap();
    assert_eq!(report.damage_count, 2, "{report:#?}");
}
