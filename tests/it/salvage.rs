//! A log that lacks commits: it is opened by nobody who did not ask for that, and then all comes back that the rest of the
//! store leads to.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cairn_agent::engine::{
    ByteRange, Precondition, PutOptions, Reason, ReclaimOptions, Repository, Salvage, ScrubOptions, ScrubProgress,
    Store,
};
use cairn_agent::format::PackKind;
use cairn_agent::format::pack::parse_header;
use cairn_agent::testkit::faulty::{Fault, Faulty, store_of};
use object_store::memory::InMemory;

use crate::crash::examine::objects_of;
use crate::support::{Home, is_long};
use crate::world::{Agent, Place, names, noise, read, rng};

/// Fewer bytes of log than this history comes to.
const SHORT_LOG: u64 = 8 << 10;
const SMALL: usize = 9 << 10;
/// More than a pack.
const LARGE: usize = 1300 << 10;

/// A store, and which commit did what to which object.
struct Fixture {
    objects: BTreeMap<String, Bytes>,
    /// What is there at the end.
    contents: BTreeMap<String, Arc<Vec<u8>>>,
    /// Everything that ever was there.
    ever: BTreeMap<String, Vec<Arc<Vec<u8>>>>,
    /// The object that the commit in a pack was about.
    about: BTreeMap<String, String>,
}

impl Fixture {
    async fn new(checkpoint_log_bytes: u64) -> Self {
        let mut fixture = Self {
            objects: BTreeMap::new(),
            contents: BTreeMap::new(),
            ever: BTreeMap::new(),
            about: BTreeMap::new(),
        };
        let faulty = Faulty::over(Arc::new(InMemory::new()));
        let place = Place::Faulty(faulty.clone());
        let agent = Agent::with_catalog().tuned(|options| options.checkpoint_log_bytes = checkpoint_log_bytes);
        let (store, repository) = agent.open(&place).await.unwrap();
        fixture.put(&faulty, &repository, "first", 1, SMALL).await;
        fixture.put(&faulty, &repository, "large", 2, LARGE).await;
        fixture.put(&faulty, &repository, "gone", 3, SMALL).await;
        repository.delete("gone", Precondition::None).await.unwrap();
        fixture.contents.remove("gone");
        fixture.did(&faulty, "gone").await;
        store.close().await;
        drop((store, repository));
        let (store, repository) = agent.open(&place).await.unwrap();
        fixture.put(&faulty, &repository, "replaced", 4, SMALL).await;
        fixture.put(&faulty, &repository, "replaced", 5, 2 * SMALL).await;
        fixture.put(&faulty, &repository, "large again", 2, LARGE).await;
        fixture.put(&faulty, &repository, "second large", 6, LARGE).await;
        fixture.put(&faulty, &repository, "last", 7, SMALL).await;
        store.close().await;
        let checkpoints = store.counters().checkpoints.value();
        assert_eq!(checkpoints > 0, checkpoint_log_bytes == SHORT_LOG, "{checkpoints}");
        fixture.objects = objects_of(&faulty).await;
        fixture
    }

    async fn put(&mut self, faulty: &Faulty, repository: &Repository, name: &str, seed: u64, len: usize) {
        let bytes = Arc::new(noise(&mut rng(seed), len));
        let put = repository.put(name, bytes.as_slice(), PutOptions::default());
        put.await.unwrap();
        self.ever.entry(name.to_owned()).or_default().push(bytes.clone());
        self.contents.insert(name.to_owned(), bytes);
        self.did(faulty, name).await;
    }

    async fn did(&mut self, faulty: &Faulty, name: &str) {
        for (path, bytes) in objects_of(faulty).await {
            if is_commit(&path, &bytes) {
                self.about.entry(path).or_insert_with(|| name.to_owned());
            }
        }
    }

    /// What there is of the store when something happened to one of its objects.
    fn without(&self, path: &str, happened: Happened) -> BTreeMap<String, Bytes> {
        let mut objects = self.objects.clone();
        let bytes = objects.remove(path).unwrap();
        let left = match happened {
            Happened::Lost => return objects,
            Happened::Cut => bytes.slice(..bytes.len() / 2),
            Happened::Changed => {
                let mut bytes = bytes.to_vec();
                let at = bytes.len() - 300;
                bytes[at] ^= 4;
                bytes.into()
            }
        };
        objects.insert(path.to_owned(), left);
        objects
    }

