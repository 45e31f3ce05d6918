//! Keys that come and go while the store is open.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::*;
use crate::codec::Secret;
use crate::format::Kek;

fn kek(id: &str, byte: u8) -> Kek {
    Kek {
        id: id.to_owned(),
        secret: Secret::from_bytes([byte; 32]),
    }
}

async fn keyless(name: &str) -> Store {
    let options = StoreOptions {
        keks: Vec::new(),
        ..StoreOptions::in_memory(name).unwrap()
    };
    Store::open_or_empty(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_made_and_served_as_soon_as_a_key_is_loaded() {
    let store = keyless("keys-first").await;
    let new = NewRepository::named("default").unwrap();
    let refused = store.create_repository(new.clone()).await.err().unwrap();
    assert_eq!(refused.reason(), Reason::KeysUnavailable);

    assert!(store.load_key(kek("a", 1)).await.unwrap().is_empty());
    let repository = store.create_repository(new).await.unwrap();
    repository.put("x", &b"text"[..], PutOptions::default()).await.unwrap();

    assert!(store.unload_key("a").await);
    assert!(!store.unload_key("a").await);
    for refused in [
        repository.stat("x").await.err().unwrap(),
        repository
            .put("y", &b"text"[..], PutOptions::default())
            .await
            .err()
            .unwrap(),
        repository.delete("x", Precondition::None).await.err().unwrap(),
        repository.list("", None, 10).await.err().unwrap(),
        store.repository("default").await.err().unwrap(),
    ] {
        assert_eq!(refused.reason(), Reason::KeysUnavailable, "{refused}");
    }

    let served = store.load_key(kek("a", 1)).await.unwrap();
    assert_eq!(served, [repository.id()]);
    let again = store.repository("default").await.unwrap();
    assert_eq!(read(&again, "x", ByteRange::All).await, b"text");
    again.put("y", &b"text"[..], PutOptions::default()).await.unwrap();
    let refused = repository.stat("x").await.err().unwrap();
    assert_eq!(
        refused.reason(),
        Reason::KeysUnavailable,
        "the former handle stays closed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_does_not_fit_is_not_taken() {
    let store = keyless("keys-fit").await;
    store.load_key(kek("a", 1)).await.unwrap();
    let other = store.load_key(kek("a", 2)).await.err().unwrap();
    assert_eq!(other.reason(), Reason::InvalidArgument);
    store
        .create_repository(NewRepository::named("default").unwrap())
        .await
        .unwrap();
    store.unload_key("a").await;
    let wrong = store.load_key(kek("a", 2)).await.err().unwrap();
    assert_eq!(wrong.reason(), Reason::WrongKey);
    let states = store.keys().await;
    assert_eq!((states.len(), states[0].loaded_at_ms), (1, None));
    assert_eq!(states[0].repositories.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_when_their_key_goes() {
    let store = keyless("keys-streams").await;
    store.load_key(kek("a", 1)).await.unwrap();
    let repository = store
        .create_repository(NewRepository::named("default").unwrap())
        .await
        .unwrap();
    let data = vec![7u8; 20 << 20];
    repository.put("x", &data[..], PutOptions::default()).await.unwrap();

    let mut reader = repository.get("x", ByteRange::All).await.unwrap();
    reader.next().await.unwrap();
    // A source that brings a little and then nothing.
    let (mut sender, source) = tokio::io::duplex(1 << 16);
    let putting = tokio::spawn({
        let repository = repository.clone();
        async move { repository.put("y", source, PutOptions::default()).await }
    });
    sender.write_all(&[1; 1000]).await.unwrap();

    let unloading = tokio::time::timeout(Duration::from_secs(10), store.unload_key("a"));
    assert!(unloading.await.unwrap());
    let put = putting.await.unwrap().err().unwrap();
    assert_eq!(put.reason(), Reason::KeysUnavailable, "{put}");
    let get = reader.next().await.err().unwrap();
    assert_eq!(get.reason(), Reason::KeysUnavailable, "{get}");

    store.load_key(kek("a", 1)).await.unwrap();
    let again = store.repository("default").await.unwrap();
    assert_eq!(again.stat("y").await.err().unwrap().reason(), Reason::ObjectNotFound);
    assert_eq!(read(&again, "x", ByteRange::All).await, data);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_reaches_the_end_of_what_is_durable() {
    let store = store("progress").await;
    let repository = store.repository("default").await.unwrap();
    let progress = std::sync::Arc::new(PutProgress::default());
    let data: Vec<u8> = bytes(3, 96 << 20);
    let options = PutOptions {
        progress: Some(progress.clone()),
        ..PutOptions::default()
    };
    repository.put("x", &data[..], options).await.unwrap();
    assert_eq!(progress.accepted_bytes(), data.len() as u64);
    let durable = progress.durable_bytes();
    assert!(durable > 0 && durable < data.len() as u64, "{durable}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_place_is_not_taken_for_the_store_that_should_be_there() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("store");
    let options = StoreOptions {
        location: crate::backend::Location::Directory(place.clone()),
        catalog: crate::catalog::Location::Directory(directory.path().join("catalog")),
        ..StoreOptions::in_memory("-").unwrap()
    };
    let store = Store::open_or_empty(options.clone()).await.unwrap();
    let repository = store
        .create_repository(NewRepository::named("default").unwrap())
        .await
        .unwrap();
    repository.put("x", &b"text"[..], PutOptions::default()).await.unwrap();
    store.close().await;
    drop((repository, store));

    // As when the volume is not mounted.
    std::fs::rename(&place, directory.path().join("elsewhere")).unwrap();
    let refused = Store::open_or_empty(options.clone()).await.err().unwrap();
    assert_eq!(refused.reason(), Reason::StoreNotFound, "{refused}");
    std::fs::remove_dir_all(&place).unwrap();
    std::fs::rename(directory.path().join("elsewhere"), &place).unwrap();
    let store = Store::open_or_empty(options).await.unwrap();
    let repository = store.repository("default").await.unwrap();
    assert_eq!(read(&repository, "x", ByteRange::All).await, b"text");
}
