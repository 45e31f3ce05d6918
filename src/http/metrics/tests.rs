use std::collections::BTreeSet;

use super::*;
use crate::engine::{
    ByteRange, Depth, NewRepository, Precondition, PutOptions, ScrubOptions, ScrubProgress, StoreOptions,
};

/// A store on which everything that is counted has happened, and a process that has served calls.
async fn busy(name: &str) -> (Store, Metrics) {
    let options = StoreOptions::in_memory(name).unwrap();
    let first = NewRepository::named("first").unwrap();
    let store = Store::open_or_create(options, first).await.unwrap();
    let repository = store.repository("first").await.unwrap();
    let put = repository.put("a", &[7; 300_000][..], PutOptions::default());
    put.await.unwrap();
    let mut reader = repository.get("a", ByteRange::All).await.unwrap();
    while reader.next().await.unwrap().is_some() {}
    repository.delete("a", Precondition::None).await.unwrap();
    let scrub = ScrubOptions {
        depth: Depth::Structure,
        ..ScrubOptions::default()
    };
    repository.scrub(scrub, &ScrubProgress::default()).await.unwrap();
    let metrics = Metrics::new();
    metrics.call_ended("DataPath/Put", "OK", 0.25);
    metrics.operation_started("RECLAIM");
    metrics.operation_ended("RECLAIM", "DONE");
    (store, metrics)
}

/// The value of a series, by its line without the value.
fn value(text: &str, series: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
        .unwrap_or_else(|| panic!("no series {series} in\n{text}"));
    line.parse().unwrap()
}

#[tokio::test]
async fn what_is_rendered_has_its_place_in_the_table() {
    let (store, metrics) = busy("metrics-families").await;
    let text = metrics.render_status(&store, &store.status().await.unwrap());
    let rendered: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let named: BTreeSet<&str> = FAMILIES.iter().map(|family| family.name).collect();
    assert_eq!(named.len(), FAMILIES.len(), "a name is used twice");
    // What a store in memory at rest, without limits, has no number for.
    let silent = BTreeSet::from([
        "cairn_inodes",
        "cairn_mode_cause",
        "cairn_repository_quota_bytes",
        "cairn_shaping_rate_bytes",
        "cairn_shaping_rate_requests",
    ]);
    assert_eq!(&rendered | &silent, named);
}

#[tokio::test]
async fn calls_are_counted_by_name_and_code() {
    let (store, metrics) = busy("metrics-calls").await;
    metrics.call_ended("DataPath/Get", "NOT_FOUND", 0.001);
    metrics.call_ended("DataPath/Get", "OK", 0.5);
    metrics.received(3);
    metrics.sent(4);
    let connection = metrics.connection();
    metrics.call_started("DataPath/Get");
    metrics.operation_started("RECLAIM");
    let status = store.status().await.unwrap();
    let text = metrics.render_status(&store, &status);
    let get = |code| format!("cairn_requests_total{{call=\"DataPath/Get\",code=\"{code}\"}}");
    assert_eq!(value(&text, &get("OK")), 1.0);
    assert_eq!(value(&text, &get("NOT_FOUND")), 1.0);
    assert_eq!(value(&text, "cairn_request_seconds_count{call=\"DataPath/Get\"}"), 2.0);
    assert_eq!(
        value(&text, "cairn_request_seconds_bucket{call=\"DataPath/Get\",le=\"0.25\"}"),
        1.0
    );
    assert_eq!(value(&text, "cairn_received_bytes_total"), 3.0);
    assert_eq!(value(&text, "cairn_sent_bytes_total"), 4.0);
    assert_eq!(value(&text, "cairn_connections_open"), 1.0);
    assert_eq!(value(&text, "cairn_requests_open{call=\"DataPath/Get\"}"), 1.0);
    assert_eq!(value(&text, "cairn_operations_running{kind=\"RECLAIM\"}"), 1.0);
    assert_eq!(
        value(&text, "cairn_operations_total{kind=\"RECLAIM\",outcome=\"DONE\"}"),
        1.0
    );
    drop(connection);
    metrics.operation_ended("RECLAIM", "FAILED");
    metrics.call_ended("DataPath/Get", "CANCELLED", 9.0);
    let text = metrics.render_status(&store, &status);
    for gauge in [
        "cairn_connections_open",
        "cairn_requests_open{call=\"DataPath/Get\"}",
        "cairn_operations_running{kind=\"RECLAIM\"}",
    ] {
        assert_eq!(value(&text, gauge), 0.0);
    }
}

#[tokio::test]
async fn scrubs_are_counted_while_they_run_and_remembered_when_they_end() {
    let before = jiff::Timestamp::now().as_millisecond() as f64 / 1000.0;
    let (store, metrics) = busy("metrics-scrubs").await;
    let status = store.status().await.unwrap();
    let text = metrics.render_status(&store, &status);
    let read = value(&text, "cairn_scrub_bytes_total");
    assert!(read > 0.0 && value(&text, "cairn_scrub_stored_objects_total") > 1.0);
    for kind in ["metadata", "keyring", "owner", "pack", "checkpoint"] {
        assert_eq!(
            value(&text, &format!("cairn_scrub_damage_total{{kind=\"{kind}\"}}")),
            0.0
        );
    }
    let completed = "cairn_scrub_completed_timestamp_seconds{repository=\"first\",depth=\"structure\"}";
    assert!(value(&text, completed) >= before);
    assert!(!text.contains("cairn_scrub_completed_timestamp_seconds{repository=\"first\",depth=\"full\""));

    // One that does not come to its end: it is polled once, and waits for its rate.
    let repository = store.repository("first").await.unwrap();
    let scrub = ScrubOptions {
        rate_bytes: std::num::NonZeroU64::new(1),
        ..ScrubOptions::default()
    };
    let progress = ScrubProgress::default();
    let mut standing = Box::pin(repository.scrub(scrub, &progress));
    assert!(futures::poll!(&mut standing).is_pending());
    let text = metrics.render_status(&store, &status);
    assert_eq!(value(&text, "cairn_scrubs_running{depth=\"full\"}"), 1.0);
    drop(standing);
    let text = metrics.render_status(&store, &status);
    assert_eq!(value(&text, "cairn_scrubs_running{depth=\"full\"}"), 0.0);
    assert!(!text.contains("cairn_scrub_completed_timestamp_seconds{repository=\"first\",depth=\"full\""));
}
