//! More of what can go wrong with one operation: it is done much later, half of it is done, or it is the catalog that
//! fails.

use cairn_agent::testkit::faulty::{FaultyTables, Stop};

use super::*;
use crate::support::is_long;

async fn operations() -> usize {
    let faulty = Faulty::over(Arc::new(InMemory::new()));
    History::run(&Agent::with_catalog(), &Place::Faulty(faulty.clone())).await;
    faulty.operations()
}

/// What a writer gave up happens when the next one has opened: it changes nothing any more.
#[tokio::test(flavor = "multi_thread")]
async fn any_operation_may_come_late() {
    for number in 0..operations().await {
        let faulty = Faulty::over(Arc::new(InMemory::new()));
        let place = Place::Faulty(faulty.clone());
        faulty.order([Fault::Late(number)]);
        let mut history = History::run(&Agent::with_catalog(), &place).await;
        faulty.order(None);
        let what = format!("operation {number} comes late");
        let (store, repository) = Agent::with_catalog()
            .open(&place)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error:?}"));
        history.put(&repository, "next", 10, 3 << 10).await;
        faulty.land().await;
        examine(&repository, &history.told, &what).await;
        store.close().await;
    }
}

/// One half of a put is stored. Stores do not do that. A half pack or keyring is damage, and that is said; of anything
/// else nobody notices.
#[tokio::test(flavor = "multi_thread")]
async fn any_put_may_be_torn() {
    let mut damaged = 0;
    for number in 0..operations().await {
        let faulty = Faulty::over(Arc::new(InMemory::new()));
        let place = Place::Faulty(faulty.clone());
        faulty.order([Fault::Tear(number)]);
        let agent = Agent::with_catalog();
        let history = History::run(&agent, &place).await;
        let torn = faulty.journal().into_iter().find(|event| event.operation == number);
        faulty.order(None);
        let Some(torn) = torn.filter(|event| event.kind == Kind::Put) else {
            continue;
        };
        let what = format!("{} is torn", torn.path);
        let needed = torn.path.contains("/packs/") || torn.path.contains("/keyring/");
        match agent.open(&place).await {
            Err(error) if needed && error.reason() == Reason::DataLoss => damaged += 1,
            Err(error) => panic!("{what}: {error:?}"),
            Ok((store, repository)) => {
                examine(&repository, &history.told, &what).await;
                store.close().await;
            }
        }
    }
    assert!(damaged > 0, "no half pack was noticed");
}

/// An operation is never answered, and the process is given up. When it is answered after all, another one has opened.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_hangs_is_replaced() {
    let operations = operations().await;
    let some = (0..operations).filter(|number| is_long() || number % 3 == 1);
    for number in some {
        let faulty = Faulty::over(Arc::new(InMemory::new()));
        let place = Place::Faulty(faulty.clone());
        faulty.order([Fault::Hang(number)]);
        let told = Arc::new(tokio::sync::Mutex::new(Told::default()));
        let hanging = tokio::spawn({
            let (place, told) = (Place::Faulty(faulty.clone()), told.clone());
            async move {
                let history = History::run(&Agent::with_catalog(), &place).await;
                *told.lock().await = history.told;
            }
        });
        while faulty.operations() <= number && !hanging.is_finished() {
            tokio::task::yield_now().await;
        }
        if faulty.operations() <= number {
            // It came to its end with fewer: nothing hangs, and it is not for the next to hang instead.
            hanging.await.unwrap();
            continue;
        }
        let what = format!("operation {number} hangs");
        let (_store, repository) = Agent::with_catalog()
            .open(&place)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let bytes = noise(&mut rng(10), 3 << 10);
        let put = repository.put("next", bytes.as_slice(), PutOptions::default()).await;
        faulty.land().await;
        hanging.await.unwrap();
        // The first may have opened anew since, as a process does that is started again.
        let put = put.is_ok();
        let (store, repository) = Agent::forgetful().open(&place).await.unwrap();
        let mut told = std::mem::take(&mut *told.lock().await);
        let may_be = if put {
            vec![Some(Arc::new(bytes))]
        } else {
            vec![None, Some(Arc::new(bytes))]
        };
        told.0.insert("next".to_owned(), may_be);
        examine(&repository, &told, &what).await;
        store.close().await;
    }
}

/// A commit of the catalog fails, or is the last one.
#[tokio::test(flavor = "multi_thread")]
async fn any_commit_of_the_catalog_may_fail() {
    let run = async |stop: Option<Stop>| {
        let place = Place::Faulty(Faulty::over(Arc::new(InMemory::new())));
        let tables = FaultyTables::default();
        let agent = Agent::with_tables(&tables);
        tables.order(stop);
        let history = History::run(&agent, &place).await;
        let commits = tables.commits();
        tables.order(None);
        (place, agent, history, commits)
    };
    let commits = run(None).await.3;
    for number in 0..commits {
        let stops = [Stop::At(number), Stop::LoseAnswer(number), Stop::From(number)];
        let chosen = if is_long() {
            &stops[..]
        } else {
            &stops[number % 3..][..1]
        };
        for stop in chosen {
            let (place, agent, history, _) = run(Some(*stop)).await;
            let what = format!("commits of the catalog: {stop:?}");
            reopen_and_examine(&agent, &place, &history.told, &what).await;
        }
    }
}

/// A pack whose put failed may be there, in the page cache at least: putting it again could be answered well and write
/// nothing. So the writer ends, and the next one has packs of its own.
#[tokio::test(flavor = "multi_thread")]
async fn no_pack_is_put_twice() {
    for number in 0..operations().await {
        let faulty = Faulty::over(Arc::new(InMemory::new()));
        faulty.order([Fault::Refuse(number)]);
        History::run(&Agent::with_catalog(), &Place::Faulty(faulty.clone())).await;
        let mut put = std::collections::BTreeSet::new();
        for event in faulty.journal() {
            if event.kind == Kind::Put && event.step == Step::Began && event.path.contains("/packs/") {
                assert!(put.insert(event.path.clone()), "{} was put twice", event.path);
            }
        }
    }
}

/// A commit is written and its answer lost. The caller is told that nobody knows, and learns it by asking again.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_an_answer_is_in_doubt_until_it_is_repeated() {
    let faulty = Faulty::over(Arc::new(InMemory::new()));
    let (_store, repository) = Agent::with_catalog()
        .open(&Place::Faulty(faulty.clone()))
        .await
        .unwrap();
    faulty.hold(|kind, path| kind == Kind::Put && path.contains("/packs/"));
    let options = PutOptions {
        put_id: Some([5; 16]),
        ..PutOptions::default()
    };
    let putting = {
        let (repository, options) = (repository.clone(), options.clone());
        tokio::spawn(async move { repository.put("object", &b"once"[..], options).await })
    };
    let commit = faulty.held(|_| true).await;
    faulty.hold_no_more();
    assert!(faulty.lose_answer(commit.operation).await);
    let error = putting.await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Reason::OutcomeUnknown, "{error}");
    let again = repository.put("object", &b"once"[..], options).await.unwrap();
    assert_eq!(again.object.version, 1, "the first one counts");
    assert_eq!(repository.status().unwrap().objects, 1);
}
