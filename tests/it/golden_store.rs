//! A small complete store of each format, as this program wrote it once: every later version opens it, finds nothing
//! wrong with it, reads it bit for bit, and goes on writing it.
//!
//! `CAIRN_BLESS_GOLDEN=1 cargo test --test it golden_store` writes the store of this version. The files are never opened in
//! place: opening writes.

use std::fs;
use std::path::{Path, PathBuf};

use cairn_agent::backend::Location;
use cairn_agent::catalog;
use cairn_agent::codec::{ChunkSizes, Secret};
use cairn_agent::engine::{
    ByteRange, Depth, NewRepository, Options, Precondition, PutOptions, ReclaimOptions, Repository, ScrubOptions,
    ScrubProgress, Store, StoreOptions,
};
use cairn_agent::format::record::INLINE_CHUNKS_MAX;
use cairn_agent::format::{Kek, StoredKind, StoredName};

use crate::support::{Home, files_below};
use crate::world::{names, noise, read, rng};

/// The key: 32 bytes that ascend from here.
const KEY_FIRST: u8 = 0x40;
/// As the program calls a key of these bytes that comes from a file.
const KEY_ID: &str = "file:a1f4fa07";

struct Expected {
    name: &'static str,
    bytes: Vec<u8>,
    metadata: Vec<(String, String)>,
}

/// What the store holds.
fn expected() -> Vec<Expected> {
    let pairs = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect()
    };
    let plain = |name, bytes| Expected {
        name,
        bytes,
        metadata: Vec::new(),
    };
    let large = noise(&mut rng(1), 400 << 10);
    vec![
        plain("empty", Vec::new()),
        plain("small/ü", noise(&mut rng(2), 3000)),
        plain("large", large.clone()),
        plain("copy of large", large),
        plain("text", b"the same line again and again\n".repeat(9000)),
        Expected {
            name: "with metadata",
            bytes: noise(&mut rng(3), 20 << 10),
            metadata: pairs(&[("content-type", "text/plain"), ("ключ", "値")]),
        },
        plain("replaced", noise(&mut rng(4), 5000)),
    ]
}

fn golden(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/store-{version}"))
}

fn key() -> [u8; 32] {
    std::array::from_fn(|index| KEY_FIRST + index as u8)
}

fn options(store: &Path) -> StoreOptions {
    StoreOptions {
        location: Location::Directory(store.to_owned()),
        catalog: catalog::Location::Memory,
        keks: vec![Kek {
            id: KEY_ID.to_owned(),
            secret: Secret::from_bytes(key()),
        }],
        options: Options {
            pack_bytes_target: 64 << 10,
            checkpoint_log_bytes: 4 << 10,
            ..Options::default()
        },
    }
}

async fn open(store: &Path) -> (Store, Repository) {
    let first = NewRepository {
        chunk_sizes: ChunkSizes::with_average(16 << 10).unwrap(),
        ..NewRepository::named("golden").unwrap()
    };
    let store = Store::open_or_create(options(store), first).await.unwrap();
    let repository = store.repository("golden").await.unwrap();
    (store, repository)
}

/// Writes the golden store of this version: packs of two epochs, checkpoints, a copy, a delete, a replaced object.
async fn write(store: &Path) {
    let (opened, repository) = open(store).await;
    let put = async |repository: &Repository, name: &str, bytes: &[u8], metadata: &[(String, String)]| {
        let options = PutOptions {
            metadata: metadata.to_vec(),
            ..PutOptions::default()
        };
        repository.put(name, bytes, options).await.unwrap();
    };
    put(&repository, "gone", &noise(&mut rng(5), 12 << 10), &[]).await;
    put(&repository, "replaced", b"by something else", &[]).await;
    for object in expected().iter().filter(|object| object.name != "copy of large") {
        put(&repository, object.name, &object.bytes, &object.metadata).await;
    }
    opened.close().await;
    drop((opened, repository));
    let (opened, repository) = open(store).await;
    repository
        .copy("large", "copy of large", PutOptions::default())
        .await
        .unwrap();
    repository.delete("gone", Precondition::None).await.unwrap();
    repository.reclaim(ReclaimOptions::default()).await.unwrap();
    opened.close().await;
}

