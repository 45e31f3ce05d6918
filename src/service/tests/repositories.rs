//! Repositories come and go; callers see those that are open to them.

use super::put::{get, whole};
use super::world::{World, anyone, reason};
use crate::engine::Reason;
use crate::service::Caller;
use crate::service::proto::agent_client::AgentClient;
use crate::service::proto::data_path_client::DataPathClient;
use crate::service::proto::repositories_client::RepositoriesClient;
use crate::service::proto::{
    CreateRequest, DescribeRequest, GetStatusRequest, ListRequest, RepositoriesDeleteRequest, RepositoriesListRequest,
    Repository,
};

async fn create(world: &World, name: &str) -> Repository {
    let request = CreateRequest {
        name: name.to_owned(),
        chunk_avg_bytes: 1 << 20,
        compression_level: Some(0),
        ..CreateRequest::default()
    };
    let mut client = RepositoriesClient::new(world.connect());
    client.create(request).await.unwrap().into_inner().repository.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_made_described_and_removed() {
    let world = World::new("service repositories").await;
    let mut client = RepositoriesClient::new(world.connect());
    let made = create(&world, "b").await;
    let parameters = made.parameters.unwrap();
    assert_eq!((parameters.chunk_avg_bytes, parameters.compression_level), (1 << 20, 0));
    assert!(made.open && made.totals.is_some());
    for word in ["b", &made.id] {
        let request = DescribeRequest {
            repository: word.to_owned(),
        };
        let described = client.describe(request).await.unwrap().into_inner();
        assert_eq!(described.repository.unwrap(), made);
    }
    let again = CreateRequest {
        name: "b".to_owned(),
        ..CreateRequest::default()
    };
    assert_eq!(reason(client.create(again).await), Reason::RepositoryExists);
    let remove = |confirm: &str| RepositoriesDeleteRequest {
        repository: "b".to_owned(),
        confirm: confirm.to_owned(),
    };
    assert_eq!(reason(client.delete(remove("b")).await), Reason::InvalidArgument);
    client.delete(remove(&made.id)).await.unwrap();
    let listed = client.list(RepositoriesListRequest {}).await.unwrap().into_inner();
    let names: Vec<_> = listed.repositories.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["default"]);
}

#[tokio::test]
async fn what_cannot_be_made_is_refused() {
    let world = World::new("service unmakeable").await;
    let named = |name: &str| CreateRequest {
        name: name.to_owned(),
        ..CreateRequest::default()
    };
    let odd = CreateRequest {
        chunk_avg_bytes: 1000,
        ..named("a")
    };
    let level = CreateRequest {
        compression_level: Some(20),
        ..named("a")
    };
    let key = CreateRequest {
        key_id: "another".to_owned(),
        ..named("a")
    };
    let cases = [
        (named("No Name"), Reason::InvalidName),
        (odd, Reason::InvalidArgument),
        (level, Reason::InvalidArgument),
        (key, Reason::KeysUnavailable),
    ];
    for (request, expected) in cases {
        let mut client = RepositoriesClient::new(world.connect());
        assert_eq!(reason(client.create(request).await), expected);
    }
}

/// A caller to whom only these are open.
fn restricted_to(repositories: &[&str]) -> Caller {
    let mut caller = anyone();
    caller.grants.repositories = Some(repositories.iter().map(|word| (*word).to_owned()).collect());
    caller
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_sees_and_names_only_what_is_open_to_it() {
    let world = World::new("service grants").await;
    let id = create(&world, "b").await.id;
    for grant in ["b", &id] {
        let channel = world.connect_as(Some(restricted_to(&[grant])));
        let mut objects = DataPathClient::new(channel.clone());
        let of = |repository: &str| ListRequest {
            repository: repository.to_owned(),
            ..ListRequest::default()
        };
        assert!(objects.list(of("b")).await.is_ok());
        assert!(objects.list(of(&id)).await.is_ok());
        for closed in ["", "default", "nothing"] {
            assert_eq!(
                reason(objects.list(of(closed)).await),
                Reason::PermissionDenied,
                "{closed}"
            );
        }
        let mut client = RepositoriesClient::new(channel.clone());
        let listed = client.list(RepositoriesListRequest {}).await.unwrap().into_inner();
        assert_eq!(listed.repositories.len(), 1);
        let mut agent = AgentClient::new(channel);
        let status = agent
            .get_status(GetStatusRequest {})
            .await
            .unwrap()
            .into_inner()
            .status
            .unwrap();
        let names: Vec<_> = status.repositories.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["b"]);
    }
    assert_eq!(reason(get(&world, whole("a")).await), Reason::ObjectNotFound);
}
