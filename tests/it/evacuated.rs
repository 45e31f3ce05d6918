//! A repository that was moved is the same at the other place, whatever happened on the way; and where something could
//! not be read, exactly that is missing and told.

mod commands;
mod damaged;
mod interrupted;
mod removed;

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_agent::backend::{Backend, Location};
use cairn_agent::engine::{
    ByteRange, Depth, EvacuateProgress, EvacuateReport, Evacuees, Mode, NewRepository, ObjectInfo, Precondition,
    PutOptions, Reason, Repository, Result, ScrubOptions, ScrubProgress, Store, Verdict,
};
use cairn_agent::testkit::faulty::{Faulty, Kind};
use object_store::memory::InMemory;

use crate::world::{Agent, Place, names, noise, read, rng};

/// Everything that callers can see of a repository.
#[derive(Debug, PartialEq)]
struct Seen {
    log_number: u64,
    head: String,
    objects: BTreeMap<String, (ObjectInfo, Vec<u8>)>,
}

async fn see(repository: &Repository) -> Seen {
    let status = repository.status().unwrap();
    let mut objects = BTreeMap::new();
    for name in names(repository).await {
        let bytes = read(repository, &name, ByteRange::All).await.unwrap();
        objects.insert(name.clone(), (repository.stat(&name).await.unwrap(), bytes));
    }
    Seen {
        log_number: status.log_number,
        head: status.head.to_string(),
        objects,
    }
}

/// A few objects of all kinds: some deleted, some copied, some small.
async fn fill(repository: &Repository) {
    for (name, seed, len) in [
        ("large", 1, 5 << 20),
        ("small", 2, 9 << 10),
        ("gone", 3, 2 << 20),
        ("empty", 5, 0),
    ] {
        put(repository, name, seed, len).await.unwrap();
    }
    repository.copy("large", "copy", PutOptions::default()).await.unwrap();
    repository.delete("gone", Precondition::None).await.unwrap();
    put(repository, "small", 4, 30 << 10).await.unwrap();
}

async fn put(repository: &Repository, name: &str, seed: u64, len: usize) -> Result<()> {
    let bytes = noise(&mut rng(seed), len);
    let options = PutOptions {
        put_id: Some([seed as u8; 16]),
        ..PutOptions::default()
    };
    repository.put(name, bytes.as_slice(), options).await.map(drop)
}

/// Moves the one repository of a store.
async fn evacuate(store: &Store, to: &Place) -> Result<EvacuateReport> {
    let which = Evacuees::One("default".to_owned());
    store
        .evacuate_to(backend(to).await, which, &EvacuateProgress::default())
        .await
}

/// Not called as the source is.
async fn backend(place: &Place) -> Backend {
    match place {
        Place::Faulty(faulty) => {
            Backend::with_object_store(Arc::new(faulty.clone()), Location::Memory("target".to_owned()))
        }
        place => place.backend().await,
    }
}

fn faulty() -> (Faulty, Place) {
    let faulty = Faulty::over(Arc::new(InMemory::new()));
    (faulty.clone(), Place::Faulty(faulty))
}

/// A full scrub finds nothing, and nothing is there that does not belong.
async fn assert_sound(repository: &Repository, what: &str) {
    let options = ScrubOptions {
        depth: Depth::Full,
        ..ScrubOptions::default()
    };
    let report = repository.scrub(options, &ScrubProgress::default()).await.unwrap();
    assert!(report.is_sound() && report.unknown.is_empty(), "{what}: {report:#?}");
}

/// The copy opens under the same key with a catalog of its own, and is the same.
async fn assert_same(to: &Place, before: &Seen, what: &str) {
    let (store, repository) = Agent::forgetful().open(to).await.unwrap();
    assert_eq!(&see(&repository).await, before, "{what}");
    assert_sound(&repository, what).await;
    // The id of a put that was made before the move gives its result.
    let large = before.objects["large"].1.len();
    put(&repository, "large", 1, large).await.unwrap();
    assert_eq!(
        repository.status().unwrap().log_number,
        before.log_number,
        "{what}: a put id was forgotten"
    );
    put(&repository, "new", 9, 100 << 10).await.unwrap();
    assert_sound(&repository, what).await;
    store.close().await;
}

