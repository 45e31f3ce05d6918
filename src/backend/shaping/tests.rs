use std::sync::Arc;

use super::*;

fn rate(bytes: u64, requests: u64) -> Rate {
    Rate {
        bytes: NonZeroU64::new(bytes),
        requests: NonZeroU64::new(requests),
    }
}

/// Passes requests one after the other, each as soon as it may; when each passed, since the start.
fn times(rate: Rate, requests: impl IntoIterator<Item = u64>) -> Vec<Duration> {
    let start = Instant::now();
    let mut line = Line::default();
    line.set_rate(rate, start);
    let mut now = start;
    let pass = |bytes| {
        line.take(bytes, now);
        now = now.max(line.due().unwrap());
        now - start
    };
    requests.into_iter().map(pass).collect()
}

#[test]
fn words_and_positions_agree() {
    for (index, class) in Class::ALL.into_iter().enumerate() {
        assert_eq!(class as usize, index, "{}", class.as_str());
    }
}

#[test]
fn rates_of_bytes_and_of_requests_are_kept_over_long_spans() {
    let sizes = |i: u64| (i * 7919) % 2000;
    let bytes: u64 = (0..10_000).map(sizes).sum();
    let last = *times(rate(1000, 0), (0..10_000).map(sizes)).last().unwrap();
    assert!(
        last.abs_diff(Duration::from_secs_f64(bytes as f64 / 1000.0)) < BURST,
        "{last:?}"
    );
    let last = *times(rate(0, 100), [0; 10_000]).last().unwrap();
    assert!(last.abs_diff(Duration::from_secs(100)) <= BURST, "{last:?}");
    // With both, the slower one decides.
    let last = *times(rate(1000, 100), [5; 10_000]).last().unwrap();
    assert!(last.abs_diff(Duration::from_secs(100)) <= BURST, "{last:?}");
}

const BURST: Duration = super::super::bucket::BURST;

#[test]
fn no_window_of_time_sees_more_than_its_share_and_a_small_burst() {
    let passed = times(rate(0, 100), [0; 2000]);
    for window in [
        Duration::from_millis(100),
        Duration::from_secs(1),
        Duration::from_secs(5),
    ] {
        let share = (window + BURST).as_secs_f64() * 100.0 + 1.0;
        for (index, from) in passed.iter().enumerate() {
            let within = passed[index..].partition_point(|at| *at < *from + window);
            assert!(within as f64 <= share, "{within} in {window:?}");
        }
    }
}

#[test]
fn a_debt_is_paid_before_the_next_request() {
    let start = Instant::now();
    let mut line = Line::default();
    line.set_rate(rate(1000, 0), start);
    line.take(0, start);
    assert!(line.due().unwrap() <= start, "nothing is known before");
    line.owe(8000, start);
    line.take(0, start);
    assert!((line.due().unwrap() - start).abs_diff(Duration::from_secs(8)) <= BURST);
}

/// Waits until so many of a class are waiting.
async fn until_waiting(tasks: &[tokio::task::JoinHandle<()>]) {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(tasks.iter().all(|task| !task.is_finished()));
}

#[tokio::test]
async fn requests_pass_in_their_order_and_a_new_rate_holds_for_those_that_wait() {
    let shaper = Arc::new(Shaper::default());
    // A rate at which this test would take days.
    shaper.set_rate(Class::Scrub, rate(1, 0));
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for index in 0..5 {
        let (shaper, order) = (shaper.clone(), order.clone());
        tasks.push(tokio::spawn(Class::Scrub.scope(async move {
            shaper.pass(100_000 * (5 - index)).await;
            order.lock().push(index);
        })));
        tokio::task::yield_now().await;
    }
    until_waiting(&tasks).await;
    shaper.pass(1 << 40).await;
    assert!(order.lock().is_empty(), "another class passes meanwhile");
    tasks.remove(2).abort();
    shaper.set_rate(Class::Scrub, rate(1 << 30, 1 << 30));
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*order.lock(), [0, 1, 3, 4]);
    let passed = shaper.passed(Class::Scrub);
    assert_eq!((passed.requests.value(), passed.bytes.value()), (4, 1_200_000));
    assert!(passed.waited() > Duration::ZERO);
    assert_eq!(shaper.passed(Class::Foreground).requests.value(), 1);
}

#[tokio::test]
async fn one_that_is_given_up_costs_the_others_nothing() {
    let shaper = Arc::new(Shaper::default());
    shaper.set_rate(Class::Foreground, rate(1000, 0));
    let before = shaper.lane(Class::Foreground).line.lock().due().unwrap();
    let waiting = tokio::spawn({
        let shaper = shaper.clone();
        async move { shaper.pass(1 << 30).await }
    });
    tokio::task::yield_now().await;
    waiting.abort();
    waiting.await.unwrap_err();
    let after = shaper.lane(Class::Foreground).line.lock().due().unwrap();
    assert!(
        after.saturating_duration_since(before) < Duration::from_secs(1),
        "a second is less than a million"
    );
    assert_eq!(shaper.passed(Class::Foreground).requests.value(), 0);
}

#[tokio::test]
async fn a_class_is_carried_into_a_task_only_if_that_is_said() {
    let here = |expected| async move { assert_eq!(Class::current(), expected) };
    here(Class::Foreground).await;
    let work = async {
        here(Class::Reclaim).await;
        tokio::spawn(here(Class::Foreground)).await.unwrap();
        tokio::spawn(Class::carried(here(Class::Reclaim))).await.unwrap();
    };
    Class::Reclaim.scope(work).await;
}

#[tokio::test]
async fn bytes_count_whether_they_are_known_before_or_not() {
    use crate::backend::{Attach, Backend, Location};

    let location = Location::Memory("shaped bytes".to_owned());
    let backend = Backend::attach(&location, Attach::Existing).await.unwrap();
    let bytes = || backend.shaper().passed(Class::Foreground).bytes.value();
    backend.put("a", vec![7; 1000].into()).await.unwrap();
    assert_eq!(bytes(), 1000);
    backend.get("a").await.unwrap();
    assert_eq!(bytes(), 2000);
    backend.get_range("a", 5..15).await.unwrap();
    assert_eq!(bytes(), 2010);
    backend.get_tail("a", 5000).await.unwrap();
    assert_eq!(bytes(), 3010, "what there is");
    backend.size("a").await.unwrap();
    backend.delete("a").await.unwrap();
    assert_eq!(bytes(), 3010);
    assert_eq!(backend.shaper().passed(Class::Foreground).requests.value(), 6);
}
