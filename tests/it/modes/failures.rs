//! A storage that fails, and gets well again.

use std::sync::Arc;

use cairn_agent::backend::Location;
use cairn_agent::catalog::Location::Memory;
use cairn_agent::engine::{Mode, Store};
use cairn_agent::testkit::faulty::{Fault, Faulty, Saying};
use object_store::memory::InMemory;

use super::{Agent, codes, first, options, put};

async fn agent(faulty: &Faulty) -> Agent {
    let mut options = options(std::path::Path::new("nowhere"), Memory);
    options.location = Location::Memory("elsewhere".to_owned());
    let mut agent = Agent::over(Store::open_on(options, faulty.backend(), first()).await.unwrap());
    agent.until_mode(Mode::Optimal).await;
    agent
}

/// What the storage says, and what the agent makes of it.
const FAILURES: [(Saying, Mode, &str); 6] = [
    (Saying::Errno(5), Mode::IoErrors, "IO_ERROR"),
    (Saying::NotSynced, Mode::IoErrors, "FSYNC_FAILED"),
    (Saying::Errno(110), Mode::IoErrors, "UNREACHABLE"),
    (Saying::Errno(13), Mode::AuthFailed, "PERMISSION"),
    (Saying::Errno(28), Mode::NoCapacity, "NO_SPACE"),
    (Saying::Errno(30), Mode::ReadOnly, "READ_ONLY_FILESYSTEM"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_fails_is_told_at_once_and_until_it_works_again() {
    for (saying, mode, code) in FAILURES {
        let faulty = Faulty::over(Arc::new(InMemory::new()));
        let mut agent = agent(&faulty).await;
        let repository = agent.repository().await;
        put(&repository, "a", 100_000).await.unwrap();
        faulty.order_saying(Some(Fault::Freeze(0)), saying);
        put(&repository, "b", 100_000).await.unwrap_err();
        let failed = agent.until_mode(mode).await;
        assert_eq!(codes(&failed), [code]);
        assert!(failed.causes[0].value >= 1, "failures are counted");
        // It goes on failing trial writes, so it goes on being told for longer than a failure counts.
        let failures = failed.causes[0].value;
        let again = agent
            .until(move |status| status.causes.iter().any(|cause| cause.value > failures))
            .await;
        assert_eq!((again.mode, again.sequence), (mode, failed.sequence));
        faulty.order(None);
        let well = agent.until_mode(Mode::Optimal).await;
        assert!(well.causes.is_empty() && well.sequence > failed.sequence);
        put(&repository, "b", 100_000).await.unwrap();
        repository.verify("a").await.unwrap();
        agent.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_fails_counts_too() {
    let faulty = Faulty::over(Arc::new(InMemory::new()));
    let mut agent = agent(&faulty).await;
    let repository = agent.repository().await;
    put(&repository, "a", 3_000_000).await.unwrap();
    faulty.order_saying(Some(Fault::Freeze(0)), Saying::Errno(5));
    repository.verify("a").await.unwrap_err();
    faulty.order(None);
    let failed = agent.until_mode(Mode::IoErrors).await;
    assert_eq!(codes(&failed), ["IO_ERROR"]);
    // One failure refuses nothing: the next put shows that it works.
    put(&repository, "b", 1000).await.unwrap();
    agent.until_mode(Mode::Optimal).await;
    assert_eq!(repository.status().unwrap().objects, 2);
    agent.end().await;
}
