//! What an agent begins by itself.

use std::time::Duration;

use super::maintenance::ended;
use super::put::{bytes, put};
use super::scrub::{STANDING, done, full, report};
use super::world::{World, eventually};
use crate::config::serve::Scrubs;
use crate::engine::{Depth, Precondition};
use crate::service::AgentSettings;
use crate::service::proto::maintenance_client::MaintenanceClient;
use crate::service::proto::operation::Report;
use crate::service::proto::{MaintenanceListRequest, Operation, OperationKind, OperationState, ScrubWork};

/// An agent that scrubs by itself at this rate, with one repository.
async fn scrubbing(name: &str, rate_bytes: u64) -> World {
    let settings = AgentSettings {
        scrubs: Scrubs {
            full_every: Some(Duration::from_secs(3600)),
            rate_bytes: rate_bytes.try_into().unwrap(),
            ..Scrubs::default()
        },
        ..AgentSettings::default()
    };
    World::with(name, settings).await
}

/// Leaves a scrub to depth full of some objects unfinished, as a restart would; where it was.
async fn leave_unfinished(world: &World) -> String {
    for seed in 0..3 {
        put(world, &format!("o{seed}"), &bytes(seed, 300_000)).await.unwrap();
    }
    let slice = ScrubWork {
        limit_bytes: 1,
        ..full()
    };
    let cursor = done(world, slice).await.cursor;
    let repository = world.agent.store().repository("default").await.unwrap();
    repository
        .remember_scrub(Depth::Full, Some(&cursor.parse().unwrap()))
        .unwrap();
    cursor
}

async fn newest(world: &World) -> Operation {
    let mut client = MaintenanceClient::new(world.connect());
    let listed = client.list(MaintenanceListRequest {}).await.unwrap().into_inner();
    listed.operations[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_that_is_due_goes_on_where_it_was_and_is_not_due_again() {
    let world = scrubbing("service scrub due", 1 << 30).await;
    leave_unfinished(&world).await;
    let repository = world.agent.store().repository("default").await.unwrap();
    let history = || world.agent.store().scrub_history(repository.id(), Depth::Full).unwrap();
    let keeping = tokio::spawn(world.agent.clone().keep_scrubbing());
    eventually(|| history().completed_ms.is_some()).await;
    let operation = newest(&world).await;
    let rest = report(ended(&world, &operation.id).await);
    assert_eq!(history().next, None);
    assert!(rest.sound && rest.cursor.is_empty());
    let whole = done(&world, full()).await;
    assert!(rest.packs < whole.packs, "it began anew");
    // Another look finds nothing to do.
    keeping.abort();
    let by_then = newest(&world).await.id;
    let looking = tokio::spawn(world.agent.clone().keep_scrubbing());
    tokio::time::timeout(Duration::from_millis(200), looking)
        .await
        .unwrap_err();
    assert_eq!(newest(&world).await.id, by_then);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_that_was_due_is_cancelled_with_the_agent_and_remembered() {
    let world = scrubbing("service scrub due, down", STANDING).await;
    let cursor = leave_unfinished(&world).await;
    let repository = world.agent.store().repository("default").await.unwrap();
    tokio::spawn(world.agent.clone().keep_scrubbing());
    let running = || world.agent.store().counters().scrubs.running(Depth::Full);
    eventually(|| running() == 1).await;
    // Forgotten, it has to be remembered anew.
    repository.remember_scrub(Depth::Full, None).unwrap();
    world.agent.close().await;
    let history = world.agent.store().scrub_history(repository.id(), Depth::Full).unwrap();
    assert_eq!(history.next.unwrap().to_string(), cursor);
    assert_eq!(running(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn space_of_deleted_objects_comes_back_without_being_asked_for() {
    let world = World::with("service reclaim due", AgentSettings::default()).await;
    for seed in 0..3 {
        put(&world, &format!("o{seed}"), &bytes(seed, 3 << 20)).await.unwrap();
    }
    let repository = world.agent.store().repository("default").await.unwrap();
    let stored = || repository.status().unwrap().stored_bytes;
    let before = stored();
    for name in ["o0", "o2"] {
        assert!(repository.delete(name, Precondition::None).await.unwrap());
    }
    let keeping = tokio::spawn(world.agent.clone().keep_reclaiming());
    eventually(|| stored() < before / 2).await;
    let operation = newest(&world).await;
    let ended = ended(&world, &operation.id).await;
    assert_eq!(
        (ended.kind(), ended.state()),
        (OperationKind::Reclaim, OperationState::Done)
    );
    assert!(matches!(ended.report, Some(Report::Reclaim(report)) if report.freed_bytes > 5 << 20));
    keeping.abort();
    // Another look finds nothing to do.
    let looking = tokio::spawn(world.agent.clone().keep_reclaiming());
    tokio::time::timeout(Duration::from_millis(200), looking)
        .await
        .unwrap_err();
    assert_eq!(newest(&world).await.id, operation.id);
}
