//! Status, mode, health, and how an agent goes down.

use std::time::Duration;

use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::put::{put, whole};
use super::world::{World, reason};
use crate::engine;
use crate::engine::Reason;
use crate::service::proto::agent_client::AgentClient;
use crate::service::proto::{
    CheckHeadRequest, GetCapabilitiesRequest, GetStatusRequest, Mode, OperationKind, SetModeRequest, Status,
    WatchStatusRequest, WatchStatusResponse,
};

async fn status(world: &World) -> Status {
    let mut client = AgentClient::new(world.connect());
    client
        .get_status(GetStatusRequest {})
        .await
        .unwrap()
        .into_inner()
        .status
        .unwrap()
}

async fn set_read_only(world: &World, read_only: bool) -> Status {
    let mut client = AgentClient::new(world.connect());
    let set = client.set_mode(SetModeRequest { read_only }).await.unwrap();
    set.into_inner().status.unwrap()
}

/// The first status with this mode.
async fn seen(statuses: &mut Streaming<WatchStatusResponse>, mode: Mode) -> Status {
    loop {
        let message = timeout(Duration::from_secs(30), statuses.message()).await.unwrap();
        let status = message.unwrap().unwrap().status.unwrap();
        if status.mode() == mode {
            return status;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_says_the_same_on_both_sides() {
    let world = World::new("service status").await;
    put(&world, "a", &[1; 100_000]).await.unwrap();
    let message = status(&world).await;
    assert_eq!(message.mode(), Mode::Optimal);
    assert_eq!(message.repositories[0].key_id, "memory");
    let here = world.agent.store().status().await.unwrap();
    let there = engine::Status::try_from(message).unwrap();
    assert_eq!(there.repositories, here.repositories);
    assert_eq!(
        (there.boot_id, there.mode, there.causes),
        (here.boot_id, here.mode, here.causes)
    );
    assert_eq!(there.capacity.limit_bytes, here.capacity.limit_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_a_change_of_mode_and_the_end() {
    let world = World::new("service watch").await;
    let before = status(&world).await;
    let mut client = AgentClient::new(world.connect());
    let mut statuses = client.watch_status(WatchStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(seen(&mut statuses, Mode::Optimal).await.boot_id, before.boot_id);
    assert_eq!(set_read_only(&world, true).await.mode(), Mode::ReadOnly);
    let now = seen(&mut statuses, Mode::ReadOnly).await;
    assert!(now.sequence > before.sequence);
    assert!(!now.causes.is_empty());
    assert_eq!(reason(put(&world, "a", b"x").await), Reason::ReadOnly);
    set_read_only(&world, false).await;
    seen(&mut statuses, Mode::Optimal).await;
    put(&world, "a", b"x").await.unwrap();

    world.agent.shutting_down();
    assert_eq!(reason(statuses.message().await), Reason::ShuttingDown);
    assert_eq!(reason(world.data_path().get(whole("a")).await), Reason::ShuttingDown);
}

async fn health(client: &mut HealthClient<Channel>, service: &str) -> Result<ServingStatus, tonic::Status> {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    Ok(client.check(request).await?.into_inner().status())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_the_status_until_the_end() {
    let world = World::new("service health").await;
    let mut client = HealthClient::new(world.connect());
    let before = health(&mut client, "cairn.v1.DataPath").await.unwrap();
    assert_eq!(before, ServingStatus::NotServing, "nobody has looked at the store yet");
    let watched = HealthCheckRequest {
        service: "cairn.v1.DataPath".to_owned(),
    };
    let mut changes = client.watch(watched).await.unwrap().into_inner();
    assert_eq!(
        changes.message().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    status(&world).await;
    assert_eq!(
        changes.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    let names = ["", "cairn.v1.DataPath", "repository/default"];
    for name in names {
        assert_eq!(
            health(&mut client, name).await.unwrap(),
            ServingStatus::Serving,
            "{name}"
        );
    }
    let unknown = health(&mut client, "repository/nothing").await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
    world.agent.shutting_down();
    for name in names {
        assert_eq!(
            health(&mut client, name).await.unwrap(),
            ServingStatus::NotServing,
            "{name}"
        );
    }
    assert_eq!(
        changes.message().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    assert!(changes.message().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_seen_earlier_is_found_and_a_later_one_is_not() {
    let world = World::new("service heads").await;
    put(&world, "a", b"x").await.unwrap();
    let totals = status(&world).await.repositories[0].totals.clone().unwrap();
    let request = |log_number, head: &[u8]| CheckHeadRequest {
        repository: "default".to_owned(),
        log_number,
        head: head.to_vec().into(),
    };
    let mut client = AgentClient::new(world.connect());
    let found = client
        .check_head(request(totals.log_number, &totals.head))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((found.found, found.newest_log_number), (true, totals.log_number));
    let later = client.check_head(request(totals.log_number + 1, &totals.head)).await;
    assert_eq!(reason(later), Reason::RolledBack);
    let short = client.check_head(request(1, b"short")).await;
    assert_eq!(reason(short), Reason::InvalidArgument);
}

#[tokio::test]
async fn an_agent_says_what_it_can_do() {
    let world = World::new("service capabilities").await;
    let mut client = AgentClient::new(world.connect());
    let can = client
        .get_capabilities(GetCapabilitiesRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(can.operations.len(), 5);
    assert!(can.operations().any(|kind| kind == OperationKind::Scrub));
    assert_eq!(
        (can.max_frame_bytes, can.delete_names_max, can.list_page_max),
        (1 << 20, 1000, 10_000)
    );
    assert_eq!((can.key_provider.as_str(), can.budget_bytes), ("file", 64 << 20));
}