    /// All is there that the damaged commit was not about; where that needs chunks of the damaged pack, it says so.
    async fn check(&self, repository: &Repository, damaged: &str, what: &str) {
        let about = &self.about[damaged];
        let there = names(repository).await;
        for (name, bytes) in &self.contents {
            if name == about && !there.contains(name) {
                continue;
            }
            match read(repository, name, ByteRange::All).await {
                Ok(found) if name == about => assert!(self.ever[name].contains(&Arc::new(found)), "{what}: {name}"),
                Ok(found) => assert!(found == **bytes, "{what}: {name} reads as something else"),
                Err(error) => assert_eq!(error.reason(), Reason::DataLoss, "{what}: {name}: {error:?}"),
            }
        }
        for name in there.iter().filter(|name| !self.contents.contains_key(*name)) {
            assert_eq!(name, about, "{what}: {name} came back");
        }
    }

    fn commits(&self) -> Vec<String> {
        let commits = self.objects.iter().filter(|(path, bytes)| is_commit(path, bytes));
        commits.map(|(path, _)| path.clone()).collect()
    }
}

#[derive(Clone, Copy, Debug)]
enum Happened {
    Lost,
    Cut,
    Changed,
}

fn is_commit(path: &str, bytes: &[u8]) -> bool {
    path.contains("/packs/") && parse_header(bytes).is_ok_and(|header| header.kind == PackKind::Commit)
}

async fn salvage(place: &Place, what: &str) -> (Store, Repository, Salvage) {
    let store = Agent::forgetful().open_store(place).await.unwrap();
    let salvaged = store.salvage("default").await;
    let (repository, salvage) = salvaged.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    (store, repository, salvage)
}

