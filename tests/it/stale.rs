//! Two owners at once: one that was overtaken and does not know it, with requests that are slow, and the one that took
//! over. Each operation that changes or lists something waits until it is told to go on, so that a test decides what
//! comes after what.

mod schedule;

use std::sync::Arc;

use cairn_agent::engine::{ByteRange, PutOptions, Reason, ReclaimOptions, Repository, Result};
use cairn_agent::testkit::faulty::{Fault, Faulty, FaultyTables, Kind, Timeline, store_of};
use futures::StreamExt;
use rand::RngExt;

use crate::crash::examine::{Left, objects_of};
use crate::crash::history::agent;
use crate::crash::told::Callers;
use crate::support::{is_long, seed};
use crate::world::{Agent, Place, names, noise, read, rng};
use schedule::{Base, Mischief, Schedule};

/// Schedules that are tried together.
const AT_ONCE: usize = 4;

/// The first goes on to some step, then the second takes over and does all that it wants, then the first goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_first_may_be_overtaken_at_any_step() {
    let base = Base::make().await;
    let (first, second) = base.steps().await;
    assert!(first > 30 && second > 30, "{first} and {second} steps");
    let schedules = (0..=first).map(|at| Schedule::switching([at]));
    let tried = try_all(&base, schedules).await;
    println!("{tried} schedules of {first} and {second} steps");
}

/// The same, and the second is interrupted at some step by the rest of the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_first_may_come_back_at_any_step_of_the_second() {
    let base = Base::make().await;
    let (first, second) = base.steps().await;
    let all = (0..=first).flat_map(|at| (1..=second).map(move |back| Schedule::switching([at, at + back])));
    let tried = try_some(&base, all, 120).await;
    println!("{tried} schedules of {first} and {second} steps");
}

/// Back and forth, three and four times.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn both_may_take_turns() {
    let base = Base::make().await;
    let (first, second) = base.steps().await;
    let mut rng = rng(seed(21));
    let count = if is_long() { 4000 } else { 60 };
    let schedules: Vec<_> = (0..count)
        .map(|_| {
            let mut at: Vec<usize> = (0..rng.random_range(3..=6))
                .map(|_| rng.random_range(0..first + second))
                .collect();
            at.sort_unstable();
            at.dedup();
            Schedule::switching(at)
        })
        .collect();
    let tried = try_all(&base, schedules).await;
    println!("{tried} schedules of {first} and {second} steps");
}

/// An operation of the first is given up by its caller, or its answer is lost; it happens at some step of the second.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_the_first_gave_up_may_happen_at_any_step_of_the_second() {
    let base = Base::make().await;
    let (first, second) = base.steps().await;
    let all = (0..=first).flat_map(|at| {
        let late = (0..=second)
            .step_by(3)
            .map(move |after| Mischief::Late { at, lands: at + after });
        let all = late.chain([Mischief::LoseAnswer { at }, Mischief::Refuse { at }]);
        all.map(move |mischief| Schedule::switching([at + 1]).with(mischief))
    });
    let tried = try_some(&base, all, 120).await;
    println!("{tried} schedules of {first} and {second} steps");
}

/// All in the long form, else some that the seed chooses.
async fn try_some(base: &Base, all: impl Iterator<Item = Schedule>, some: usize) -> usize {
    let mut all: Vec<_> = all.collect();
    if !is_long() {
        let mut rng = rng(seed(20));
        while all.len() > some {
            let index = rng.random_range(0..all.len());
            all.swap_remove(index);
        }
    }
    try_all(base, all).await
}

async fn try_all(base: &Base, schedules: impl IntoIterator<Item = Schedule>) -> usize {
    let mut tried = 0;
    let mut runs = futures::stream::iter(schedules.into_iter().enumerate())
        .map(|(index, schedule)| {
            let base = base.clone();
            tokio::spawn(async move { base.run(&schedule, index).await })
        })
        .buffer_unordered(AT_ONCE);
    while let Some(run) = runs.next().await {
        if let Err(panic) = run {
            std::panic::resume_unwind(panic.into_panic());
        }
        tried += 1;
    }
    tried
}

async fn overwrite(repository: &Repository, times: u8) -> Result<()> {
    for round in 0..times {
        repository.put("hot", &[round; 100][..], PutOptions::default()).await?;
    }
    Ok(())
}

/// Somebody without a catalog finds these names.
async fn is_whole(place: &Place, expected: &[&str]) {
    let (_store, repository) = Agent::forgetful().open(place).await.unwrap();
    assert_eq!(names(&repository).await, expected);
    for name in expected {
        read(&repository, name, ByteRange::All).await.unwrap();
    }
    repository.rebuild().await.unwrap();
}