async fn moves(from: &Place, to: &Place) {
    let agent = Agent::with_catalog();
    let (store, repository) = agent.open(from).await.unwrap();
    fill(&repository).await;
    let progress = EvacuateProgress::default();
    let which = Evacuees::One("default".to_owned());
    let report = store.evacuate_to(backend(to).await, which, &progress).await.unwrap();
    assert_eq!(report.verdict(), Verdict::Complete, "{report:#?}");
    assert!(report.packs_copied >= 5 && report.packs_present == 0);
    assert_eq!(report.repositories, [repository.id()]);
    assert_eq!(
        (progress.bytes(), progress.packs()),
        (progress.bytes_expected(), progress.packs_expected())
    );
    let before = see(&repository).await;

    let refused = put(&repository, "late", 8, 10).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::ReadOnly);
    assert!(refused.to_string().contains(&report.to), "{refused}");
    store.close().await;
    drop((repository, store));
    assert_same(to, &before, "after the move").await;

    // The source remembers beyond the process where it went.
    let (store, repository) = agent.open(from).await.unwrap();
    assert_eq!(see(&repository).await, before);
    let refused = put(&repository, "late", 8, 10).await.unwrap_err();
    assert!(refused.to_string().contains("was moved"), "{refused}");
    store.set_read_only(false).await.unwrap();
    put(&repository, "late", 8, 10).await.unwrap();
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_moves_between_directories() {
    moves(&Place::directory(), &Place::directory()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_moves_from_a_directory_to_a_bucket() {
    moves(&Place::directory(), &Place::s3().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_moves_from_a_bucket_to_a_directory() {
    moves(&Place::s3().await, &Place::directory()).await;
}

/// A store moves with all its repositories, into one that is there: they take its id.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_store_moves_into_another_one() {
    let (from, to) = (Place::directory(), Place::directory());
    let agent = Agent::with_catalog();
    let (store, one) = agent.open(&from).await.unwrap();
    let two = store
        .create_repository(NewRepository::named("two").unwrap())
        .await
        .unwrap();
    fill(&one).await;
    put(&two, "large", 1, 2 << 20).await.unwrap();
    // A third that was never written.
    store
        .create_repository(NewRepository::named("three").unwrap())
        .await
        .unwrap();

    let others = Agent::forgetful();
    let there = others.open_empty(&to, "other").await;
    let other_id = there.repositories().await[0].store_id;
    there.close().await;
    drop(there);

    let backend = to.backend().await;
    let report = store
        .evacuate_to(backend, Evacuees::All, &EvacuateProgress::default())
        .await
        .unwrap();
    assert_eq!((report.verdict(), report.repositories.len()), (Verdict::Complete, 3));
    let status = store.status().await.unwrap();
    assert_eq!(status.mode, Mode::Deleting);
    let refused = store
        .create_repository(NewRepository::named("four").unwrap())
        .await
        .err()
        .unwrap();
    assert_eq!(refused.reason(), Reason::ReadOnly, "{refused}");
    let before = (see(&one).await, see(&two).await);
    let there = Agent::forgetful().open_store(&to).await.unwrap();
    let headers = there.repositories().await;
    assert_eq!(headers.len(), 4);
    assert!(headers.iter().all(|header| header.store_id == other_id), "{headers:?}");
    assert_eq!(headers.iter().filter(|header| header.generation == 2).count(), 3);
    let copies = (
        see(&there.repository("default").await.unwrap()).await,
        see(&there.repository("two").await.unwrap()).await,
    );
    assert_eq!(copies, before);
    put(&there.repository("three").await.unwrap(), "first", 5, 100)
        .await
        .unwrap();
    there.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_copied_twice() {
    let (faulty, to) = faulty();
    let from = Place::directory();
    let (store, repository) = Agent::with_catalog().open(&from).await.unwrap();
    fill(&repository).await;
    evacuate(&store, &to).await.unwrap();
    let before = see(&repository).await;
    faulty.order(None);
    let report = evacuate(&store, &to).await.unwrap();
    assert_eq!((report.packs_copied, report.bytes_copied), (0, 0));
    assert!(report.packs_present >= 5);
    let packs = |kind| {
        let journal = faulty.journal();
        journal
            .iter()
            .filter(|event| event.kind == kind && event.path.contains("/packs/"))
            .count()
    };
    assert_eq!(packs(Kind::Put), 0);
    // Each pack's trailer is read, its directory listed.
    assert_eq!(
        packs(Kind::Get),
        2 * report.packs_present as usize,
        "each operation begins and ends"
    );
    assert_same(&to, &before, "after the second run").await;

    // Written there since, it is another one.
    let refused = evacuate(&store, &to).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::RepositoryExists, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_repositories_of_one_name_are_not_brought_together() {
    let (from, to) = (Place::directory(), Place::memory());
    let (store, repository) = Agent::with_catalog().open(&from).await.unwrap();
    put(&repository, "x", 1, 100).await.unwrap();
    let (there, other) = Agent::forgetful().open(&to).await.unwrap();
    there.close().await;
    let refused = evacuate(&store, &to).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::RepositoryExists);
    for id in [repository.id(), other.id()] {
        assert!(refused.to_string().contains(&id.to_string()), "{refused}");
    }
    let listed = to.backend().await.list("", None).await.unwrap();
    let ours = repository.id().to_string();
    assert!(listed.iter().all(|file| !file.path.starts_with(&ours)), "{listed:?}");
    put(&repository, "y", 2, 100).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_holds_something_else_is_left_alone() {
    let from = Place::directory();
    let (store, _repository) = Agent::with_catalog().open(&from).await.unwrap();
    let to = Place::memory();
    to.backend().await.put("holiday.jpg", "x".into()).await.unwrap();
    let refused = evacuate(&store, &to).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::ForeignStore, "{refused}");
}

/// From the first moment on; what was under way comes to its end and is in the copy.
#[tokio::test(flavor = "multi_thread")]
async fn reads_go_on_and_writes_are_refused_while_it_moves() {
    let (faulty, to) = faulty();
    let from = Place::directory();
    let (store, repository) = Agent::with_catalog().open(&from).await.unwrap();
    let other = store
        .create_repository(NewRepository::named("other").unwrap())
        .await
        .unwrap();
    fill(&repository).await;
    let upload = repository.begin_put("under way", PutOptions::default()).await.unwrap();
    faulty.hold(|kind, path| kind == Kind::Put && path.contains("/packs/"));
    let moving = tokio::spawn({
        let (store, to) = (store.clone(), backend(&to).await);
        let which = Evacuees::One("default".to_owned());
        async move { store.evacuate_to(to, which, &EvacuateProgress::default()).await }
    });
    let refused = loop {
        match put(&repository, "early", 7, 10).await {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert!(refused.to_string().contains("being moved"), "{refused}");
    upload.store(&b"text"[..]).await.unwrap();
    let waiting = faulty.held(|_| true).await;

    for refused in [
        put(&repository, "late", 8, 10).await.unwrap_err(),
        repository.delete("small", Precondition::None).await.unwrap_err(),
        repository
            .copy("small", "twin", PutOptions::default())
            .await
            .unwrap_err(),
        repository.reclaim(Default::default()).await.unwrap_err(),
        repository.rebuild().await.unwrap_err(),
        store
            .remove_repository("default", &repository.id().to_string())
            .await
            .unwrap_err(),
        evacuate(&store, &Place::memory()).await.unwrap_err(),
    ] {
        assert_eq!(refused.reason(), Reason::ReadOnly, "{refused}");
    }
    let before = see(&repository).await;
    assert!(before.objects.contains_key("under way"));
    // One of two repositories leaves: the other one is served.
    put(&other, "x", 1, 100).await.unwrap();
    let status = store.status().await.unwrap();
    let cause = status
        .causes
        .iter()
        .find(|cause| cause.code == "DELETION_REQUESTED")
        .unwrap();
    assert_eq!((cause.value, cause.threshold, cause.mode), (1, 2, Mode::Optimal));
    assert_ne!(status.mode, Mode::Deleting);

    faulty.hold_no_more();
    faulty.release(waiting.operation).await;
    for waiting in faulty.waiting() {
        faulty.release(waiting.operation).await;
    }
    moving.await.unwrap().unwrap();
    assert_same(&to, &before, "after the move").await;
}

/// What is given up, by whoever waited for it, leaves the source as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_cancelled_lets_writes_go_on() {
    let (faulty, to) = faulty();
    let from = Place::directory();
    let (store, repository) = Agent::with_catalog().open(&from).await.unwrap();
    fill(&repository).await;
    faulty.hold(|kind, path| kind == Kind::Put && path.contains("/packs/"));
    let moving = tokio::spawn({
        let (store, to) = (store.clone(), backend(&to).await);
        async move { store.evacuate_to(to, Evacuees::All, &EvacuateProgress::default()).await }
    });
    let first = faulty.held(|_| true).await;
    faulty.release(first.operation).await;
    faulty.held(|waiting| waiting.operation > first.operation).await;
    assert_eq!(store.status().await.unwrap().mode, Mode::Deleting);
    moving.abort();
    assert!(moving.await.unwrap_err().is_cancelled());
    faulty.hold_no_more();
    assert_ne!(store.status().await.unwrap().mode, Mode::Deleting);
    put(&repository, "after", 7, 100 << 10).await.unwrap();
    let refused = Agent::forgetful().open(&to).await.err().unwrap();
    assert_eq!(
        refused.reason(),
        Reason::DataLoss,
        "no keyring, no repository: {refused}"
    );
    evacuate(&store, &to).await.unwrap();
    let before = see(&repository).await;
    assert_same(&to, &before, "after the second try").await;
}