fn copy(from: &Path, to: &Path) {
    for file in files_below(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, &target).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_of_every_version_opens_scrubs_and_reads() {
    if std::env::var_os("CAIRN_BLESS_GOLDEN").is_some() {
        let place = tempfile::tempdir().unwrap();
        write(place.path()).await;
        let _ = fs::remove_dir_all(golden(1));
        copy(place.path(), &golden(1));
        let _ = fs::remove_file(golden(1).join("lock"));
    }
    for version in 1..=1 {
        let place = tempfile::tempdir().unwrap();
        copy(&golden(version), place.path());
        check(place.path()).await;
    }
}

async fn check(place: &Path) {
    let (store, repository) = open(place).await;
    for depth in [Depth::Bytes, Depth::Structure, Depth::Full] {
        let options = ScrubOptions {
            depth,
            ..ScrubOptions::default()
        };
        let report = repository.scrub(options, &ScrubProgress::default()).await.unwrap();
        assert!(report.is_sound(), "{depth}: {report:#?}");
        assert!(report.unknown.is_empty() && report.strays == 0, "{depth}: {report:#?}");
    }
    let mut all: Vec<_> = expected().iter().map(|object| object.name.to_owned()).collect();
    all.sort();
    assert_eq!(names(&repository).await, all);
    for object in expected() {
        let found = read(&repository, object.name, ByteRange::All).await.unwrap();
        assert!(found == object.bytes, "{:?} reads as something else", object.name);
        let info = repository.stat(object.name).await.unwrap();
        assert_eq!(info.metadata, object.metadata, "{:?}", object.name);
    }
    // It goes on: what is there is found again, what is new is kept.
    let large = &expected()[2].bytes;
    let again = repository
        .put("again", large.as_slice(), PutOptions::default())
        .await
        .unwrap();
    assert_eq!(again.new_chunks, 0, "chunks are cut and named as they were");
    assert!(
        again.object.chunks > INLINE_CHUNKS_MAX as u64,
        "the store has a manifest"
    );
    repository.put("new", &b"new"[..], PutOptions::default()).await.unwrap();
    repository.delete("text", Precondition::None).await.unwrap();
    repository.reclaim(ReclaimOptions::default()).await.unwrap();
    let status = repository.status().unwrap();
    store.close().await;
    drop((store, repository));
    let (_store, repository) = open(place).await;
    let rebuilt = repository.status().unwrap();
    assert_eq!((rebuilt.head, rebuilt.objects), (status.head, status.objects));
    assert!(read(&repository, "again", ByteRange::All).await.unwrap() == *large);
    assert!(read(&repository, "new", ByteRange::All).await.unwrap() == b"new");
}

#[test]
fn the_golden_store_has_every_kind_of_object_and_is_small() {
    let files = files_below(&golden(1));
    let kinds: Vec<_> = files
        .iter()
        .filter_map(|file| StoredName::parse(file.strip_prefix(golden(1)).unwrap().to_str()?))
        .map(|name| name.kind())
        .collect();
    assert_eq!(kinds.len(), files.len(), "something is no object of ours");
    for kind in StoredKind::ALL {
        assert!(kinds.contains(&kind), "no {kind}");
    }
    assert!(kinds.iter().filter(|kind| **kind == StoredKind::Pack).count() > 4);
    let bytes: u64 = files.iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes < 800 << 10, "{bytes}");
}

#[test]
fn the_program_reads_the_golden_store_with_its_key_file() {
    let home = Home::new();
    copy(&golden(1), &home.store());
    fs::write(home.path("key"), key()).unwrap();
    let flags = ["--repo", "golden", "--key-file", "key"];
    let found = home.run(&[&["get", "small/ü"][..], &flags].concat()).ok();
    assert!(found == expected()[1].bytes);
    let report = home.run(&[&["scrub", "-o", "json"][..], &flags].concat()).json();
    assert_eq!(report["sound"], true, "{report}");
}
