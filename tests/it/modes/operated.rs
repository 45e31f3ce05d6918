//! Keys, operators, other owners, and restarts.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use cairn_agent::backend::{Attach, Backend, Location};
use cairn_agent::catalog;
use cairn_agent::engine::{Mode, NewRepository, Reason, Status, Store};

use super::{Agent, codes, delete, first, kek, options, put, reclaim, refused, roomy};

fn at(directory: &Path) -> catalog::Location {
    catalog::Location::Directory(directory.join("catalog"))
}

fn open_names(status: &Status) -> Vec<&str> {
    status
        .repositories
        .iter()
        .map(|repository| repository.name.as_str())
        .collect()
}

fn closed_names(status: &Status) -> Vec<&str> {
    status.closed.iter().map(|header| header.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_keys_are_told_and_their_coming_and_going() {
    let home = roomy();
    let mut options = options(&home.path().join("store"), at(home.path()));
    options.keks.push(kek("other", 8));
    let store = Store::open_or_create(options.clone(), first()).await.unwrap();
    let other = NewRepository {
        key_id: Some("other".to_owned()),
        ..NewRepository::named("other").unwrap()
    };
    store.create_repository(other).await.unwrap();
    // Made with the newest key as well.
    let default_key = store.repositories().await[0].key_id.clone();
    assert_eq!(default_key, "other");
    put(&store.repository("default").await.unwrap(), "a", 1000)
        .await
        .unwrap();
    store.close().await;
    drop(store);

    options.keks.clear();
    let mut agent = Agent::over(Store::open_or_empty(options).await.unwrap());
    let without = agent.until_mode(Mode::KeysUnavailable).await;
    assert_eq!(codes(&without), ["KEYS"]);
    assert_eq!((without.causes[0].value, without.causes[0].threshold), (2, 2));
    assert_eq!((open_names(&without), closed_names(&without).len()), (vec![], 2));
    let refusal = agent.store.repository("default").await.err().unwrap();
    assert_eq!(refusal.reason(), Reason::KeysUnavailable);

    agent.store.load_key(kek("test", 7)).await.unwrap();
    let mut mine = NewRepository::named("mine").unwrap();
    mine.key_id = Some("test".to_owned());
    agent.store.create_repository(mine).await.unwrap();
    let some = agent.until(|status| status.mode == Mode::Optimal).await;
    assert_eq!(codes(&some), ["KEYS"], "the others lack theirs");
    assert_eq!(
        (some.causes[0].value, some.causes[0].threshold, some.causes[0].mode),
        (2, 3, Mode::Optimal)
    );
    assert_eq!(
        (open_names(&some), closed_names(&some)),
        (vec!["mine"], vec!["default", "other"])
    );

    agent.store.load_key(kek("other", 8)).await.unwrap();
    let all = agent.until(|status| status.repositories.len() == 3).await;
    assert_eq!(
        (all.mode, codes(&all), closed_names(&all).len()),
        (Mode::Optimal, vec![], 0)
    );
    agent.store.unload_key("other").await;
    agent.store.unload_key("test").await;
    agent.until_mode(Mode::KeysUnavailable).await;
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_read_only_survives_a_restart_and_lets_deletes_through() {
    let home = roomy();
    let (directory, catalog) = (home.path().join("store"), at(home.path()));
    let mut agent = Agent::in_directory(&directory, catalog.clone()).await;
    let repository = agent.repository().await;
    put(&repository, "a", 1000).await.unwrap();
    put(&repository, "b", 1000).await.unwrap();
    let status = agent.store.set_read_only(true).await.unwrap();
    assert!(status.mode == Mode::ReadOnly && codes(&status).contains(&"READ_ONLY_REQUESTED"));
    let told = agent.until_mode(Mode::ReadOnly).await;
    drop(repository);
    agent.end().await;

    let mut agent = Agent::in_directory(&directory, catalog).await;
    let again = agent.until_mode(Mode::ReadOnly).await;
    assert_eq!((again.since_ms, again.sequence), (told.since_ms, told.sequence));
    assert_ne!(again.boot_id, told.boot_id);
    let repository = agent.repository().await;
    assert_eq!(refused(&repository, "c").await, Reason::ReadOnly);
    let copied = repository.copy("a", "c", Default::default()).await;
    assert_eq!(copied.unwrap_err().reason(), Reason::ReadOnly);
    delete(&repository, "a").await;
    reclaim(&repository).await;
    repository.verify("b").await.unwrap();
    agent.store.set_read_only(false).await.unwrap();
    agent.until(|status| status.mode < Mode::ReadOnly).await;
    put(&repository, "c", 1000).await.unwrap();
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mode_keeps_its_beginning_over_a_restart() {
    let home = roomy();
    let (directory, catalog) = (home.path().join("store"), at(home.path()));
    let mut seen: Vec<Status> = Vec::new();
    for _ in 0..3 {
        let store = Store::open_or_create(options(&directory, catalog.clone()), first())
            .await
            .unwrap();
        assert_eq!(store.watch_status().borrow().mode, Mode::Initializing);
        for _ in 0..2 {
            seen.push(store.status().await.unwrap());
        }
        assert_eq!(store.watch_status().borrow().sequence, 1);
    }
    assert!(
        seen.iter()
            .all(|status| status.sequence == 1 && status.since_ms == seen[0].since_ms)
    );
    assert_eq!(seen[0].boot_id, seen[1].boot_id);
    assert_ne!(seen[1].boot_id, seen[2].boot_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_overtaken_says_so() {
    let location = Location::Memory("overtaken".to_owned());
    let backend = Backend::attach(&location, Attach::Existing).await.unwrap();
    let open = async || {
        let options = options(Path::new("nowhere"), catalog::Location::Memory);
        Store::open_on(options, backend.clone(), first()).await.unwrap()
    };
    let mut agent = Agent::over(open().await);
    let repository = agent.repository().await;
    put(&repository, "a", 1000).await.unwrap();
    agent.until_mode(Mode::Optimal).await;
    let other = open().await;
    put(&other.repository("default").await.unwrap(), "b", 1000)
        .await
        .unwrap();
    assert_eq!(refused(&repository, "c").await, Reason::Fenced);
    let fenced = agent.until_mode(Mode::ReadOnly).await;
    assert_eq!((codes(&fenced), fenced.causes[0].value), (vec!["FENCED"], 1));
    assert_eq!(refused(&repository, "c").await, Reason::Fenced);
    agent.end().await;
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_set_back_takes_no_puts_until_somebody_accepts_it() {
    let home = roomy();
    let (directory, older, catalog) = (home.path().join("store"), home.path().join("older"), at(home.path()));
    for (name, copied) in [("a", true), ("b", false)] {
        let store = Store::open_or_create(options(&directory, catalog.clone()), first())
            .await
            .unwrap();
        put(&store.repository("default").await.unwrap(), name, 1000)
            .await
            .unwrap();
        store.close().await;
        if copied {
            copy_all(&directory, &older);
        }
    }
    fs::remove_dir_all(&directory).unwrap();
    fs::rename(&older, &directory).unwrap();

    let mut agent = Agent::in_directory(&directory, catalog).await;
    let back = agent.until_mode(Mode::ReadOnly).await;
    assert_eq!(codes(&back)[0], "ROLLED_BACK");
    let repository = agent.repository().await;
    assert_eq!(refused(&repository, "c").await, Reason::RolledBack);
    repository.verify("a").await.unwrap();
    agent.store.set_read_only(false).await.unwrap();
    put(&repository, "c", 1000).await.unwrap();
    agent.until(|status| status.mode < Mode::ReadOnly).await;
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_repository_that_cannot_be_opened_does_not_hide_the_others() {
    let home = roomy();
    let directory = home.path().join("store");
    let store = Store::open_or_create(options(&directory, at(home.path())), first())
        .await
        .unwrap();
    put(&store.repository("default").await.unwrap(), "a", 1000)
        .await
        .unwrap();
    let other = store
        .create_repository(NewRepository::named("other").unwrap())
        .await
        .unwrap();
    put(&other, "a", 1000).await.unwrap();
    let packs = directory.join(other.id().to_string()).join("packs");
    store.close().await;
    drop((store, other));
    for file in crate::support::files_below(&packs) {
        fs::write(file, "not a pack").unwrap();
    }

    let anew = options(&directory, at(&home.path().join("anew")));
    let store = Store::open(anew).await.unwrap();
    let status = store.status().await.unwrap();
    assert_eq!(
        (open_names(&status), closed_names(&status)),
        (vec!["default"], vec!["other"])
    );
    assert!(status.mode <= Mode::LowCapacity, "{status:?}");
    assert!(codes(&status).contains(&"REPOSITORY"), "{status:?}");
    let status = Arc::new(status);
    assert_eq!(status.causes.last().unwrap().value, 1);
}
