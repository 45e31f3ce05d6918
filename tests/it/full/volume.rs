//! An agent whose volume somebody else fills, and its own catalog.

use std::path::Path;

use bytes::Bytes;
use cairn_agent::backend::{Attach, Backend};
use cairn_agent::engine::{Mode, PutOptions, Reason, Repository, Store};
use tokio::io::AsyncWriteExt;

use super::{
    Disk, Foreign, KIB, MIB, Operated, available, contents, delete, inodes_left, options, put, reclaim, refused,
    reserve_bytes,
};
use crate::world::{names, read};

const OBJECT_BYTES: u64 = 3 * MIB / 2;

async fn verify(repository: &Repository, expected: &[&str]) {
    assert_eq!(names(repository).await, expected);
    for name in expected {
        let found = read(repository, name, cairn_agent::engine::ByteRange::All).await;
        let found = found.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert!(found == contents(name, OBJECT_BYTES), "{name}");
    }
}

/// Whatever it was told is there for a process with the catalog, and for one without.
async fn reopen(volume: &Path, expected: &[&str]) {
    for catalog in ["store.catalog", "another.catalog"] {
        let store = Store::open(options(volume, &volume.join(catalog))).await.unwrap();
        verify(&store.repository("default").await.unwrap(), expected).await;
        store.close().await;
    }
}