/// Whoever comes later opens it as any other, and it goes on.
async fn goes_on(place: &Place, about: &str, what: &str) {
    let (store, repository) = Agent::forgetful()
        .open(place)
        .await
        .unwrap_or_else(|error| panic!("{what}: {error:?}"));
    for seed in [2, 6, 9] {
        let bytes = noise(&mut rng(seed), LARGE);
        let name = format!("new {seed}");
        let put = repository.put(&name, bytes.as_slice(), PutOptions::default()).await;
        put.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert!(
            read(&repository, &name, ByteRange::All).await.unwrap() == bytes,
            "{what}"
        );
    }
    // The chunks of these came again. The root of the object that the lost commit was about does not, since a root is of one name:
    // that object is gone, or known and not readable where a checkpoint written meanwhile knew of it.
    for name in ["large", "large again"] {
        match read(&repository, name, ByteRange::All).await {
            Err(error) if name == about && matches!(error.reason(), Reason::ObjectNotFound | Reason::DataLoss) => {}
            Ok(healed) => assert!(healed == noise(&mut rng(2), LARGE), "{what}: {name}"),
            Err(error) => panic!("{what}: {name}: {error:?}"),
        }
    }
    repository.reclaim(ReclaimOptions::default()).await.unwrap();
    let report = repository
        .scrub(ScrubOptions::default(), &ScrubProgress::default())
        .await
        .unwrap();
    assert_eq!(report.contradictions, Vec::<String>::new(), "{what}");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_commit_is_lost_the_rest_comes_back() {
    let mut salvaged = 0;
    for checkpoint_log_bytes in [u64::MAX, SHORT_LOG] {
        let fixture = Fixture::new(checkpoint_log_bytes).await;
        for path in fixture.commits() {
            for happened in [Happened::Lost, Happened::Cut, Happened::Changed] {
                let what = format!("{path} {happened:?}, about {:?}", fixture.about[&path]);
                let faulty = Faulty::over(store_of(&fixture.without(&path, happened)).await);
                let place = Place::Faulty(faulty.clone());
                match Agent::forgetful().open(&place).await {
                    Ok((store, repository)) => {
                        fixture.check(&repository, &path, &what).await;
                        store.close().await;
                        continue;
                    }
                    Err(error) => {
                        assert_eq!(error.reason(), Reason::DataLoss, "{what}: {error:?}");
                        assert!(error.to_string().contains("cairn rebuild --salvage"), "{what}: {error}");
                    }
                }
                let (store, repository, salvage) = self::salvage(&place, &what).await;
                assert!(!salvage.is_nothing(), "{what}: {salvage:?}");
                fixture.check(&repository, &path, &what).await;
                let found = names(&repository).await;
                store.close().await;
                drop((store, repository));
                let (store, repository) = Agent::forgetful().open(&place).await.unwrap();
                assert_eq!(
                    names(&repository).await,
                    found,
                    "{what}: a rebuild finds something else"
                );
                fixture.check(&repository, &path, &what).await;
                store.close().await;
                drop((store, repository));
                goes_on(&place, &fixture.about[&path], &what).await;
                salvaged += 1;
            }
        }
    }
    assert!(salvaged > 10, "{salvaged}");
    println!("{salvaged} salvaged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_salvage_may_end_at_any_moment() {
    let fixture = Fixture::new(u64::MAX).await;
    let commits = fixture.commits();
    let path = &commits[commits.len() - 3];
    let damaged = fixture.without(path, Happened::Changed);
    let mut number = 0;
    loop {
        let what = format!("operation {number} is the last");
        let faulty = Faulty::over(store_of(&damaged).await);
        faulty.order([Fault::Freeze(number)]);
        let place = Place::Faulty(faulty.clone());
        let ended = match Agent::forgetful().open_store(&place).await {
            Ok(store) => {
                let ended = store.salvage("default").await.is_ok();
                store.close().await;
                ended
            }
            Err(_) => false,
        };
        faulty.order(None);
        let (store, repository, _) = salvage(&place, &what).await;
        fixture.check(&repository, path, &what).await;
        store.close().await;
        drop((store, repository));
        goes_on(&place, &fixture.about[path], &what).await;
        if ended {
            break;
        }
        number += if is_long() { 1 } else { 5 };
    }
    assert!(number > 20, "{number}");
}

#[tokio::test]
async fn a_store_that_lacks_nothing_is_opened() {
    let fixture = Fixture::new(SHORT_LOG).await;
    let place = Place::Faulty(Faulty::over(store_of(&fixture.objects).await));
    let (_store, repository, salvage) = salvage(&place, "whole").await;
    assert!(salvage.is_nothing(), "{salvage:?}");
    assert_eq!(
        names(&repository).await,
        fixture.contents.keys().cloned().collect::<Vec<_>>()
    );
}

#[test]
fn the_command_names_what_is_lost() {
    let home = Home::with_object(&noise(&mut rng(1), SMALL));
    home.put("second", b"two");
    home.put("third", b"three");
    std::fs::remove_dir_all(home.path("cairn-store.catalog")).unwrap();
    let packs = home.store_files("/packs/");
    let newest = packs.iter().max().unwrap();
    let mut bytes = std::fs::read(newest).unwrap();
    let at = bytes.len() - 60;
    bytes[at] ^= 1;
    std::fs::write(newest, &bytes).unwrap();
    let name = newest.file_name().unwrap().to_str().unwrap();
    home.run(&["ls"]).fails(65, &[name, "cairn rebuild --salvage"]);
    home.run(&["rebuild"]).fails(65, &[name, "--salvage"]);
    let told = home.run(&["rebuild", "--salvage", "-o", "json"]).json();
    assert!(
        told["salvage"]["given_up"][0].as_str().unwrap().ends_with(name),
        "{told}"
    );
    assert_eq!(told["objects"], 2, "{told}");
    assert!(home.get("before") == noise(&mut rng(1), SMALL));
    assert_eq!(home.get("second"), b"two");
    home.put("third", b"three");
    std::fs::remove_dir_all(home.path("cairn-store.catalog")).unwrap();
    assert_eq!(home.get("third"), b"three");
    let told = home.run(&["rebuild", "--salvage", "-o", "json"]).json();
    assert_eq!(told["salvage"]["given_up"], serde_json::json!([]), "{told}");
}
