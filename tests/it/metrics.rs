//! Metrics say what results and the status say, and say it as the documentation and Prometheus' own tool expect.

use std::io::Write;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use cairn_agent::backend::{Class, Rate};
use cairn_agent::engine::{
    ByteRange, Precondition, PutOptions, Quota, ReclaimOptions, Repository, ScrubOptions, ScrubProgress, Store,
};
use cairn_agent::http::metrics::{FAMILIES, Family, Metrics};

use crate::agent::{self, http_get};
use crate::support::{Home, not_run, random_bytes};
use crate::world::{Agent, Place, read};

const DOCUMENTATION: &str = include_str!("../../docs/operations.md");

/// The row of the documentation that a metric has to have.
fn row(family: &Family) -> String {
    let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
    format!(
        "| `{}` | {} | {} | {} | {} |",
        family.name,
        family.kind.as_str(),
        labels.join(", "),
        family.unit(),
        family.help
    )
}

#[test]
fn the_documentation_lists_every_metric_and_no_other() {
    let documented: Vec<&str> = DOCUMENTATION
        .lines()
        .filter(|line| line.starts_with("| `") && line.matches('|').count() == 6)
        .collect();
    let present: Vec<String> = FAMILIES.iter().map(|family| row(family)).collect();
    let wanted = present.join("\n");
    assert!(
        documented == present,
        "the rows of docs/operations.md have to be these, in this order:\n{wanted}"
    );
}

/// The sum of all series of a metric with these labels, given as they are written.
fn value(text: &str, name: &str, labels: &str) -> u64 {
    let series = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (found, value) = rest.rsplit_once(' ')?;
        let is_whole_name = found.is_empty() || found.starts_with('{');
        (is_whole_name && found.contains(labels)).then(|| value.parse::<f64>().unwrap())
    });
    let values: Vec<f64> = series.collect();
    assert!(!values.is_empty(), "no series {name} with {labels:?} in\n{text}");
    values.iter().sum::<f64>() as u64
}

/// What callers were told, summed.
#[derive(Default)]
struct Told {
    puts: u64,
    bytes: u64,
    chunks: u64,
    new_chunks: u64,
    new_bytes: u64,
    stored_bytes: u64,
}

impl Told {
    async fn put(&mut self, repository: &Repository, name: &str, bytes: &[u8]) {
        let outcome = repository.put(name, bytes, PutOptions::default()).await.unwrap();
        self.puts += 1;
        self.bytes += outcome.object.bytes;
        self.chunks += outcome.object.chunks;
        self.new_chunks += outcome.new_chunks;
        self.new_bytes += outcome.new_bytes;
        self.stored_bytes += outcome.stored_bytes;
    }
}

async fn render(store: &Store, metrics: &Metrics) -> String {
    metrics.render_status(store, &store.status().await.unwrap())
}

#[tokio::test]
async fn metrics_results_and_status_are_the_same_numbers() {
    let place = Place::memory();
    let (store, repository) = Agent::forgetful().open(&place).await.unwrap();
    let (one, two) = (random_bytes(1, 3_000_000), random_bytes(2, 700_000));
    let mut told = Told::default();
    told.put(&repository, "one", &one).await;
    told.put(&repository, "again", &one).await;
    told.put(&repository, "two", &two).await;
    let twice = [&two[..], &two[..]].concat();
    told.put(&repository, "twice", &twice).await;
    let text = render(&store, &Metrics::new()).await;

    assert_eq!(value(&text, "cairn_objects_put_total", ""), told.puts);
    assert_eq!(value(&text, "cairn_logical_bytes_total", ""), told.bytes);
    assert_eq!(value(&text, "cairn_unique_bytes_total", ""), told.new_bytes);
    assert_eq!(value(&text, "cairn_stored_bytes_total", ""), told.stored_bytes);
    assert_eq!(value(&text, "cairn_chunks_total", "new"), told.new_chunks);
    assert_eq!(
        value(&text, "cairn_chunks_total", "duplicate"),
        told.chunks - told.new_chunks
    );
    let manifests = 2 * told.puts;
    assert_eq!(
        value(&text, "cairn_chunk_lookups_total", ""),
        told.chunks + manifests,
        "a leaf and a root of each object are looked up as well"
    );

    let totals = repository.status().unwrap();
    assert_eq!(totals.logical_bytes, told.bytes, "nothing was deleted yet");
    assert_eq!(totals.unique_bytes, told.new_bytes);
    let of_default = "repository=\"default\"";
    assert_eq!(value(&text, "cairn_repository_objects", of_default), totals.objects);
    assert_eq!(
        value(&text, "cairn_repository_logical_bytes", of_default),
        totals.logical_bytes
    );
    assert_eq!(
        value(&text, "cairn_repository_stored_bytes", of_default),
        totals.stored_bytes
    );
    assert_eq!(
        value(&text, "cairn_pack_bytes_total", ""),
        totals.stored_bytes,
        "no pack was dropped"
    );
    assert_eq!(
        value(&text, "cairn_repository_log_number", of_default),
        totals.log_number
    );
    assert_eq!(
        value(&text, "cairn_commits_total", ""),
        totals.log_number,
        "the store is new"
    );
    assert_eq!(value(&text, "cairn_durable_put_seconds_count", ""), totals.packs);
    assert_eq!(value(&text, "cairn_budget_bytes", ""), store.budget_bytes() as u64);
    assert_eq!(value(&text, "cairn_budget_used_bytes", ""), 0, "at rest");
    store.close().await;
}