/// The first is slow to clear old checkpoints away: one of its listings of them is. Meanwhile the second has written
/// checkpoints, and dropped the part of the log that they cover.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slow_owner_clears_no_checkpoint_of_the_next_one_away() {
    for slow_listing in 1..=4 {
        let ((slow, first_place), place) = two_ways().await;
        let (_first_store, first) = agent(&FaultyTables::default()).open(&first_place).await.unwrap();
        overwrite(&first, 20).await.unwrap();
        slow.hold(|kind, path| kind == Kind::List && path.contains("/checkpoints"));
        let reclaiming = tokio::spawn(async move { first.reclaim(ReclaimOptions::default()).await });
        for _ in 1..slow_listing {
            let listing = slow.held(|_| true).await;
            assert!(slow.release(listing.operation).await);
        }
        let listing = slow.held(|_| true).await;

        let (second_store, second) = agent(&FaultyTables::default()).open(&place).await.unwrap();
        overwrite(&second, 3).await.unwrap();
        let reclaimed = second.reclaim(ReclaimOptions::default()).await.unwrap();
        assert!(reclaimed.packs_dropped > 0, "{reclaimed:?}");
        second_store.close().await;

        slow.hold_no_more();
        assert!(slow.release(listing.operation).await);
        match reclaiming.await.unwrap() {
            Ok(reclaimed) => assert_eq!(reclaimed.packs_dropped, 0, "by an owner that was overtaken"),
            Err(error) => assert_eq!(error.reason(), Reason::Fenced),
        }
        is_whole(&place, &["hot"]).await;
    }
}

/// The first is slow to delete an old checkpoint. The second wrote that one, finds it in its catalog as the last, and
/// would refer to its segments.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_checkpoint_refers_to_no_segment_that_a_slow_owner_deletes() {
    let (slow, place) = two_ways().await;
    let (first_tables, second_tables) = (FaultyTables::default(), FaultyTables::default());
    let (store, first) = agent(&first_tables).open(&place).await.unwrap();
    overwrite(&first, 20).await.unwrap();
    first.reclaim(ReclaimOptions::default()).await.unwrap();
    store.close().await;
    drop((store, first));
    // A checkpoint is due after every commit.
    let often = agent(&second_tables).tuned(|options| options.checkpoint_log_bytes = 1);
    let (store, second) = often.open(&place).await.unwrap();
    overwrite(&second, 18).await.unwrap();
    for name in ["large", "larger"] {
        let bytes = noise(&mut rng(name.len() as u64), 110 << 10);
        second.put(name, bytes.as_slice(), PutOptions::default()).await.unwrap();
    }
    store.close().await;
    drop((store, second));

    let (_first_store, first) = agent(&first_tables).open(&slow.1).await.unwrap();
    let slow = slow.0;
    slow.hold(|kind, path| kind == Kind::Delete && path.contains("/checkpoints"));
    let reclaiming = tokio::spawn(async move { first.reclaim(ReclaimOptions::default()).await });
    let deleting = slow.held(|_| true).await;

    let (store, second) = agent(&second_tables).open(&place).await.unwrap();
    let reclaimed = second.reclaim(ReclaimOptions::default()).await.unwrap();
    assert!(reclaimed.packs_dropped > 16, "{reclaimed:?}");
    store.close().await;
    drop((store, second));

    slow.hold_no_more();
    assert!(slow.release(deleting.operation).await);
    let outcome = reclaiming.await.unwrap();
    assert_eq!(outcome.unwrap_err().reason(), Reason::Fenced);
    is_whole(&place, &["hot", "large", "larger"]).await;
}

/// The first has put a pack, and its commit is on its way. The second takes over, does something without a commit of its
/// own, and dies; then the commit arrives. Whoever comes next finds it on the log, with all that it needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_late_commit_introduces_is_there() {
    for is_reclaim in [false, true] {
        let ((slow, first_place), _) = two_ways().await;
        let inner = slow.clone();
        // One chunk pack, the rest with the commit.
        let first_agent = Agent::forgetful().tuned(|options| options.introduce_packs_max = 16);
        let (_first_store, first) = first_agent.open(&first_place).await.unwrap();
        overwrite(&first, 1).await.unwrap();
        slow.hold(|kind, path| kind == Kind::Put && path.contains("/packs/"));
        let bytes = noise(&mut rng(30), 1500 << 10);
        let putting = {
            let bytes = bytes.clone();
            tokio::spawn(async move { first.put("late", bytes.as_slice(), PutOptions::default()).await })
        };
        let chunks = slow.held(|_| true).await;
        assert!(slow.release(chunks.operation).await);
        let commit = slow.held(|waiting| waiting.path != chunks.path).await;
        assert!(slow.give_up(commit.operation));
        putting.await.unwrap().unwrap_err();

        let second_way = Faulty::over(Arc::new(inner));
        let (store, second) = Agent::forgetful()
            .open(&Place::Faulty(second_way.clone()))
            .await
            .unwrap();
        second_way.hold(|kind, path| kind == Kind::Put && path.contains("/packs/"));
        if is_reclaim {
            second.reclaim(ReclaimOptions::default()).await.unwrap();
        } else {
            let overwriting = {
                let second = second.clone();
                tokio::spawn(async move { overwrite(&second, 1).await })
            };
            let opening = second_way.held(|_| true).await;
            assert!(second_way.refuse(opening.operation));
            overwriting.await.unwrap().unwrap_err();
        }
        second_way.hold_no_more();
        second_way.order([Fault::Freeze(0)]);
        store.close().await;
        drop((store, second));

        assert!(slow.release(commit.operation).await);
        slow.hold_no_more();
        let (_store, third) = Agent::forgetful().open(&first_place).await.unwrap();
        assert_eq!(names(&third).await, ["hot", "late"]);
        assert!(read(&third, "late", ByteRange::All).await.unwrap() == bytes);
    }
}

/// A store by two ways: one whose operations can be held, and one without such troubles.
async fn two_ways() -> ((Faulty, Place), Place) {
    let inner = store_of(&std::collections::BTreeMap::new()).await;
    let slow = Faulty::over(inner.clone());
    ((slow.clone(), Place::Faulty(slow)), Place::Faulty(Faulty::over(inner)))
}
