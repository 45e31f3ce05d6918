//! The taking of an epoch itself: two at once, and claims that were lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_agent::testkit::faulty::{Faulty, Kind, Step};
use object_store::memory::InMemory;

use super::*;
use crate::crash::examine::nothing_was_sealed_twice;

fn shared() -> (Faulty, Place) {
    let faulty = Faulty::over(Arc::new(InMemory::new()));
    (faulty.clone(), Place::Faulty(faulty))
}

/// Two ask for the same epoch at once, and one is slow. It gets the next one; it does not take the first one's over.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_claim_one_epoch_only_one_has_it() {
    let (faulty, place) = shared();
    let (_first_store, first) = Agent::with_catalog().open(&place).await.unwrap();
    let (_second_store, second) = Agent::with_catalog().open(&place).await.unwrap();
    faulty.hold(|kind, path| kind == Kind::Put && path.contains("/owner/"));
    #[expect(clippy::async_yields_async, reason = "the put goes on while the other one is begun")]
    let claim = async |repository: &Repository, name: &'static str, waiting: usize| {
        let repository = repository.clone();
        let putting = tokio::spawn(async move { put(&repository, name, b"claimed").await });
        faulty.held(|_| faulty.waiting().len() == waiting).await;
        putting
    };
    let first_put = claim(&first, "first", 1).await;
    let second_put = claim(&second, "second", 2).await;
    faulty.hold_no_more();
    let claims = faulty.waiting();
    assert_eq!(claims[0].path, claims[1].path, "both ask for the same epoch");
    assert!(faulty.release(claims[0].operation).await);
    first_put.await.unwrap().unwrap();
    assert!(faulty.release(claims[1].operation).await);
    second_put.await.unwrap().unwrap();
    let error = put(&first, "late", b"late").await.unwrap_err();
    assert_eq!(error.reason(), Reason::Fenced);
    let (_store, third) = Agent::forgetful().open(&place).await.unwrap();
    assert_eq!(names(&third).await, ["first", "second"]);
}

async fn lose_claims(place: &Place, repository: &Repository) {
    let backend = place.backend().await;
    let prefix = Layout::new(repository.id()).owners_prefix();
    for file in backend.list(&prefix, None).await.unwrap() {
        backend.delete(&file.path).await.unwrap();
    }
}

/// With the files of the owners lost, the log still tells which epochs are over. One that were taken again would write a
/// log that nobody follows.
#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_is_not_taken_twice_though_its_claim_is_lost() {
    let (_faulty, place) = shared();
    for name in ["a", "b", "c"] {
        let (store, repository) = Agent::forgetful().open(&place).await.unwrap();
        put(&repository, name, name.as_bytes()).await.unwrap();
        store.close().await;
        lose_claims(&place, &repository).await;
    }
    let (_store, repository) = Agent::forgetful().open(&place).await.unwrap();
    assert_eq!(names(&repository).await, ["a", "b", "c"]);
}

/// Nothing tells that there was an epoch, and it is taken again: the packs of it that are there have names and keys of
/// their own.
#[tokio::test(flavor = "multi_thread")]
async fn packs_of_an_epoch_that_nobody_remembers_share_no_key_with_new_ones() {
    let (faulty, place) = shared();
    for seed in 1..=2 {
        // No commit on the way: it would tell of the epoch.
        let agent = Agent::forgetful().tuned(|options| options.introduce_packs_max = 16);
        let (store, repository) = agent.open(&place).await.unwrap();
        let (source, taken) = stalled(noise(&mut rng(seed), 4 << 20));
        let putting = {
            let repository = repository.clone();
            tokio::spawn(async move { repository.put("unfinished", source, PutOptions::default()).await })
        };
        taken.await.unwrap();
        while packs_put(&faulty) < 2 * seed as usize {
            tokio::task::yield_now().await;
        }
        putting.abort();
        drop(putting.await);
        store.close().await;
        drop((store, repository.clone()));
        assert_eq!(owners(&place, &repository).await, [1], "the epoch is taken again");
        lose_claims(&place, &repository).await;
    }
    nothing_was_sealed_twice(&BTreeMap::new(), &faulty.journal());
}

fn packs_put(faulty: &Faulty) -> usize {
    let journal = faulty.journal();
    let puts = journal
        .iter()
        .filter(|event| event.kind == Kind::Put && event.step == Step::Done);
    puts.filter(|event| event.path.contains("/packs/")).count()
}
