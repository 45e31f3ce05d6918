//! Rates, quotas and the limit of the store, set while the agent runs.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::maintenance::{ended, start};
use super::put::{Put, bytes, data, finish, get, put, whole};
use super::world::{World, anyone, eventually, reason};
use crate::backend::{Class, Operation, Outcome};
use crate::engine::Reason;
use crate::service::errors;
use crate::service::proto::agent_client::AgentClient;
use crate::service::proto::start_request::Work;
use crate::service::proto::{
    DeleteRequest, GetLimitsRequest, GetShapingRequest, GetStatusRequest, Limits, Mode, OperationState, PutHeader,
    Quota, ReclaimWork, RepositoryLimit, ScrubDepth, ScrubWork, SetLimitsRequest, SetShapingRequest, Shaping,
    ShapingRate, put_request,
};

async fn set_shaping(world: &World, shaping: Shaping) -> Result<Shaping, tonic::Status> {
    let request = SetShapingRequest { shaping: Some(shaping) };
    let set = AgentClient::new(world.connect()).set_shaping(request).await?;
    Ok(set.into_inner().shaping.unwrap())
}

async fn set_limits(world: &World, request: SetLimitsRequest) -> Result<Limits, tonic::Status> {
    let set = AgentClient::new(world.connect()).set_limits(request).await?;
    Ok(set.into_inner().limits.unwrap())
}

async fn limits(world: &World) -> Limits {
    let got = AgentClient::new(world.connect()).get_limits(GetLimitsRequest {}).await;
    got.unwrap().into_inner().limits.unwrap()
}

fn quota(repository: &str, logical_bytes: Option<u64>) -> SetLimitsRequest {
    SetLimitsRequest {
        store_bytes: None,
        quotas: vec![RepositoryLimit {
            repository: repository.to_owned(),
            quota: Some(Quota {
                logical_bytes,
                stored_bytes: None,
            }),
        }],
    }
}

fn store_limit(bytes: u64) -> SetLimitsRequest {
    SetLimitsRequest {
        store_bytes: Some(bytes),
        quotas: Vec::new(),
    }
}

fn full_scrub() -> Work {
    Work::Scrub(ScrubWork {
        depth: ScrubDepth::Full.into(),
        ..ScrubWork::default()
    })
}

/// Requests that the storage answered, and those that passed by class.
fn requests(world: &World) -> (u64, [u64; 4]) {
    let store = world.agent.store();
    let counters = store.backend_counters();
    let all = Operation::ALL.iter().flat_map(|operation| {
        let outcomes = Outcome::ALL.iter();
        outcomes.map(|outcome| counters.requests(*operation, *outcome))
    });
    let passed = Class::ALL.map(|class| store.shaper().passed(class).requests.value());
    (all.sum(), passed)
}

