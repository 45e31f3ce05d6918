//! Room, and volumes that go, come back or turn read-only.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use cairn_agent::catalog::Location::Memory;
use cairn_agent::engine::{Mode, Reason, Store};

use super::{Agent, MIB, codes, delete, first, options, put, reclaim, refused, roomy};
use crate::support::Volume;

/// Bytes that can still be written there, as the file system says.
fn available(path: &Path) -> u64 {
    let stat = rustix::fs::statvfs(path).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// Puts objects until one is refused, and says why; how many there are.
async fn fill(agent: &Agent, from: u64, until: impl Fn() -> bool) -> (u64, Option<Reason>) {
    let repository = agent.repository().await;
    for number in from.. {
        if until() {
            return (number, None);
        }
        if let Err(error) = put(&repository, &number.to_string(), 3 * MIB / 2).await {
            return (number, Some(error.reason()));
        }
    }
    unreachable!("a volume has an end")
}

#[tokio::test(flavor = "multi_thread")]
async fn room_runs_out_before_the_file_system_says_so_and_comes_back() {
    let Some(volume) = Volume::of_bytes(64 * MIB) else {
        return;
    };
    let mut agent = Agent::in_directory(&volume.path().join("store"), Memory).await;
    let optimal = agent.until_mode(Mode::Optimal).await;
    assert_eq!(optimal.capacity.total_bytes, Some(64 * MIB));

    let (count, refusal) = fill(&agent, 0, || available(volume.path()) < 10 * MIB).await;
    assert_eq!(refusal, None);
    let low = agent.until_mode(Mode::LowCapacity).await;
    let cause = &low.causes[0];
    assert_eq!((cause.code, Some(cause.value)), ("FREE_BYTES", low.capacity.free_bytes));
    assert!(
        cause.value <= cause.threshold && cause.threshold <= 64 * MIB / 5 + 1,
        "{cause:?}"
    );
    assert!(low.sequence > optimal.sequence);

    let (count, refusal) = fill(&agent, count, || false).await;
    assert_eq!(refusal, Some(Reason::NoCapacity));
    let full = agent.until_mode(Mode::NoCapacity).await;
    let cause = &full.causes[0];
    assert_eq!(
        (cause.code, Some(cause.value)),
        ("FREE_BYTES", full.capacity.free_bytes)
    );
    assert!(cause.value < cause.threshold, "{cause:?}");
    assert!(full.capacity.reserved_bytes >= 2 * MIB);
    assert!(available(volume.path()) > MIB, "the reserve is there for what follows");
    assert!(full.sequence > low.sequence);
    let repository = agent.repository().await;
    for _ in 0..3 {
        assert_eq!(refused(&repository, "one more").await, Reason::NoCapacity);
    }
    let copied = repository.copy("0", "copy", Default::default()).await;
    assert_eq!(copied.unwrap_err().reason(), Reason::NoCapacity);
    repository.verify("0").await.unwrap();
    assert_eq!(repository.status().unwrap().objects, count);

    for number in 0..count {
        delete(&repository, &number.to_string()).await;
    }
    reclaim(&repository).await;
    let empty = agent.until_mode(Mode::Optimal).await;
    assert!(empty.sequence > full.sequence && empty.causes.is_empty());
    put(&repository, "after", 3 * MIB).await.unwrap();
    let fresh = agent.store.status().await.unwrap();
    let free = fresh.capacity.free_bytes.unwrap();
    assert!(free.abs_diff(available(volume.path())) < MIB, "{free}");
    assert_eq!(fresh.capacity.used_bytes, repository.status().unwrap().stored_bytes);
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_log_knows_makes_room_for_the_next_put() {
    let Some(volume) = Volume::of_bytes(64 * MIB) else {
        return;
    };
    let mut options = options(&volume.path().join("store"), Memory);
    // What a stream stored is not introduced before its record.
    options.options.introduce_packs_max = 1000;
    let store = Store::open_or_create(options.clone(), first()).await.unwrap();
    let repository = store.repository("default").await.unwrap();
    put(&repository, "before", 1000).await.unwrap();
    let refusal = put(&repository, "large", 100 * MIB).await.unwrap_err();
    assert_eq!(refusal.reason(), Reason::NoCapacity, "{refusal}");
    store.close().await;
    drop((store, repository));

    let mut agent = Agent::over(Store::open(options).await.unwrap());
    agent.until_mode(Mode::NoCapacity).await;
    // Nobody ran a reclaim.
    let repository = agent.repository().await;
    put(&repository, "after", MIB).await.unwrap();
    repository.verify("before").await.unwrap();
    agent.until_mode(Mode::Optimal).await;
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_grows_is_noticed() {
    let Some(volume) = Volume::of_bytes(64 * MIB) else {
        return;
    };
    let mut agent = Agent::in_directory(&volume.path().join("store"), Memory).await;
    // Somebody else takes most of it.
    let mut other = File::create(volume.path().join("other")).unwrap();
    while available(volume.path()) > 2 * MIB {
        other.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let full = agent.until_mode(Mode::NoCapacity).await;
    assert!(
        full.capacity.used_other_bytes.unwrap() > 55 * MIB,
        "{:?}",
        full.capacity
    );
    let repository = agent.repository().await;
    assert_eq!(refused(&repository, "a").await, Reason::NoCapacity);
    volume.resize(512 * MIB);
    let grown = agent.until_mode(Mode::Optimal).await;
    assert_eq!(grown.capacity.total_bytes, Some(512 * MIB));
    put(&repository, "a", 1000).await.unwrap();
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inodes_run_out_and_come_back() {
    let Some(volume) = Volume::with_options("size=64m,nr_inodes=400") else {
        return;
    };
    let mut agent = Agent::in_directory(&volume.path().join("store"), Memory).await;
    let optimal = agent.until_mode(Mode::Optimal).await;
    assert_eq!(optimal.capacity.inodes_total, Some(400));
    let others = volume.path().join("others");
    fs::create_dir(&others).unwrap();
    let free = || rustix::fs::statvfs(volume.path()).unwrap().f_ffree;
    let take_until = |left: u64| {
        for number in 0.. {
            if free() <= left {
                return;
            }
            File::create(others.join(format!("{left}-{number}"))).unwrap();
        }
    };
    take_until(30);
    let low = agent.until_mode(Mode::LowCapacity).await;
    assert_eq!((codes(&low), low.causes[0].value), (vec!["FREE_INODES"], 30));
    take_until(10);
    let full = agent.until_mode(Mode::NoCapacity).await;
    assert_eq!(
        (codes(&full), full.capacity.inodes_free),
        (vec!["FREE_INODES"], Some(10))
    );
    let repository = agent.repository().await;
    assert_eq!(refused(&repository, "a").await, Reason::NoCapacity);
    fs::remove_dir_all(&others).unwrap();
    agent.until_mode(Mode::Optimal).await;
    put(&repository, "a", 1000).await.unwrap();
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_turns_read_only_is_read_and_comes_back() {
    let Some(volume) = Volume::of_bytes(64 * MIB) else {
        return;
    };
    let mut agent = Agent::in_directory(&volume.path().join("store"), Memory).await;
    let repository = agent.repository().await;
    put(&repository, "a", MIB).await.unwrap();
    agent.until_mode(Mode::Optimal).await;
    let covered = volume.cover_read_only();
    let read_only = agent.until_mode(Mode::ReadOnly).await;
    assert_eq!(codes(&read_only), ["READ_ONLY_FILESYSTEM"]);
    assert_eq!(refused(&repository, "b").await, Reason::ReadOnly);
    repository.verify("a").await.unwrap();
    drop(covered);
    agent.until_mode(Mode::Optimal).await;
    put(&repository, "b", MIB).await.unwrap();
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_covered_or_taken_away_is_not_taken_for_an_empty_store() {
    let Some(volume) = Volume::of_bytes(64 * MIB) else {
        return;
    };
    let mut agent = Agent::in_directory(volume.path(), Memory).await;
    let repository = agent.repository().await;
    put(&repository, "a", MIB).await.unwrap();
    agent.until_mode(Mode::Optimal).await;
    let covered = volume.cover();
    let gone = agent.until_mode(Mode::StorageNotExist).await;
    assert_eq!(codes(&gone), ["ROOT_GONE"]);
    assert_eq!((gone.capacity.total_bytes, gone.capacity.free_bytes), (None, None));
    assert_eq!(gone.repositories.len(), 1, "what is known of it is still told");
    assert_eq!(refused(&repository, "b").await, Reason::BackendUnavailable);
    assert_eq!(
        repository.verify("a").await.unwrap_err().reason(),
        Reason::BackendUnavailable
    );
    drop(covered);
    agent.until_mode(Mode::Optimal).await;
    put(&repository, "b", MIB).await.unwrap();
    repository.verify("a").await.unwrap();

    volume.take_away();
    agent.until_mode(Mode::StorageNotExist).await;
    assert_eq!(refused(&repository, "c").await, Reason::BackendUnavailable);
    assert_eq!(agent.store.status().await.unwrap().mode, Mode::StorageNotExist);
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_was_replaced_is_not_there() {
    let parent = roomy();
    let (path, elsewhere) = (parent.path().join("store"), parent.path().join("elsewhere"));
    let mut agent = Agent::in_directory(&path, Memory).await;
    let repository = agent.repository().await;
    put(&repository, "a", 1000).await.unwrap();
    fs::rename(&path, &elsewhere).unwrap();
    agent.until_mode(Mode::StorageNotExist).await;
    fs::create_dir(&path).unwrap();
    assert_eq!(refused(&repository, "b").await, Reason::BackendUnavailable);
    assert_eq!(agent.store.status().await.unwrap().mode, Mode::StorageNotExist);
    assert_eq!(
        fs::read_dir(&path).unwrap().count(),
        0,
        "nothing is written where the store is not"
    );
    fs::remove_dir(&path).unwrap();
    fs::rename(&elsewhere, &path).unwrap();
    let back = agent.until(|status| status.mode != Mode::StorageNotExist).await;
    assert!(back.mode <= Mode::LowCapacity, "{back:?}");
    put(&repository, "b", 1000).await.unwrap();
    agent.end().await;
}
