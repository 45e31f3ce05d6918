//! Response streams: what a client sees of a task that fails, and of a value that changes faster than it reads.

use std::ops::ControlFlow;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use tokio::sync::watch;

use super::world::{World, reason};
use crate::engine::{Error, Reason};
use crate::service::stream::{Outlet, Updates, follow, produce};

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

#[tokio::test(start_paused = true)]
async fn what_waits_until_all_is_taken_goes_on_with_the_last_of_it() {
    const IDLE: Duration = Duration::from_secs(10);
    let task = |outlet: Outlet<i32>| async move {
        outlet.send(1).await?;
        outlet.send(2).await?;
        outlet.drained().await?;
        outlet.send(3).await?;
        Ok(4)
    };
    let mut stream = produce(2, IDLE, task).into_inner();
    // A client that takes something now and then is slow, not idle.
    tokio::time::sleep(IDLE * 2 / 3).await;
    assert_eq!(stream.next().await.unwrap().unwrap(), 1);
    tokio::time::sleep(IDLE * 2 / 3).await;
    assert_eq!(stream.next().await.unwrap().unwrap(), 2);
    assert!(
        stream.next().now_or_never().is_none(),
        "the third was sent before all was taken"
    );
    assert_eq!(stream.next().await.unwrap().unwrap(), 3);
    assert_eq!(stream.next().await.unwrap().unwrap(), 4);

    let mut stream = produce(2, IDLE, task).into_inner();
    assert_eq!(stream.next().await.unwrap().unwrap(), 1);
    tokio::time::sleep(IDLE * 2).await;
    assert_eq!(stream.next().await.unwrap().unwrap(), 2);
    assert_eq!(reason(stream.next().await.unwrap()), Reason::StreamIdle);
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