async fn is_worked_free(disk: &Disk) {
    let volume = &disk.path();
    let mut agent = Operated::on(volume).await.unwrap();
    let repository = agent.repository().await;
    let objects = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    for name in objects {
        put(&repository, name, OBJECT_BYTES).await.unwrap();
    }
    agent.until_mode(Mode::Optimal).await;
    let whole = agent.until_whole(volume).await;
    let status = agent.store.status().await.unwrap();
    let free = status.capacity.free_bytes.unwrap();
    assert!(
        free.abs_diff(available(volume) + whole) < MIB,
        "the reserve counts as free: {free}, {whole}"
    );

    // Somebody else takes everything. What is there can be read and deleted, and comes back.
    let foreign = Foreign::all_but(volume, 0);
    let full = agent.until_mode(Mode::NoCapacity).await;
    assert_eq!(full.causes[0].code, "FREE_BYTES");
    assert_eq!(refused(&repository, "refused").await, Reason::NoCapacity);
    // That the mode is another one is the first thing that is written.
    let left = reserve_bytes(volume);
    assert!(left > whole / 2, "{left} of {whole} bytes are left");
    verify(&repository, &objects).await;
    for name in &objects[..9] {
        delete(&repository, name).await;
    }
    assert_eq!(refused(&repository, "refused").await, Reason::NoCapacity);
    reclaim(&repository).await;
    verify(&repository, &objects[9..]).await;
    agent.until(|status| status.mode <= Mode::LowCapacity).await;
    agent.until_whole(volume).await;
    put(&repository, "a", OBJECT_BYTES).await.unwrap();

    // It goes away by itself, too.
    drop(foreign);
    agent.until_mode(Mode::Optimal).await;
    let foreign = Foreign::all_but(volume, 0);
    agent.until_mode(Mode::NoCapacity).await;
    delete(&repository, "a").await;
    drop(foreign);
    agent.until_mode(Mode::Optimal).await;
    agent.until_whole(volume).await;
    put(&repository, "b", OBJECT_BYTES).await.unwrap();
    drop(repository);
    agent.end().await;
    reopen(volume, &["9", "b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_filled_is_worked_free() {
    if let Some(disk) = Disk::memory("size=48m") {
        is_worked_free(&disk).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_filled_is_worked_free_on_ext4() {
    if let Some(disk) = Disk::ext4(64 * MIB, &[]) {
        is_worked_free(&disk).await;
    }
}

async fn inodes_come_back(disk: &Disk) {
    let volume = &disk.path();
    let mut agent = Operated::on(volume).await.unwrap();
    let repository = agent.repository().await;
    let objects = ["0", "1", "2", "3"];
    for name in objects {
        put(&repository, name, OBJECT_BYTES).await.unwrap();
    }
    agent.until_mode(Mode::Optimal).await;
    agent.until_whole(volume).await;
    let foreign = Foreign::inodes(volume);
    let full = agent.until_mode(Mode::NoCapacity).await;
    assert_eq!(full.causes[0].code, "FREE_INODES");
    assert_eq!(refused(&repository, "refused").await, Reason::NoCapacity);
    let left = inodes_left(volume);
    assert!(left < 16, "{left}: what the reserve gave, and nothing else");
    verify(&repository, &objects).await;
    for name in &objects[..3] {
        delete(&repository, name).await;
    }
    reclaim(&repository).await;
    verify(&repository, &objects[3..]).await;
    drop(foreign);
    agent.until_mode(Mode::Optimal).await;
    agent.until_whole(volume).await;
    put(&repository, "a", OBJECT_BYTES).await.unwrap();
    drop(repository);
    agent.end().await;
    reopen(volume, &["3", "a"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_without_inodes_is_worked_free() {
    if let Some(disk) = Disk::memory("size=64m,nr_inodes=500") {
        inodes_come_back(&disk).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_without_inodes_is_worked_free_on_ext4() {
    if let Some(disk) = Disk::ext4(64 * MIB, &["-N", "512"]) {
        inodes_come_back(&disk).await;
    }
}

/// The data of a put that is under way when the room runs out does not take what deletes need.
#[tokio::test(flavor = "multi_thread")]
async fn no_put_takes_the_reserve() {
    let Some(disk) = Disk::memory("size=48m") else {
        return;
    };
    let volume = &disk.path();
    let mut agent = Operated::on(volume).await.unwrap();
    let repository = agent.repository().await;
    for name in ["0", "1", "2"] {
        put(&repository, name, OBJECT_BYTES).await.unwrap();
    }
    let whole = agent.until_whole(volume).await;
    let (source, mut sink) = tokio::io::duplex(64 << 10);
    let putting = {
        let repository = repository.clone();
        tokio::spawn(async move { repository.put("late", source, PutOptions::default()).await })
    };
    // Nearly a pack: it waits for more.
    sink.write_all(&contents("late", 1200 * KIB)).await.unwrap();
    let foreign = Foreign::all_but(volume, 0);
    agent.until_mode(Mode::NoCapacity).await;
    // Its commit would carry what this put has brought so far.
    delete(&repository, "0").await;
    drop(sink);
    let ended = putting.await.unwrap();
    assert_eq!(ended.unwrap_err().reason(), Reason::NoCapacity);
    delete(&repository, "1").await;
    let left = reserve_bytes(volume);
    assert!(left > whole / 2, "{left} of {whole} bytes are left");
    reclaim(&repository).await;
    drop(foreign);
    agent.until_mode(Mode::Optimal).await;
    agent.until_whole(volume).await;
    drop(repository);
    agent.end().await;
    reopen(volume, &["2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_whose_own_file_system_is_full_comes_back() {
    let (Some(disk), Some(index)) = (Disk::memory("size=64m"), Disk::memory("size=24m")) else {
        return;
    };
    let volume = &disk.path();
    let catalog = index.path().join("catalog");
    let mut agent = Operated::with(options(volume, &catalog)).await.unwrap();
    let repository = agent.repository().await;
    for name in ["0", "1"] {
        put(&repository, name, OBJECT_BYTES).await.unwrap();
    }
    agent.until_mode(Mode::Optimal).await;
    let foreign = Foreign::all_but(&index.path(), 0);
    let full = agent.until_mode(Mode::NoCapacity).await;
    assert_eq!(full.causes[0].code, "CATALOG", "{full:?}");
    assert_eq!(refused(&repository, "refused").await, Reason::NoCapacity);
    verify(&repository, &["0", "1"]).await;
    // Nothing is kept back for it there. Once it has stopped, what needs it is refused, and nothing is in doubt.
    let mut written = 0;
    while agent.store.set_read_only(false).await.is_ok() {
        written += 1;
        assert!(written < 10_000, "a full file system takes everything");
    }
    let before = repository.status().unwrap().log_number;
    for name in ["0", "1"] {
        let refused = repository.delete(name, Default::default()).await.unwrap_err();
        assert_eq!(refused.reason(), Reason::NoCapacity, "{refused:?}");
    }
    assert_eq!(repository.status().unwrap().log_number, before);
    verify(&repository, &["0", "1"]).await;
    drop(foreign);
    agent.until_mode(Mode::Optimal).await;
    put(&repository, "2", OBJECT_BYTES).await.unwrap();
    for name in ["0", "1"] {
        delete(&repository, name).await;
    }
    verify(&repository, &["2"]).await;
    drop(repository);
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_full_at_the_first_start_is_said_to_be_and_used_later() {
    for (what, disk) in [
        ("bytes", Disk::memory("size=32m")),
        ("inodes", Disk::memory("size=32m,nr_inodes=200")),
        ("bytes of ext4", Disk::ext4(64 * MIB, &[])),
    ] {
        let Some(disk) = disk else {
            return;
        };
        let volume = &disk.path();
        // Everything, or all but a little: it fails here and there on its way.
        for left in [0, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB] {
            let foreign = match what {
                "inodes" => Foreign::inodes(volume),
                _ => Foreign::all_but(volume, left),
            };
            match Operated::on(volume).await {
                Err(error) => assert_eq!(error.reason(), Reason::NoCapacity, "{what}, {left}: {error:?}"),
                Ok(agent) => agent.end().await,
            }
            drop(foreign);
        }
        let mut agent = Operated::on(volume).await.unwrap();
        agent.until_mode(Mode::Optimal).await;
        let repository = agent.repository().await;
        put(&repository, "0", OBJECT_BYTES).await.unwrap();
        verify(&repository, &["0"]).await;
        agent.end().await;
    }
}

/// It is no part of the store: not listed, not taken for somebody else's, given back with the last repository.
#[tokio::test(flavor = "multi_thread")]
async fn the_reserve_is_kept_for_a_store_and_is_not_of_it() {
    let Some(disk) = Disk::memory("size=64m") else {
        return;
    };
    let volume = &disk.path();
    let agent = Operated::on(volume).await.unwrap();
    let whole = agent.until_whole(volume).await;
    let repository = agent.repository().await;
    put(&repository, "0", OBJECT_BYTES).await.unwrap();
    drop(repository);
    agent.end().await;

    // Whoever does not operate it keeps it, and makes none.
    let mut without = options(volume, &volume.join("store.catalog"));
    without.options.hold_reserve = false;
    let store = Store::open(without.clone()).await.unwrap();
    store.status().await.unwrap();
    assert_eq!(reserve_bytes(volume), whole);
    std::fs::remove_file(volume.join("store/reserve/00")).unwrap();
    store.status().await.unwrap();
    assert!(reserve_bytes(volume) < whole);
    let backend = Backend::attach(&without.location, Attach::Existing).await.unwrap();
    let listed = backend.list("", None).await.unwrap();
    assert!(
        listed.iter().all(|file| !file.path.starts_with("reserve")),
        "{listed:?}"
    );
    let directories = backend.list_directories("").await.unwrap();
    assert_eq!(directories, [store.repositories().await[0].id.to_string()]);
    store.remove_repository("default", &directories[0]).await.unwrap();
    assert!(!volume.join("store/reserve").exists());
    store.close().await;
    drop(store);

    // The place is empty, as far as a first start can see.
    let agent = Operated::on(volume).await.unwrap();
    agent.until_whole(volume).await;
    agent.end().await;
}

/// What others put where it would be is theirs.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_only_looks_like_the_reserve_is_somebody_elses() {
    let home = tempfile::tempdir().unwrap();
    let reserve = home.path().join("store/reserve");
    std::fs::create_dir_all(&reserve).unwrap();
    std::fs::write(reserve.join("wine"), Bytes::from_static(b"1982")).unwrap();
    let error = Operated::on(home.path()).await.err().unwrap();
    assert_eq!(error.reason(), Reason::ForeignStore);
    assert_eq!(std::fs::read(reserve.join("wine")).unwrap(), b"1982");
}