/// What was asked of the storage meanwhile: all of it, and by class.
async fn asked(world: &World, work: Work) -> (u64, [u64; 4]) {
    let before = requests(world);
    let begun = start(world, work).await.unwrap();
    assert_eq!(ended(world, &begun.id).await.state(), OperationState::Done);
    let after = requests(world);
    let passed = std::array::from_fn(|class| after.1[class] - before.1[class]);
    (after.0 - before.0, passed)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_counted_in_the_class_of_its_work() {
    let world = World::new("service classes").await;
    put(&world, "a", &bytes(1, 20 << 20)).await.unwrap();
    put(&world, "b", b"small").await.unwrap();
    let (all, passed) = requests(&world);
    assert_eq!(passed, [all, 0, 0, 0]);

    let before = world.agent.store().shaper().passed(Class::Scrub).bytes.value();
    let (all, passed) = asked(&world, full_scrub()).await;
    assert!(all > 5);
    assert_eq!(passed, [0, 0, all, 0], "a scrub to depth full");
    let read = world.agent.store().shaper().passed(Class::Scrub).bytes.value() - before;
    assert!(read > 20 << 20, "{read}");
    let (all, passed) = asked(&world, Work::Scrub(ScrubWork::default())).await;
    assert_eq!(passed, [0, 0, all, 0], "a scrub without keys");

    let (all, passed) = asked(&world, Work::Reclaim(ReclaimWork::default())).await;
    assert!(all > 0);
    assert_eq!(passed, [0, all, 0, 0], "a reclaim that finds nothing");
    // Taking the repository for writing is waited for by everybody.
    world.agent.store().repository("default").await.unwrap().close().await;
    let (all, passed) = asked(&world, Work::Reclaim(ReclaimWork::default())).await;
    assert!(passed[0] > 0, "{passed:?}");
    assert_eq!(passed[0] + passed[1], all);

    let delete = DeleteRequest {
        names: vec!["a".to_owned()],
        ..DeleteRequest::default()
    };
    world.data_path().delete(delete).await.unwrap();
    let (all, passed) = asked(&world, Work::Reclaim(ReclaimWork::default())).await;
    assert!(
        passed[0] > 0 && passed[1] > 2,
        "commits and checkpoints are everybody's: {passed:?}"
    );
    assert_eq!(passed[0] + passed[1], all);
    get(&world, whole("b")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_holds_for_what_waits_already() {
    let world = World::new("service shaping").await;
    put(&world, "a", &bytes(1, 12 << 20)).await.unwrap();
    let slow = ShapingRate {
        bytes: 65_536,
        requests: 0,
    };
    let shaping = Shaping {
        scrub: Some(slow),
        ..Shaping::default()
    };
    let now = set_shaping(&world, shaping).await.unwrap();
    assert_eq!(now.scrub, Some(slow));
    assert_eq!(now.foreground, Some(ShapingRate::default()));
    let mut client = AgentClient::new(world.connect());
    let got = client.get_shaping(GetShapingRequest {}).await.unwrap().into_inner();
    assert_eq!(got.shaping, Some(now));

    // At this rate it takes three minutes.
    let scrub = start(&world, full_scrub()).await.unwrap();
    let passed = || world.agent.store().shaper().passed(Class::Scrub);
    eventually(|| passed().requests.value() > 0).await;
    // Others do not wait for it.
    timeout(Duration::from_secs(30), put(&world, "b", &bytes(2, 4 << 20)))
        .await
        .expect("another class")
        .unwrap();
    let unlimited = Shaping {
        scrub: Some(ShapingRate::default()),
        ..Shaping::default()
    };
    set_shaping(&world, unlimited).await.unwrap();
    let ended = timeout(Duration::from_secs(60), ended(&world, &scrub.id))
        .await
        .expect("it is let go");
    assert_eq!(ended.state(), OperationState::Done);
    assert!(passed().waited() > Duration::ZERO);

    let hopeless = Shaping {
        reclaim: Some(ShapingRate { bytes: 1, requests: 0 }),
        scrub: Some(slow),
        ..Shaping::default()
    };
    assert_eq!(reason(set_shaping(&world, hopeless).await), Reason::InvalidArgument);
    let got = client.get_shaping(GetShapingRequest {}).await.unwrap().into_inner();
    assert_eq!(
        got.shaping.unwrap().scrub,
        Some(ShapingRate::default()),
        "nothing was set"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_set_told_and_kept() {
    let world = World::new("service quota").await;
    let set = set_limits(&world, quota("default", Some(1 << 20))).await.unwrap();
    assert_eq!(set, limits(&world).await);
    assert_eq!(set.quotas.len(), 1);
    put(&world, "a", &bytes(1, 1 << 19)).await.unwrap();
    let refused = put(&world, "b", &bytes(2, 1 << 20)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    let error = errors::error(&refused);
    assert_eq!(error.reason(), Reason::QuotaExceeded);
    for part in ["\"default\"", "1048576", "524288 are used", "in flight"] {
        assert!(error.to_string().contains(part), "{error}");
    }

    // Of one that says how long it is nothing is sent.
    let header = |expected_bytes| {
        put_request::Part::Header(PutHeader {
            name: "b".to_owned(),
            expected_bytes: Some(expected_bytes),
            ..PutHeader::default()
        })
    };
    let mut long = Put::begin(&world).await;
    long.send(header((1 << 19) + 1)).await;
    assert_eq!(reason(long.answer().await), Reason::QuotaExceeded);
    let mut fitting = Put::begin(&world).await;
    fitting.send(header(1 << 19)).await;
    fitting.accepted().await;
    let mut client = AgentClient::new(world.connect());
    let status = client
        .get_status(GetStatusRequest {})
        .await
        .unwrap()
        .into_inner()
        .status
        .unwrap();
    let shown = &status.repositories[0];
    assert_eq!(shown.quota.unwrap().logical_bytes, Some(1 << 20));
    assert_eq!(shown.totals.as_ref().unwrap().in_flight_bytes, 1 << 19);
    fitting.send(data(Bytes::from(vec![7; 1000]))).await;
    fitting.send(finish()).await;
    fitting.answer().await.unwrap();

    assert_eq!(
        reason(set_limits(&world, quota("No Name", Some(1))).await),
        Reason::InvalidName
    );
    let mut both = quota("other", Some(5));
    both.quotas.extend(quota("default", None).quotas);
    let set = set_limits(&world, both).await.unwrap();
    assert_eq!(set.quotas.len(), 1, "one set, one taken away");
    put(&world, "c", &bytes(3, 2 << 20)).await.unwrap();
}

#[tokio::test]
async fn a_caller_sees_and_sets_quotas_of_its_repositories_only() {
    let world = World::new("service quota callers").await;
    set_limits(&world, quota("default", Some(1 << 20))).await.unwrap();
    let mut caller = anyone();
    caller.grants.repositories = Some(["mine".to_owned()].into());
    let mut client = AgentClient::new(world.connect_as(Some(caller)));
    let refused = client.set_limits(quota("default", Some(1))).await;
    assert_eq!(reason(refused), Reason::PermissionDenied);
    client.set_limits(quota("mine", Some(1))).await.unwrap();
    let seen = client.get_limits(GetLimitsRequest {}).await.unwrap().into_inner();
    let names: Vec<_> = seen
        .limits
        .unwrap()
        .quotas
        .into_iter()
        .map(|quota| quota.repository)
        .collect();
    assert_eq!(names, ["mine"]);
    assert_eq!(limits(&world).await.quotas.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_the_store_is_set_told_and_kept() {
    let world = World::new("service store limit").await;
    put(&world, "a", &bytes(1, 3 << 20)).await.unwrap();
    assert_eq!(
        reason(set_limits(&world, store_limit(1000)).await),
        Reason::InvalidArgument
    );
    let set = set_limits(&world, store_limit(3 << 20)).await.unwrap();
    assert_eq!(set.store_bytes, Some(3 << 20));
    assert_eq!(reason(put(&world, "b", b"x").await), Reason::NoCapacity);
    let mut client = AgentClient::new(world.connect());
    let status = client
        .get_status(GetStatusRequest {})
        .await
        .unwrap()
        .into_inner()
        .status
        .unwrap();
    assert_eq!(
        (status.mode(), status.causes[0].code.as_str()),
        (Mode::NoCapacity, "LIMIT")
    );
    let capacity = status.capacity.unwrap();
    assert_eq!((capacity.limit_bytes, capacity.free_bytes), (Some(3 << 20), Some(0)));
    set_limits(&world, store_limit(0)).await.unwrap();
    put(&world, "b", b"x").await.unwrap();
    assert_eq!(limits(&world).await.store_bytes, None);
}
