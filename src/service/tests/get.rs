//! Parts of objects, and readers that misbehave.

use super::put::{bytes, get, put, whole};
use super::world::{World, eventually, impatient, reason};
use crate::engine::Reason;
use crate::service::convert;
use crate::service::proto::byte_range::{Range, Span};
use crate::service::proto::{ByteRange, GetRequest, get_response};

fn part(range: Range) -> GetRequest {
    GetRequest {
        range: Some(ByteRange { range: Some(range) }),
        ..whole("a")
    }
}

fn span(offset: u64, length: u64) -> GetRequest {
    part(Range::Span(Span { offset, length }))
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_exact_or_refused() {
    let world = World::new("service ranges").await;
    let content = bytes(1, 3 << 20);
    put(&world, "a", &content).await.unwrap();
    let len = content.len();
    let cases = [
        (span(0, 0), 0..len),
        (span(0, 1), 0..1),
        (span(1_000_000, 0), 1_000_000..len),
        (span(5, 2_000_000), 5..2_000_005),
        (part(Range::LastBytes(17)), len - 17..len),
        (part(Range::LastBytes(len as u64)), 0..len),
    ];
    for (request, range) in cases {
        let (back, end) = get(&world, request).await.unwrap();
        assert!(back == content[range.clone()], "{range:?}");
        assert!(end.is_some());
    }
    let outside = [
        span(len as u64, 0),
        span(1, len as u64),
        span(u64::MAX, 2),
        part(Range::LastBytes(0)),
        part(Range::LastBytes(len as u64 + 1)),
    ];
    for request in outside {
        assert_eq!(reason(get(&world, request).await), Reason::InvalidRange);
    }
}

#[test]
fn ranges_mean_the_same_on_both_sides() {
    use crate::engine::ByteRange::*;
    for range in [
        All,
        From(7),
        Last(9),
        Inclusive { first: 3, last: 3 },
        Inclusive { first: 0, last: 99 },
    ] {
        let message = convert::byte_range_message(range).unwrap();
        assert_eq!(convert::byte_range(message).unwrap(), range);
    }
    assert!(convert::byte_range_message(Inclusive { first: 4, last: 3 }).is_err());
    assert!(
        convert::byte_range_message(Inclusive {
            first: 0,
            last: u64::MAX
        })
        .is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_gone_is_not_read() {
    let world = World::new("service versions").await;
    let first = put(&world, "a", b"one").await.unwrap().object.unwrap().version;
    let at = |if_version| GetRequest {
        if_version,
        ..whole("a")
    };
    assert_eq!(get(&world, at(first)).await.unwrap().0, b"one");
    put(&world, "a", b"two").await.unwrap();
    assert_eq!(reason(get(&world, at(first)).await), Reason::VersionMismatch);
    assert_eq!(get(&world, at(0)).await.unwrap().0, b"two");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told_before_anything_else() {
    let world = World::new("service missing").await;
    let elsewhere = GetRequest {
        repository: "elsewhere".to_owned(),
        ..whole("a")
    };
    assert_eq!(reason(get(&world, whole("a")).await), Reason::ObjectNotFound);
    assert_eq!(reason(get(&world, whole("")).await), Reason::InvalidName);
    assert_eq!(reason(get(&world, elsewhere).await), Reason::RepositoryNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_nothing_lets_go_of_everything_and_is_told() {
    let world = World::with("service stalled", impatient()).await;
    put(&world, "a", &bytes(2, 24 << 20)).await.unwrap();
    let mut parts = world.data_path().get(whole("a")).await.unwrap().into_inner();
    eventually(|| world.agent.store().budget_used_bytes() > 0).await;
    eventually(|| world.agent.store().budget_used_bytes() == 0).await;
    let refused = loop {
        match parts.message().await {
            Ok(Some(message)) => assert!(!matches!(message.part, Some(get_response::Part::End(_)))),
            other => break other,
        }
    };
    assert_eq!(reason(refused), Reason::StreamIdle);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_takes_its_read_with_it() {
    let world = World::new("service left").await;
    put(&world, "a", &bytes(3, 24 << 20)).await.unwrap();
    let parts = world.data_path().get(whole("a")).await.unwrap();
    eventually(|| world.agent.store().budget_used_bytes() > 0).await;
    drop(parts);
    eventually(|| world.agent.store().budget_used_bytes() == 0).await;
}
