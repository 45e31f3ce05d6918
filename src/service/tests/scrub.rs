//! Scrubs as operations: begun, told of, ended early by whoever may, gone on with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

use super::keys::{create_default, keyless, load, unload};
use super::maintenance::{ended, start};
use super::put::{Put, bytes, data, finish, get, header, put, whole};
use super::world::{World, anyone, reason};
use crate::backend::{Backend, Location};
use crate::engine::{NewRepository, Reason, Store, StoreOptions};
use crate::service::AgentSettings;
use crate::service::proto::data_path_client::DataPathClient;
use crate::service::proto::maintenance_client::MaintenanceClient;
use crate::service::proto::operation::Report;
use crate::service::proto::repositories_client::RepositoriesClient;
use crate::service::proto::start_request::Work;
use crate::service::proto::{
    CancelRequest, CreateRequest, DeleteRequest, ListDamagedRequest, MaintenanceListRequest, Operation, OperationState,
    ReclaimWork, RepositoriesDeleteRequest, ScrubDepth, ScrubRemedy, ScrubReport, ScrubWork, StartRequest,
    WatchRequest, put_response,
};

/// A rate at which nothing is ever read: the least that there is to read takes minutes.
pub(super) const STANDING: u64 = 1;

pub(super) fn full() -> ScrubWork {
    ScrubWork {
        depth: ScrubDepth::Full.into(),
        ..ScrubWork::default()
    }
}

fn standing() -> ScrubWork {
    ScrubWork {
        rate_bytes: STANDING,
        ..full()
    }
}

async fn begun(world: &World, work: ScrubWork) -> Result<Operation, tonic::Status> {
    start(world, Work::Scrub(work)).await
}

pub(super) async fn done(world: &World, work: ScrubWork) -> ScrubReport {
    let operation = begun(world, work).await.unwrap();
    let ended = ended(world, &operation.id).await;
    assert_eq!(ended.state(), OperationState::Done, "{ended:?}");
    report(ended)
}

pub(super) fn report(operation: Operation) -> ScrubReport {
    match operation.report {
        Some(Report::Scrub(report)) => report,
        other => panic!("no report of a scrub: {other:?}"),
    }
}

