//! Response streams: what a client sees of a task that fails, and of a value that changes faster than it reads.

use std::ops::ControlFlow;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::watch;

use super::world::{World, reason};
use crate::engine::{Error, Reason};
use crate::service::stream::{Updates, follow, produce};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_last_message_has_a_place_even_if_nothing_was_taken() {
    let response = produce(1, LONG, |outlet| async move {
        outlet.offer(1);
        outlet.offer(2);
        Ok(3)
    });
    let seen: Vec<i32> = response.into_inner().map(Result::unwrap).collect().await;
    assert_eq!(seen, [1, 3], "there was no room for the second");
}

#[tokio::test]
async fn a_task_that_fails_or_panics_does_not_look_like_an_end() {
    let refused = || Err::<i32, _>(Error::new(Reason::NoCapacity, "full"));
    let failed = produce(1, LONG, |_| async move { refused() });
    let mut failed = failed.into_inner();
    assert_eq!(reason(failed.next().await.unwrap()), Reason::NoCapacity);
    assert!(failed.next().await.is_none());
    let panicked = produce(1, LONG, |outlet| async move {
        outlet.offer(1);
        panic!("a defect")
    });
    let mut panicked = panicked.into_inner();
    assert_eq!(panicked.next().await.unwrap().unwrap(), 1);
    assert_eq!(reason(panicked.next().await.unwrap()), Reason::Internal);
    assert!(panicked.next().await.is_none());
}

/// The numbers of a watched value, ended by zero.
fn numbers(world: &World, receiver: watch::Receiver<i32>, heartbeat: Duration) -> Updates<i32> {
    follow(world.agent.clone(), receiver, heartbeat, |_, number| async move {
        match number {
            0 => ControlFlow::Break(number),
            _ => ControlFlow::Continue(number),
        }
    })
}

#[tokio::test]
async fn a_slow_watcher_gets_the_newest() {
    let world = World::new("service newest").await;
    let (sender, receiver) = watch::channel(1);
    let mut seen = numbers(&world, receiver, LONG);
    assert_eq!(seen.next().await.unwrap().unwrap(), 1);
    for number in 2..=9 {
        sender.send_replace(number);
    }
    assert_eq!(seen.next().await.unwrap().unwrap(), 9);
    sender.send_replace(0);
    assert_eq!(seen.next().await.unwrap().unwrap(), 0);
    assert!(seen.next().await.is_none());
}

#[tokio::test]
async fn a_value_that_does_not_change_is_told_again() {
    let world = World::new("service heartbeat").await;
    let (_sender, receiver) = watch::channel(7);
    let seen = numbers(&world, receiver, Duration::from_millis(1)).take(3);
    let seen: Vec<_> = seen.map(Result::unwrap).collect().await;
    assert_eq!(seen, [7, 7, 7]);
}
