//! A repository that is removed is gone, whatever interrupts it, and nothing else is touched.

use super::*;
use cairn_agent::engine::{DeletionPolicy, Removed, StoreOptions};
use cairn_agent::testkit::faulty::{Fault, Step};

async fn files(place: &Place) -> BTreeMap<String, Vec<u8>> {
    let backend = place.backend().await;
    let mut files = BTreeMap::new();
    for file in backend.list("", None).await.unwrap() {
        files.insert(file.path.clone(), backend.get(&file.path).await.unwrap().to_vec());
    }
    files
}

async fn two(from: &Place, agent: &Agent) -> (Store, Repository, Repository) {
    let (store, one) = agent.open(from).await.unwrap();
    let two = store
        .create_repository(NewRepository::named("two").unwrap())
        .await
        .unwrap();
    put(&one, "large", 1, 3 << 20).await.unwrap();
    put(&two, "large", 1, 1 << 20).await.unwrap();
    (store, one, two)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_named_goes() {
    for place in [Place::directory(), Place::memory()] {
        let agent = Agent::with_catalog();
        let (store, one, two) = two(&place, &agent).await;
        two.close().await;
        let (id, before) = (one.id().to_string(), files(&place).await);
        for wrong in ["", "default", &two.id().to_string()] {
            let refused = store.remove_repository("default", wrong).await.unwrap_err();
            assert_eq!(refused.reason(), Reason::InvalidArgument, "{refused}");
        }
        let Removed { objects, bytes } = store.remove_repository("default", &id).await.unwrap();
        let after = files(&place).await;
        let gone: Vec<_> = before.iter().filter(|(path, _)| path.starts_with(&id)).collect();
        assert!(objects >= gone.len() as u64 && bytes >= 3 << 20, "{objects} {bytes}");
        let mut rest = before.clone();
        rest.retain(|path, _| !path.starts_with(&id));
        assert_eq!(after, rest, "byte for byte");
        if let Place::Directory(directory) = &place {
            assert!(!directory.path().join(&id).exists());
        }
        let ended = put(&one, "late", 2, 10).await.unwrap_err();
        assert_eq!(ended.reason(), Reason::KeysUnavailable, "{ended}");
        put(&two, "more", 3, 100).await.unwrap();
        let refused = store.remove_repository(&id, &id).await.unwrap_err();
        assert_eq!(refused.reason(), Reason::RepositoryNotFound);
        // The name is free again.
        store
            .create_repository(NewRepository::named("default").unwrap())
            .await
            .unwrap();
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyring_goes_first() {
    let (faulty, place) = faulty();
    let (store, one, _two) = two(&place, &Agent::with_catalog()).await;
    faulty.order(None);
    store.remove_repository("default", &one.id().to_string()).await.unwrap();
    let journal = faulty.journal();
    let deletes: Vec<_> = journal.iter().filter(|event| event.kind == Kind::Delete).collect();
    let last_key = deletes
        .iter()
        .rposition(|event| event.path.contains("/keyring/"))
        .unwrap();
    let first_other = deletes
        .iter()
        .position(|event| !event.path.contains("/keyring/"))
        .unwrap();
    assert!(last_key < first_other, "{deletes:#?}");
    assert_eq!(deletes[last_key].step, Step::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_may_be_interrupted_anywhere() {
    let operations = {
        let (faulty, place) = faulty();
        let (store, one, _) = two(&place, &Agent::with_catalog()).await;
        faulty.order(None);
        store.remove_repository("default", &one.id().to_string()).await.unwrap();
        faulty.operations()
    };
    assert!(operations > 10);
    for number in 0..operations {
        let (faulty, place) = faulty();
        let agent = Agent::with_catalog();
        let (store, one, two) = two(&place, &agent).await;
        let id = one.id().to_string();
        two.close().await;
        let mut rest = files(&place).await;
        rest.retain(|path, _| !path.starts_with(&id));
        faulty.order(Some(Fault::Freeze(number)));
        let failed = store.remove_repository("default", &id).await;
        faulty.order(None);
        drop((one, two));
        store.close().await;
        drop(store);
        // Meanwhile the other one is served.
        let store = agent.open_store(&place).await.unwrap();
        let other = store.repository("two").await.unwrap();
        assert_eq!(names(&other).await, ["large"], "at {number}");
        match store.remove_repository(&id, &id).await {
            Ok(_) => {}
            Err(error) => assert!(
                error.reason() == Reason::RepositoryNotFound && (failed.is_ok() || number > 0),
                "at {number}: {error:?}"
            ),
        }
        store.close().await;
        assert_eq!(files(&place).await, rest, "at {number}");
    }
}

/// The only repository of a store, and its keyring is gone: the rest of it can be removed all the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_the_last_repository_can_be_removed() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let options = StoreOptions {
        location: Location::Directory(root.clone()),
        ..StoreOptions::in_memory("-").unwrap()
    };
    let store = Store::open_or_create(options.clone(), NewRepository::named("default").unwrap())
        .await
        .unwrap();
    let repository = store.repository("default").await.unwrap();
    put(&repository, "x", 1, 1 << 20).await.unwrap();
    let id = repository.id().to_string();
    store.close().await;
    drop((repository, store));
    std::fs::remove_dir_all(root.join(&id).join("keyring")).unwrap();
    let refused = Store::open(options.clone()).await.err().unwrap();
    assert_eq!(refused.reason(), Reason::DataLoss);
    assert!(refused.to_string().contains("repo rm"), "{refused}");
    let store = Store::open_to_remove(options.clone()).await.unwrap();
    let refused = store.remove_repository(&id, "yes").await.unwrap_err();
    assert_eq!(refused.reason(), Reason::InvalidArgument, "{refused}");
    let removed = store.remove_repository(&id, &id).await.unwrap();
    assert!(removed.bytes >= 1 << 20, "{removed:?}");
    assert!(!root.join(&id).exists());
    drop(store);
    let refused = Store::open_to_remove(options).await.err().unwrap();
    assert_eq!(refused.reason(), Reason::StoreNotFound, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_retains_removes_nothing() {
    let place = Place::memory();
    let agent = Agent::with_catalog().tuned(|options| options.deletion_policy = DeletionPolicy::Retain);
    let (store, one, _two) = two(&place, &agent).await;
    let before = files(&place).await;
    let refused = store
        .remove_repository("default", &one.id().to_string())
        .await
        .unwrap_err();
    assert_eq!(refused.reason(), Reason::Retained, "{refused}");
    assert_eq!(files(&place).await, before);
    one.delete("large", Precondition::None).await.unwrap();
}
