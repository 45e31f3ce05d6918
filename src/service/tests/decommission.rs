//! Repositories that are moved away and removed, through the service.

use super::maintenance::{ended, start};
use super::put::{bytes, put};
use super::world::{World, anyone, reason};
use crate::engine::{DeletionPolicy, NewRepository, Reason, Store, StoreOptions};
use crate::service::proto::maintenance_client::MaintenanceClient;
use crate::service::proto::operation::Report;
use crate::service::proto::repositories_client::RepositoriesClient;
use crate::service::proto::start_request::Work;
use crate::service::proto::{
    EvacuateWork, OperationKind, OperationState, RepositoriesDeleteRequest, StartRequest, WipeWork,
};
use crate::service::{Caller, Transport};

fn evacuate(to: &str, all_repositories: bool) -> Work {
    Work::Evacuate(EvacuateWork {
        to: to.to_owned(),
        all_repositories,
    })
}

async fn id(world: &World) -> String {
    world.agent.store().repositories().await[0].id.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_moved_and_then_wiped() {
    let world = World::new("service evacuate").await;
    put(&world, "a", &bytes(1, 8 << 20)).await.unwrap();
    let id = id(&world).await;
    let begun = start(&world, evacuate("memory://service-evacuated", true))
        .await
        .unwrap();
    assert_eq!(
        (begun.kind(), begun.repository_id.as_str()),
        (OperationKind::Evacuate, "")
    );
    let moved = ended(&world, &begun.id).await;
    let Some(Report::Evacuate(report)) = moved.report else {
        panic!("{moved:?}")
    };
    assert!(report.complete && report.bytes_copied > 7 << 20, "{report:?}");
    assert_eq!(report.repository_ids, [id.as_str()]);
    let progress = moved.progress.unwrap();
    assert_eq!(progress.bytes_done, progress.bytes_expected);
    assert_eq!(
        (progress.objects_done, progress.objects_expected),
        (report.packs_copied, report.packs_copied)
    );
    assert_eq!(reason(put(&world, "b", b"late").await), Reason::ReadOnly);

    let wrong = start(
        &world,
        Work::Wipe(WipeWork {
            confirm: "yes".to_owned(),
        }),
    )
    .await;
    assert_eq!(reason(wrong), Reason::InvalidArgument);
    let begun = start(&world, Work::Wipe(WipeWork { confirm: id.clone() }))
        .await
        .unwrap();
    let wiped = ended(&world, &begun.id).await;
    let Some(Report::Wipe(report)) = wiped.report else {
        panic!("{wiped:?}")
    };
    assert!(
        report.objects_removed > 4 && report.bytes_removed > 7 << 20,
        "{report:?}"
    );
    assert!(world.agent.store().repositories().await.is_empty());
    let again = start(&world, Work::Wipe(WipeWork { confirm: id })).await;
    assert_eq!(reason(again), Reason::RepositoryNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_fails_says_so_and_lets_writes_go_on() {
    let world = World::new("service evacuate fails").await;
    put(&world, "a", b"text").await.unwrap();
    let itself = world.agent.store().backend().location().to_string();
    let begun = start(&world, evacuate(&itself, false)).await.unwrap();
    let failed = ended(&world, &begun.id).await;
    assert_eq!(
        (failed.state(), failed.reason.as_str()),
        (OperationState::Failed, "INVALID_ARGUMENT")
    );
    put(&world, "b", b"text").await.unwrap();
    let nowhere = start(&world, evacuate("nowhere://x", false)).await;
    assert_eq!(reason(nowhere), Reason::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_name_all_moves_not_all_and_nobody_wipes_in_clear() {
    let world = World::new("service evacuate grants").await;
    let start_as = async |caller: Caller, work: Work| {
        let mut client = MaintenanceClient::new(world.connect_as(Some(caller)));
        let request = StartRequest {
            work: Some(work),
            ..StartRequest::default()
        };
        client.start(request).await.map(drop)
    };
    let mut limited = anyone();
    limited.grants.repositories = Some(vec!["default".to_owned()]);
    let refused = start_as(limited, evacuate("memory://somewhere", true)).await;
    assert_eq!(reason(refused), Reason::PermissionDenied);
    let mut in_clear = anyone();
    in_clear.transport = Transport::Plaintext;
    let wipe = Work::Wipe(WipeWork {
        confirm: id(&world).await,
    });
    assert_eq!(reason(start_as(in_clear, wipe).await), Reason::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_retains_removes_nothing_for_anybody() {
    let mut options = StoreOptions::in_memory("service retain").unwrap();
    options.options.deletion_policy = DeletionPolicy::Retain;
    let store = Store::open_or_create(options, NewRepository::named("default").unwrap())
        .await
        .unwrap();
    let world = World::over(store, Default::default());
    put(&world, "a", b"text").await.unwrap();
    let confirm = id(&world).await;
    let wipe = start(
        &world,
        Work::Wipe(WipeWork {
            confirm: confirm.clone(),
        }),
    )
    .await;
    assert_eq!(reason(wipe), Reason::Retained);
    let request = RepositoriesDeleteRequest {
        repository: String::new(),
        confirm,
    };
    let delete = RepositoriesClient::new(world.connect()).delete(request).await;
    assert_eq!(reason(delete), Reason::Retained);
    put(&world, "b", b"text").await.unwrap();
}