#[tokio::test]
async fn what_is_sent_again_counts_once_and_what_is_refused_never() {
    let place = Place::memory();
    let (store, repository) = Agent::forgetful().open(&place).await.unwrap();
    let bytes = random_bytes(3, 200_000);
    let repeatable = PutOptions {
        put_id: Some([9; 16]),
        ..PutOptions::default()
    };
    for _ in 0..2 {
        repository.put("a", &bytes[..], repeatable.clone()).await.unwrap();
    }
    let only_new = PutOptions {
        precondition: Precondition::CreateOnly,
        ..PutOptions::default()
    };
    repository.put("a", &bytes[..], only_new).await.unwrap_err();
    repository.copy("a", "b", PutOptions::default()).await.unwrap();
    assert!(!repository.delete("missing", Precondition::None).await.unwrap());
    assert!(repository.delete("a", Precondition::None).await.unwrap());
    let read = read(&repository, "b", ByteRange::From(1000)).await.unwrap().len() as u64;
    let text = render(&store, &Metrics::new()).await;
    assert_eq!(value(&text, "cairn_objects_put_total", ""), 2, "a put and a copy");
    assert_eq!(value(&text, "cairn_objects_deleted_total", ""), 1);
    assert_eq!(value(&text, "cairn_logical_bytes_total", ""), 400_000);
    assert_eq!(value(&text, "cairn_read_bytes_total", ""), read);
    assert_eq!(read, 199_000);
    store.close().await;
}

#[tokio::test]
async fn what_reclaim_gives_back_is_counted() {
    let place = Place::memory();
    let (store, repository) = Agent::forgetful().open(&place).await.unwrap();
    let bytes = random_bytes(4, 2_000_000);
    repository.put("a", &bytes[..], PutOptions::default()).await.unwrap();
    repository.delete("a", Precondition::None).await.unwrap();
    repository.close().await;
    let mut dropped = (0, 0);
    for _ in 0..3 {
        let reclaimed = repository.reclaim(ReclaimOptions::default()).await.unwrap();
        dropped.0 += reclaimed.packs_dropped;
        dropped.1 += reclaimed.freed_bytes;
    }
    let text = render(&store, &Metrics::new()).await;
    assert!(dropped.1 > 1_000_000, "the pack of the object is gone");
    assert_eq!(value(&text, "cairn_packs_dropped_total", ""), dropped.0);
    assert_eq!(value(&text, "cairn_freed_bytes_total", ""), dropped.1);
    store.close().await;
}

/// Where the one command that sets up everything puts it.
fn promtool() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let tool = target.join("tools/bin/promtool");
    if tool.exists() { tool } else { PathBuf::from("promtool") }
}

#[tokio::test]
async fn the_tool_of_prometheus_finds_nothing_to_say() {
    let place = Place::directory();
    let (store, repository) = Agent::forgetful().open(&place).await.unwrap();
    let mut told = Told::default();
    told.put(&repository, "a", &random_bytes(5, 300_000)).await;
    read(&repository, "a", ByteRange::All).await.unwrap();
    let progress = ScrubProgress::default();
    let scrubbed = repository.scrub(ScrubOptions::default(), &progress).await;
    assert!(scrubbed.unwrap().is_sound());
    store.set_read_only(true).await.unwrap();
    // Without limits there is no number for these.
    repository.set_quota(Quota {
        logical_bytes: Some(1 << 30),
        stored_bytes: None,
    });
    let rate = NonZeroU64::new(1 << 30);
    store.shaper().set_rate(
        Class::Evacuate,
        Rate {
            bytes: rate,
            requests: rate,
        },
    );
    let metrics = Metrics::new();
    metrics.call_ended("DataPath/Put", "OK", 0.25);
    metrics.operation_started("RECLAIM");
    metrics.operation_ended("RECLAIM", "DONE");
    let text = render(&store, &metrics).await;
    for family in FAMILIES {
        let head = format!("# HELP {} ", family.name);
        assert!(text.contains(&head), "{} is not in\n{text}", family.name);
    }
    store.close().await;
    check(&text);
}

#[test]
fn a_running_agent_serves_what_it_has_counted() {
    let home = Home::with_object(b"before");
    let bytes = random_bytes(6, 1_000_000);
    let file = home.file("file", &bytes);
    let agent = agent::Agent::start(&home, &[]);
    let to_agent = |arguments: &[&str]| home.run(&[&["--agent", &agent.unix_address()], arguments].concat());
    to_agent(&["put", "a", file.to_str().unwrap()]).ok();
    assert!(to_agent(&["get", "a"]).ok() == bytes);
    to_agent(&["get", "missing"]).fails(1, &["missing"]);
    let (code, text) = http_get(&agent.http, "/metrics");
    assert_eq!(code, 200);
    let call = |call: &str, code: &str| format!("call=\"DataPath/{call}\",code=\"{code}\"");
    assert_eq!(value(&text, "cairn_requests_total", &call("Put", "OK")), 1);
    assert_eq!(value(&text, "cairn_requests_total", &call("Get", "OK")), 1);
    assert_eq!(value(&text, "cairn_requests_total", &call("Get", "NOT_FOUND")), 1);
    assert_eq!(value(&text, "cairn_requests_open", ""), 0);
    assert_eq!(value(&text, "cairn_received_bytes_total", ""), 1_000_000);
    assert_eq!(value(&text, "cairn_sent_bytes_total", ""), 1_000_000);
    assert_eq!(value(&text, "cairn_logical_bytes_total", ""), 1_000_000);
    assert_eq!(value(&text, "cairn_keys_loaded", ""), 1);
    assert!(
        value(
            &text,
            "cairn_backend_requests_total",
            "operation=\"put\",outcome=\"ok\""
        ) > 0
    );
    check(&text);
}

fn check(text: &str) {
    let mut command = Command::new(promtool());
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    let started = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => return not_run(&format!("promtool: {error}")),
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");
}
