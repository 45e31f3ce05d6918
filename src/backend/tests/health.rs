use std::fs;
use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use tokio::time::Instant;

use super::{Fixture, directory_backend};
use crate::backend::{Backend, ErrorKind, Presence, Trouble};
use crate::testkit::faulty::{Fault, Faulty, Saying};

fn troubles(backend: &Backend) -> Vec<(Trouble, u64, bool)> {
    let failures = backend.health().failures(Instant::now());
    failures
        .into_iter()
        .map(|failure| (failure.trouble, failure.count, failure.is_answered))
        .collect()
}

#[tokio::test]
async fn what_is_no_fault_of_the_storage_is_not_remembered() {
    for fixture in [Fixture::directory().await, Fixture::memory().await, Fixture::s3().await] {
        let backend = &fixture.backend;
        backend.put("r/x", "x".into()).await.unwrap();
        assert_eq!(backend.get("r/y").await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(
            backend.get_range("r/x", 5..9).await.unwrap_err().kind(),
            ErrorKind::Truncated
        );
        assert_eq!(
            backend.put("r/../x", "x".into()).await.unwrap_err().kind(),
            ErrorKind::Invalid
        );
        backend.create("r/x", "x".into()).await.unwrap();
        backend.put("empty", "".into()).await.unwrap();
        backend.get_tail("empty", 5).await.unwrap();
        backend.delete("r/y").await.unwrap();
        assert_eq!(troubles(backend), [], "{}", backend.location());
    }
}

#[tokio::test]
async fn every_failure_is_remembered_by_what_it_says() {
    let faulty = Faulty::over(Arc::new(InMemory::new()));
    let table = [
        (Saying::Nothing, Trouble::Io),
        (Saying::Errno(5), Trouble::Io),
        (Saying::NotSynced, Trouble::Fsync),
        (Saying::Errno(13), Trouble::Permission),
        (Saying::Errno(28), Trouble::NoSpace),
        (Saying::Errno(30), Trouble::ReadOnly),
        (Saying::Errno(110), Trouble::Unreachable),
    ];
    for (saying, trouble) in table {
        let backend = faulty.backend();
        faulty.order_saying(Some(Fault::Freeze(0)), saying);
        assert!(backend.put("a", "a".into()).await.is_err());
        assert!(backend.create("a", "a".into()).await.is_err());
        assert!(backend.get("a").await.is_err());
        assert!(backend.get_range("a", 0..1).await.is_err());
        assert!(backend.list("", None).await.is_err());
        assert!(backend.list_directories("").await.is_err());
        assert!(backend.delete("a").await.is_err());
        let found = troubles(&backend);
        assert_eq!(found.len(), 1, "{saying:?}: {found:?}");
        let (found, count, is_answered) = found[0];
        assert_eq!((found, is_answered), (trouble, false));
        assert!(count >= 7, "{saying:?}: {count}");
        tokio::time::timeout(Duration::from_secs(5), backend.health().changed())
            .await
            .expect("who waits for changes is woken");
    }
}

#[tokio::test]
async fn a_trial_answers_what_failed_before_and_leaves_nothing() {
    let faulty = Faulty::over(Arc::new(InMemory::new()));
    let backend = faulty.backend();
    faulty.order_saying(Some(Fault::Refuse(0)), Saying::Errno(5));
    assert!(backend.put("a", "a".into()).await.is_err());
    faulty.order(Some(Fault::Freeze(0)));
    assert!(backend.try_out().await.is_err());
    assert_eq!(troubles(&backend), [(Trouble::Io, 2, false)]);
    // A full storage answers all the same.
    faulty.order_saying(Some(Fault::Refuse(0)), Saying::Errno(28));
    assert!(backend.try_out().await.is_err());
    assert_eq!(
        troubles(&backend),
        [(Trouble::Io, 2, true), (Trouble::NoSpace, 1, false)]
    );
    faulty.order(None);
    backend.try_out().await.unwrap();
    assert_eq!(
        troubles(&backend),
        [(Trouble::Io, 2, true), (Trouble::NoSpace, 1, true)]
    );
    assert!(backend.list("", None).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_trial_is_no_object() {
    for fixture in [Fixture::directory().await, Fixture::memory().await, Fixture::s3().await] {
        let backend = &fixture.backend;
        backend.try_out().await.unwrap();
        assert!(backend.list("", None).await.unwrap().is_empty());
        let refused = backend.put(".probe-0", "x".into()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
    }
    // Left behind by a process that was killed in between: not seen, and removed by the next one.
    let directory = tempfile::tempdir().unwrap();
    let left = directory.path().join(".probe-0123456789abcdef");
    fs::write(&left, "x").unwrap();
    let backend = directory_backend(&directory).await;
    assert!(backend.list("", None).await.unwrap().is_empty());
    backend.sweep_staging("").await.unwrap();
    assert!(!left.exists());
}

#[tokio::test]
async fn a_look_shows_what_is_there() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("store");
    let location = crate::backend::Location::Directory(path.clone());
    let backend = Backend::attach(&location, crate::backend::Attach::CreateDirectory)
        .await
        .unwrap();
    let look = backend.look();
    assert_eq!(look.presence, Presence::Here);
    assert!(look.space.is_some() && !look.is_read_only && look.refused.is_none());
    fs::rename(&path, parent.path().join("elsewhere")).unwrap();
    assert!(matches!(backend.look().presence, Presence::Gone(_)));
    fs::create_dir(&path).unwrap();
    let look = backend.look();
    assert!(matches!(look.presence, Presence::Gone(_)));
    assert_eq!(look.space, None, "the numbers of another volume say nothing");
    assert!(backend.get("r/x").await.is_err());
    assert_eq!(troubles(&backend), [], "a look tells it, and when it is over");
    assert_eq!(Fixture::memory().await.backend.look().presence, Presence::Here);
}
