//! Checkpoints are written beside the log.

use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;

use super::*;
use crate::testkit::faulty::{Faulty, Kind};

async fn faulty(name: &str) -> (Repository, Faulty) {
    let faulty = Faulty::over(Arc::new(InMemory::new()));
    let first = NewRepository::named("default").unwrap();
    let store = Store::open_on(StoreOptions::in_memory(name).unwrap(), faulty.backend(), first);
    (store.await.unwrap().repository("default").await.unwrap(), faulty)
}

async fn put(repository: &Repository, name: &str) {
    let put = repository.put(name, name.as_bytes(), PutOptions::default());
    put.await.unwrap();
}

/// A checkpoint that is asked for, with the first file of it on its way.
async fn begun(repository: &Repository, faulty: &Faulty) -> tokio::task::JoinHandle<Result<()>> {
    faulty.hold(|kind, path| kind == Kind::Put && path.contains("/checkpoints/"));
    let writing = {
        let repository = repository.clone();
        tokio::spawn(async move { repository.write_checkpoints(&[]).await })
    };
    faulty.held(|_| true).await;
    writing
}

async fn let_go(faulty: &Faulty) {
    faulty.hold_no_more();
    for waiting in faulty.waiting() {
        faulty.release(waiting.operation).await;
    }
}

/// What is put and deleted while a checkpoint is on its way is not in it, and the next one knows that it is not.
#[tokio::test(flavor = "multi_thread")]
async fn what_changes_beside_a_checkpoint_is_in_the_next() {
    let (repository, faulty) = faulty("beside").await;
    put(&repository, "before").await;
    put(&repository, "goes").await;
    let writing = begun(&repository, &faulty).await;
    put(&repository, "beside").await;
    assert!(repository.delete("goes", Precondition::None).await.unwrap());
    assert!(!writing.is_finished());
    let_go(&faulty).await;
    writing.await.unwrap().unwrap();
    let before = repository.status().unwrap();
    assert_eq!(repository.rebuild().await.unwrap(), before);
    for name in ["before", "beside"] {
        assert_eq!(read(&repository, name, ByteRange::All).await, name.as_bytes());
    }
    assert_eq!(
        repository.stat("goes").await.unwrap_err().reason(),
        Reason::ObjectNotFound
    );
}

/// A checkpoint that fails leaves what changed for the next one to write.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_fails_is_made_up_for_by_the_next() {
    let (repository, faulty) = faulty("fails").await;
    put(&repository, "first").await;
    repository.write_checkpoints(&[]).await.unwrap();
    put(&repository, "second").await;
    let writing = begun(&repository, &faulty).await;
    faulty.hold_no_more();
    for waiting in faulty.waiting() {
        assert!(faulty.refuse(waiting.operation));
    }
    assert!(writing.await.unwrap().is_err());
    // The writer goes on.
    put(&repository, "third").await;
    repository.write_checkpoints(&[]).await.unwrap();
    let before = repository.status().unwrap();
    assert_eq!(repository.rebuild().await.unwrap(), before);
    for name in ["first", "second", "third"] {
        assert_eq!(read(&repository, name, ByteRange::All).await, name.as_bytes());
    }
}

/// Storage that does not answer to a checkpoint keeps neither puts waiting nor, once the writer has given up, the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_hangs_holds_nobody_up() {
    let (repository, faulty) = faulty("hangs").await;
    put(&repository, "first").await;
    let writing = begun(&repository, &faulty).await;
    put(&repository, "second").await;
    faulty.hold(|kind, path| kind == Kind::Put && path.contains("/packs/"));
    let failing = {
        let repository = repository.clone();
        tokio::spawn(async move { repository.put("fails", &b"fails"[..], PutOptions::default()).await })
    };
    let commit = faulty.held(|waiting| waiting.path.contains("/packs/")).await;
    assert!(faulty.refuse(commit.operation));
    faulty.hold_no_more();
    assert!(failing.await.unwrap().is_err());
    let next = tokio::time::timeout(Duration::from_secs(60), put(&repository, "next"));
    next.await.expect("the next writer begins");
    assert!(writing.await.unwrap().is_err());
    let_go(&faulty).await;
    repository.write_checkpoints(&[]).await.unwrap();
    let before = repository.status().unwrap();
    assert_eq!(repository.rebuild().await.unwrap(), before);
    for name in ["first", "second", "next"] {
        assert_eq!(read(&repository, name, ByteRange::All).await, name.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_grow_rarer_as_they_grow() {
    let first = NewRepository::named("default").unwrap();
    let (store, repository) = tuned("rarer", first, |options| options.checkpoint_log_bytes = 2 << 10).await;
    for number in 0..200 {
        put(&repository, &number.to_string()).await;
    }
    repository.close().await;
    let checkpoints = store.counters().checkpoints.value();
    assert!((2..40).contains(&checkpoints), "{checkpoints}");
}

/// To follow the log the blobs in commit packs are no more to be read than those of other packs.
#[tokio::test(flavor = "multi_thread")]
async fn blobs_in_commit_packs_make_no_checkpoint_due() {
    let first = NewRepository::named("default").unwrap();
    let (store, repository) = tuned("blobs", first, |options| options.checkpoint_log_bytes = 128 << 10).await;
    for number in 0..20 {
        let data = bytes(number, 16 << 10);
        let name = number.to_string();
        let put = repository.put(&name, data.as_slice(), PutOptions::default());
        put.await.unwrap();
    }
    assert_eq!(store.counters().checkpoints.value(), 0);
    let before = repository.core().catalog.tip().unwrap().unwrap();
    let log_bytes = before.log_bytes_since_checkpoint;
    assert!((20 * 500..128 << 10).contains(&log_bytes), "{log_bytes}");
    repository.rebuild().await.unwrap();
    let after = repository.core().catalog.tip().unwrap().unwrap();
    assert_eq!(after.log_bytes_since_checkpoint, log_bytes);
}