async fn cancel(world: &World, id: &str) -> Operation {
    let request = CancelRequest {
        operation_id: id.to_owned(),
    };
    let mut client = MaintenanceClient::new(world.connect());
    client.cancel(request).await.unwrap();
    ended(world, id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_of_each_depth_tells_what_it_read() {
    let world = World::new("service scrub").await;
    put(&world, "a", &bytes(1, 2 << 20)).await.unwrap();
    put(&world, "b", b"small").await.unwrap();
    let full = done(&world, full()).await;
    assert!(full.sound && full.damage.is_empty() && !full.lists_truncated);
    assert!(
        full.bytes_read > 2 << 20 && full.packs > 1 && full.blobs > 2,
        "{full:?}"
    );
    assert!(full.cursor.is_empty() && full.stored_objects > full.packs);
    let structure = ScrubWork {
        depth: ScrubDepth::Structure.into(),
        ..ScrubWork::default()
    };
    let structure = done(&world, structure).await;
    assert_eq!(structure.packs, full.packs);
    assert!(structure.sound && structure.bytes_read < full.bytes_read / 4);
    // A depth that is not named is the one that needs no key.
    let bytes = done(&world, ScrubWork::default()).await;
    assert_eq!((bytes.depth(), bytes.sound), (ScrubDepth::Bytes, true));
    let all = ScrubWork {
        all_repositories: true,
        ..ScrubWork::default()
    };
    let operation = begun(&world, all).await.unwrap();
    assert_eq!(operation.repository_id, "");
    assert_eq!(
        report(ended(&world, &operation.id).await).stored_objects,
        bytes.stored_objects + 1,
        "the description of the store belongs to no repository"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_goes_on_where_one_before_it_ended() {
    let world = World::new("service scrub slices").await;
    for seed in 0..4 {
        put(&world, &format!("o{seed}"), &bytes(seed, 300_000)).await.unwrap();
    }
    let whole = done(&world, full()).await;
    let (mut slices, mut packs, mut cursor) = (0, 0, String::new());
    loop {
        let slice = ScrubWork {
            limit_bytes: 1,
            cursor: cursor.clone(),
            ..full()
        };
        let slice = done(&world, slice).await;
        packs += slice.packs;
        slices += 1;
        assert_ne!(slice.cursor, cursor, "it got nowhere");
        cursor = slice.cursor;
        if cursor.is_empty() {
            break;
        }
    }
    assert_eq!(packs, whole.packs);
    assert!(slices > packs, "{slices} slices for {packs} packs");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cancelled_keeps_what_it_found_and_where_it_was() {
    let world = World::new("service scrub cancelled").await;
    put(&world, "a", &bytes(1, 300_000)).await.unwrap();
    let slice = ScrubWork {
        limit_bytes: 1,
        ..full()
    };
    let cursor = done(&world, slice).await.cursor;
    let rest = ScrubWork {
        cursor: cursor.clone(),
        ..standing()
    };
    let operation = begun(&world, rest).await.unwrap();
    assert_eq!(operation.state(), OperationState::Running);
    let cancelled = cancel(&world, &operation.id).await;
    assert_eq!(cancelled.state(), OperationState::Cancelled);
    let progress = cancelled.progress.clone().unwrap();
    assert_eq!((&progress.cursor, progress.damage_count), (&cursor, 0));
    let found = report(cancelled);
    assert_eq!((&found.cursor, found.depth()), (&cursor, ScrubDepth::Full));
    let rest = ScrubWork {
        cursor: found.cursor,
        ..full()
    };
    assert!(done(&world, rest).await.cursor.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_scrub_of_a_repository_at_a_time() {
    let world = World::new("service scrub twice").await;
    put(&world, "a", b"something").await.unwrap();
    let other = CreateRequest {
        name: "other".to_owned(),
        ..CreateRequest::default()
    };
    RepositoriesClient::new(world.connect()).create(other).await.unwrap();
    let first = begun(&world, standing()).await.unwrap();
    let refused = begun(&world, full()).await.unwrap_err();
    assert!(refused.message().contains(&first.id), "{refused:?}");
    assert_eq!(reason::<()>(Err(refused)), Reason::LimitExceeded);
    let elsewhere = StartRequest {
        repository: "other".to_owned(),
        work: Some(Work::Scrub(standing())),
    };
    let mut client = MaintenanceClient::new(world.connect());
    client.start(elsewhere).await.unwrap();
    cancel(&world, &first.id).await;
    assert!(done(&world, full()).await.sound);
    world.agent.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_neither_holds_up_others_nor_waits_for_them() {
    let world = World::new("service scrub beside").await;
    put(&world, "a", &bytes(1, 300_000)).await.unwrap();
    let scrub = begun(&world, standing()).await.unwrap();
    // Everything else goes on beside a scrub that stands.
    put(&world, "b", &bytes(2, 300_000)).await.unwrap();
    assert_eq!(get(&world, whole("a")).await.unwrap().0, bytes(1, 300_000));
    let delete = DeleteRequest {
        names: vec!["a".to_owned()],
        ..DeleteRequest::default()
    };
    world.data_path().delete(delete).await.unwrap();
    let reclaim = start(&world, Work::Reclaim(ReclaimWork::default())).await.unwrap();
    assert_eq!(ended(&world, &reclaim.id).await.state(), OperationState::Done);
    assert_eq!(cancel(&world, &scrub.id).await.state(), OperationState::Cancelled);
    // And a scrub comes to its end beside a put that stands.
    let mut half = Put::begin(&world).await;
    half.send(header("c")).await;
    half.accepted().await;
    half.send(data(bytes(3, 300_000))).await;
    assert!(done(&world, full()).await.sound);
    half.send(finish()).await;
    while !matches!(half.answer().await.unwrap(), put_response::Part::Result(_)) {}
    assert_eq!(get(&world, whole("c")).await.unwrap().0, bytes(3, 300_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_read_than_the_rate_allows_and_watchers_are_told() {
    const RATE: u64 = 300_000;
    let world = World::new("service scrub rate").await;
    put(&world, "a", &bytes(1, 600_000)).await.unwrap();
    let work = ScrubWork {
        rate_bytes: RATE,
        ..full()
    };
    let since = Instant::now();
    let operation = begun(&world, work).await.unwrap();
    let request = WatchRequest {
        operation_id: operation.id,
    };
    let mut client = MaintenanceClient::new(world.connect());
    let mut updates = client.watch(request).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(update) = updates.message().await.unwrap() {
        told.push(update.operation.unwrap());
        let bytes = told
            .last()
            .unwrap()
            .progress
            .as_ref()
            .map_or(0, |progress| progress.bytes_done);
        // A read is counted when the time it costs has passed.
        let allowed = since.elapsed().as_secs_f64() * RATE as f64;
        assert!(bytes as f64 <= allowed, "{bytes} bytes read, {allowed} allowed");
    }
    let seconds = since.elapsed().as_secs() as usize;
    assert!(
        told.len() <= seconds + 4,
        "{} messages in {seconds} seconds",
        told.len()
    );
    let progress: Vec<_> = told.iter().filter_map(|state| state.progress.clone()).collect();
    assert!(progress.is_sorted_by_key(|progress| progress.bytes_done));
    let last = progress.last().unwrap();
    assert!(last.cursor.is_empty() && last.bytes_expected > 600_000);
    assert!(
        progress.iter().any(|then| then.bytes_done < last.bytes_done),
        "only the end was told"
    );
    assert_eq!(last.bytes_done, report(told.pop().unwrap()).bytes_read);
}

#[tokio::test(flavor = "multi_thread")]
async fn going_down_cancels_a_scrub_at_once() {
    let world = World::new("service scrub down").await;
    put(&world, "a", b"something").await.unwrap();
    let scrub = begun(&world, standing()).await.unwrap();
    let closing = tokio::time::timeout(Duration::from_secs(20), world.agent.close());
    closing.await.expect("a scrub is not waited for");
    let operation = world.agent.operations().find(&scrub.id).unwrap();
    assert_eq!(operation.now().state(), OperationState::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_removed_takes_its_scrub_with_it() {
    let world = World::new("service scrub removed").await;
    put(&world, "a", b"something").await.unwrap();
    let scrub = begun(&world, standing()).await.unwrap();
    let mut client = RepositoriesClient::new(world.connect());
    let remove = |confirm: &str| RepositoriesDeleteRequest {
        repository: "default".to_owned(),
        confirm: confirm.to_owned(),
    };
    assert_eq!(reason(client.delete(remove("default")).await), Reason::InvalidArgument);
    let operation = world.agent.operations().find(&scrub.id).unwrap();
    assert_eq!(operation.now().state(), OperationState::Running);
    client.delete(remove(&scrub.repository_id)).await.unwrap();
    let cancelled = operation.now();
    assert_eq!(cancelled.state(), OperationState::Cancelled);
    assert!(report(cancelled).sound, "what went away is no damage");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_ends_with_its_key_but_depth_bytes_needs_none() {
    let world = keyless("service scrub keys").await;
    load(&world, "k1", &[1; 32]).await.unwrap();
    create_default(&world).await.unwrap();
    put(&world, "a", b"something").await.unwrap();
    let scrub = begun(&world, standing()).await.unwrap();
    assert!(unload(&world, "k1").await);
    let failed = ended(&world, &scrub.id).await;
    assert_eq!(
        (failed.state(), failed.reason.as_str()),
        (OperationState::Failed, "KEYS_UNAVAILABLE")
    );
    assert_eq!(report(failed).depth(), ScrubDepth::Full);
    assert_eq!(reason(begun(&world, full()).await), Reason::KeysUnavailable);
    assert!(done(&world, ScrubWork::default()).await.sound);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_it_begins() {
    let world = World::new("service scrub nonsense").await;
    for wrong in [
        ScrubWork {
            cursor: "somewhere".to_owned(),
            ..full()
        },
        ScrubWork {
            cursor: "1 structure tables".to_owned(),
            ..full()
        },
        ScrubWork {
            depth: 77,
            ..ScrubWork::default()
        },
        ScrubWork {
            all_repositories: true,
            ..full()
        },
    ] {
        assert_eq!(
            reason(begun(&world, wrong.clone()).await),
            Reason::InvalidArgument,
            "{wrong:?}"
        );
    }
    let mut caller = anyone();
    caller.grants.repositories = Some(vec!["default".to_owned()]);
    let all = ScrubWork {
        all_repositories: true,
        ..ScrubWork::default()
    };
    let request = StartRequest {
        repository: "default".to_owned(),
        work: Some(Work::Scrub(all.clone())),
    };
    let mut client = MaintenanceClient::new(world.connect_as(Some(caller)));
    assert_eq!(reason(client.start(request).await), Reason::PermissionDenied);
    // Nor does such a caller hear of one.
    let seen = begun(&world, all).await.unwrap();
    let watch = WatchRequest { operation_id: seen.id };
    assert_eq!(reason(client.watch(watch).await.map(drop)), Reason::OperationNotFound);
    let listed = client.list(MaintenanceListRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.operations, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_told_in_the_report_and_listed_by_pages() {
    let files = Arc::new(InMemory::new());
    let backend = Backend::with_object_store(files.clone(), Location::Memory("service scrub damage".to_owned()));
    let options = StoreOptions::in_memory("service scrub damage").unwrap();
    let store = Store::open_on(options, backend, NewRepository::named("default").unwrap());
    let world = World::over(store.await.unwrap(), AgentSettings::default());
    for number in 0..5 {
        let name = format!("o{number}");
        put(&world, &name, &bytes(number, 20_000)).await.unwrap();
    }
    let packs: Vec<_> = files.list(None).try_collect().await.unwrap();
    for pack in packs.iter().filter(|file| file.size > 20_000).take(3) {
        let mut damaged = Vec::from(files.get(&pack.location).await.unwrap().bytes().await.unwrap());
        damaged[10_000] ^= 1;
        files.put(&pack.location, damaged.into()).await.unwrap();
    }
    let found = done(&world, full()).await;
    assert_eq!(
        (found.damage_count, found.objects_count, found.sound),
        (3, 3, false),
        "{found:?}"
    );
    assert_eq!((found.damage.len(), found.objects.len()), (3, 3));
    assert!(
        found
            .damage
            .iter()
            .all(|damage| damage.remedy() == ScrubRemedy::Quarantined)
    );
    let mut client = MaintenanceClient::new(world.connect());
    let listed = client
        .list(MaintenanceListRequest {})
        .await
        .unwrap()
        .into_inner()
        .operations;
    let outline = report(listed[0].clone());
    assert_eq!(outline.damage_count, found.damage_count);
    assert!(outline.damage.is_empty() && outline.objects.is_empty() && outline.lists_truncated);

    let mut client = DataPathClient::new(world.connect());
    let mut objects = Vec::new();
    let mut request = ListDamagedRequest {
        page_size: 1,
        ..ListDamagedRequest::default()
    };
    loop {
        let page = client.list_damaged(request.clone()).await.unwrap().into_inner();
        assert!(page.objects.len() <= 1);
        objects.extend(page.objects);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(objects, found.objects);
    let one = ListDamagedRequest {
        prefix: objects[0].name.clone(),
        ..ListDamagedRequest::default()
    };
    let one = client.list_damaged(one).await.unwrap().into_inner();
    assert_eq!(one.objects, objects[..1]);
    let wrong = ListDamagedRequest {
        page_size: 10_001,
        ..ListDamagedRequest::default()
    };
    assert_eq!(reason(client.list_damaged(wrong).await), Reason::InvalidArgument);
}
