//! Keys that callers push and take away.

use bytes::Bytes;

use super::put::{Put, get, header, put, whole};
use super::world::{World, reason};
use crate::engine::{Reason, Store, StoreOptions};
use crate::service::proto::keys_client::KeysClient;
use crate::service::proto::repositories_client::RepositoriesClient;
use crate::service::proto::{
    CreateRequest, KeysListRequest, LoadRequest, LoadResponse, RotateRequest, UnloadRequest, put_response,
};
use crate::service::{AgentSettings, KeyProvider};

/// An agent at an empty place, without any key.
pub(super) async fn keyless(name: &str) -> World {
    let mut options = StoreOptions::in_memory(name).unwrap();
    options.keks.clear();
    let settings = AgentSettings {
        key_provider: KeyProvider::Core,
        ..AgentSettings::default()
    };
    World::over(Store::open_or_empty(options).await.unwrap(), settings)
}

pub(super) async fn load(world: &World, key_id: &str, key: &'static [u8]) -> Result<LoadResponse, tonic::Status> {
    let request = LoadRequest {
        key_id: key_id.to_owned(),
        key: Bytes::from_static(key),
    };
    let mut client = KeysClient::new(world.connect());
    Ok(client.load(request).await?.into_inner())
}

pub(super) async fn unload(world: &World, key_id: &str) -> bool {
    let request = UnloadRequest {
        key_id: key_id.to_owned(),
    };
    let mut client = KeysClient::new(world.connect());
    client.unload(request).await.unwrap().into_inner().was_loaded
}

pub(super) async fn create_default(world: &World) -> Result<(), tonic::Status> {
    let request = CreateRequest {
        name: "default".to_owned(),
        ..CreateRequest::default()
    };
    RepositoriesClient::new(world.connect()).create(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_made_and_served_with_a_key_that_was_pushed() {
    let world = keyless("service keys").await;
    assert_eq!(reason(create_default(&world).await), Reason::KeysUnavailable);
    load(&world, "k1", &[1; 32]).await.unwrap();
    create_default(&world).await.unwrap();
    put(&world, "a", b"kept").await.unwrap();

    assert!(unload(&world, "k1").await);
    assert!(!unload(&world, "k1").await);
    assert_eq!(reason(get(&world, whole("a")).await), Reason::KeysUnavailable);
    assert_eq!(reason(put(&world, "a", b"lost").await), Reason::KeysUnavailable);
    assert_eq!(reason(load(&world, "k1", &[2; 32]).await), Reason::WrongKey);

    let served = load(&world, "k1", &[1; 32]).await.unwrap().repository_ids;
    assert_eq!(served.len(), 1);
    assert_eq!(get(&world, whole("a")).await.unwrap().0, b"kept");
    assert_eq!(reason(load(&world, "k1", &[2; 32]).await), Reason::WrongKey);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_under_way_ends_when_its_key_is_taken_away() {
    let world = keyless("service keys streams").await;
    load(&world, "k1", &[1; 32]).await.unwrap();
    create_default(&world).await.unwrap();
    let mut put = Put::begin(&world).await;
    put.send(header("a")).await;
    assert!(matches!(put.answer().await, Ok(put_response::Part::Accepted(_))));
    assert!(unload(&world, "k1").await);
    assert_eq!(reason(put.answer().await), Reason::KeysUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_listed_with_what_needs_them() {
    let world = keyless("service key list").await;
    load(&world, "k1", &[1; 32]).await.unwrap();
    create_default(&world).await.unwrap();
    load(&world, "k2", &[2; 32]).await.unwrap();
    unload(&world, "k1").await;
    let mut client = KeysClient::new(world.connect());
    let keys = client.list(KeysListRequest {}).await.unwrap().into_inner().keys;
    let shown: Vec<_> = keys
        .iter()
        .map(|key| {
            (
                key.key_id.as_str(),
                key.loaded,
                key.loaded_at.is_some(),
                key.repository_ids.len(),
            )
        })
        .collect();
    assert_eq!(shown, [("k1", false, false, 1), ("k2", true, true, 0)]);
    assert_eq!(
        reason(client.rotate(RotateRequest::default()).await),
        Reason::Unsupported
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_key_is_refused_without_a_word_of_it() {
    let world = keyless("service no keys").await;
    let cases: [(&str, &'static [u8]); 4] = [("", &[7; 32]), ("a b", &[7; 32]), ("k", &[7; 31]), ("k", &[7; 33])];
    for (id, key) in cases {
        let refused = load(&world, id, key).await.unwrap_err();
        assert!(!refused.message().contains('7'), "{refused}");
        assert_eq!(reason(Err::<(), _>(refused)), Reason::InvalidArgument);
    }
    let request = LoadRequest {
        key_id: "k".to_owned(),
        key: Bytes::from_static(b"secret"),
    };
    assert_eq!(format!("{request:?}"), r#"LoadRequest { key_id: "k", .. }"#);
}

#[tokio::test]
async fn keys_out_of_files_are_not_pushed() {
    let world = World::new("service file keys").await;
    assert_eq!(reason(load(&world, "k", &[1; 32]).await), Reason::Unsupported);
}
