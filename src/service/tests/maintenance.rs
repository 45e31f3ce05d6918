//! Long work: begun, watched, listed, cancelled.

use super::put::{bytes, put};
use super::world::{World, reason};
use crate::engine::Reason;
use crate::service::proto::maintenance_client::MaintenanceClient;
use crate::service::proto::operation::Report;
use crate::service::proto::start_request::Work;
use crate::service::proto::{
    CancelRequest, DeleteRequest, MaintenanceListRequest, Operation, OperationState, RebuildWork, ReclaimWork,
    ResealWork, StartRequest, WatchRequest,
};

pub(super) async fn start(world: &World, work: Work) -> Result<Operation, tonic::Status> {
    let request = StartRequest {
        work: Some(work),
        ..StartRequest::default()
    };
    let mut client = MaintenanceClient::new(world.connect());
    Ok(client.start(request).await?.into_inner().operation.unwrap())
}

/// How an operation ended, as its watcher saw it.
pub(super) async fn ended(world: &World, id: &str) -> Operation {
    let request = WatchRequest {
        operation_id: id.to_owned(),
    };
    let mut client = MaintenanceClient::new(world.connect());
    let mut updates = client.watch(request).await.unwrap().into_inner();
    let mut last = None;
    while let Some(update) = updates.message().await.unwrap() {
        last = update.operation;
    }
    last.expect("a watcher is told the state at once")
}

#[tokio::test(flavor = "multi_thread")]
async fn reclaim_and_rebuild_run_and_report() {
    let world = World::new("service maintenance").await;
    put(&world, "a", &bytes(1, 8 << 20)).await.unwrap();
    put(&world, "b", b"kept").await.unwrap();
    let delete = DeleteRequest {
        names: vec!["a".to_owned()],
        ..DeleteRequest::default()
    };
    world.data_path().delete(delete).await.unwrap();

    let reclaim = Work::Reclaim(ReclaimWork::default());
    let begun = start(&world, reclaim).await.unwrap();
    assert!(begun.started.is_some());
    let reclaimed = ended(&world, &begun.id).await;
    assert_eq!(reclaimed.state(), OperationState::Done);
    assert!(matches!(reclaimed.report, Some(Report::Reclaim(report)) if report.freed_bytes > 7 << 20));

    let rebuild = start(&world, Work::Rebuild(RebuildWork {})).await.unwrap();
    let rebuilt = ended(&world, &rebuild.id).await;
    assert!(matches!(rebuilt.report, Some(Report::Rebuild(report)) if report.objects == 1));
    assert!(rebuilt.ended.is_some());

    let mut client = MaintenanceClient::new(world.connect());
    let listed = client
        .list(MaintenanceListRequest {})
        .await
        .unwrap()
        .into_inner()
        .operations;
    assert_eq!(listed, [rebuilt.clone(), reclaimed], "newest first");
    let cancel = CancelRequest {
        operation_id: rebuilt.id.clone(),
    };
    let cancelled = client.cancel(cancel).await.unwrap().into_inner().operation;
    assert_eq!(cancelled, Some(rebuilt), "what has ended stays as it is");
    world.agent.close().await;
}

#[tokio::test]
async fn what_this_version_does_not_run_is_said() {
    let world = World::new("service unsupported").await;
    let reseal = start(&world, Work::Reseal(ResealWork {})).await;
    assert_eq!(reason(reseal), Reason::Unsupported);
    let mut client = MaintenanceClient::new(world.connect());
    assert_eq!(
        reason(client.start(StartRequest::default()).await),
        Reason::InvalidArgument
    );
    let watch = WatchRequest {
        operation_id: "none".to_owned(),
    };
    assert_eq!(reason(client.watch(watch).await.map(drop)), Reason::OperationNotFound);
    assert_eq!(
        reason(client.cancel(CancelRequest::default()).await),
        Reason::OperationNotFound
    );
}
