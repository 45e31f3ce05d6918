//! What has to hold of a store that was left by a crash, whoever opens it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use cairn_agent::backend::{Backend, ErrorKind};
use cairn_agent::catalog::{Catalog, Kept, Limits, Location, Lookup, PackRow, RepositoryCatalog};
use cairn_agent::engine::{
    ByteRange, Precondition, PutOptions, ReclaimOptions, Repository, ScrubOptions, ScrubProgress, Store,
};
use cairn_agent::format::keyring::open_keyring;
use cairn_agent::format::names::{parse_keyring, parse_pack};
use cairn_agent::format::pack::{open_pack_directory, parse_trailer};
use cairn_agent::format::{Directory, Hash32, Kek, PackId, PackName, Secrets};
use cairn_agent::testkit::faulty::{Event, Faulty, FaultyTables, Kind, Step, store_of};

use super::history::agent;
use super::told::Told;
use crate::world::{Place, names, noise, read, rng};

/// A store and a catalog as a crash left them, and what was told before it.
pub(crate) struct Left {
    pub(crate) what: String,
    pub(crate) objects: BTreeMap<String, Bytes>,
    pub(crate) catalog: FaultyTables,
    pub(crate) told: Told,
}

impl Left {
    /// Opens it, and goes on with it.
    pub(crate) async fn examine(self) {
        let Self {
            what,
            objects,
            catalog,
            told,
        } = self;
        let faulty = Faulty::over(store_of(&objects).await);
        let place = Place::Faulty(faulty.clone());
        let agent = agent(&catalog);
        let opened = agent.open(&place).await;
        let (store, repository) = opened.unwrap_or_else(|error| panic!("{what}: it does not open: {error:?}"));
        told.check(&contents(&repository, &what).await, &what);
        repeat(&repository, &told, &what).await;
        let found = go_on(&repository, &what).await;
        scrub(&repository, &what).await;
        compare_with_rebuilt(&repository, &catalog, &objects_of(&faulty).await, &what).await;
        assert!(
            contents(&repository, &what).await == found,
            "{what}: rebuild changed an object"
        );
        store.close().await;
        drop((store, repository));
        check_log(&objects_of(&faulty).await, &what);
        nothing_was_sealed_twice(&objects, &faulty.journal());
        reopen_elsewhere(&place, &found, &what).await;
    }
}

/// Every object, read.
pub(crate) async fn contents(repository: &Repository, what: &str) -> BTreeMap<String, Arc<Vec<u8>>> {
    let mut contents = BTreeMap::new();
    for name in names(repository).await {
        let bytes = read(repository, &name, ByteRange::All).await;
        let bytes = bytes.unwrap_or_else(|error| panic!("{what}: {name:?} is listed and cannot be read: {error:?}"));
        contents.insert(name, Arc::new(bytes));
    }
    contents
}

/// Callers without an answer ask again: the put happens once.
async fn repeat(repository: &Repository, told: &Told, what: &str) {
    for act in &told.unanswered {
        let bytes = act.wrote.clone().expect("only puts are repeated");
        let former = repository.stat(&act.name).await.ok().map(|object| object.version);
        let there = match former {
            Some(_) => read(repository, &act.name, ByteRange::All).await.unwrap() == *bytes,
            None => false,
        };
        let options = PutOptions {
            put_id: act.put_id,
            ..PutOptions::default()
        };
        let outcome = repository.put(&act.name, bytes.as_slice(), options).await;
        let outcome = outcome.unwrap_or_else(|error| panic!("{what}: {:?} again: {error:?}", act.name));
        if there {
            assert_eq!(
                Some(outcome.object.version),
                former,
                "{what}: {:?} was put twice",
                act.name
            );
        }
        assert!(
            read(repository, &act.name, ByteRange::All).await.unwrap() == *bytes,
            "{what}"
        );
    }
}

/// The store is used as before: the same content comes and goes, and space comes back.
async fn go_on(repository: &Repository, what: &str) -> BTreeMap<String, Arc<Vec<u8>>> {
    let fails = |error: cairn_agent::engine::Error| -> ! { panic!("{what}: going on: {error:?}") };
    for (name, seed, len) in [
        ("probe 1", 2, 1300 << 10),
        ("probe 2", 5, 1300 << 10),
        ("probe 3", 1, 9 << 10),
    ] {
        let bytes = noise(&mut rng(seed), len);
        let put = repository.put(name, bytes.as_slice(), PutOptions::default()).await;
        put.unwrap_or_else(|error| fails(error));
        assert!(
            read(repository, name, ByteRange::All)
                .await
                .unwrap_or_else(|error| fails(error))
                == bytes
        );
    }
    repository
        .delete("probe 2", Precondition::None)
        .await
        .unwrap_or_else(|error| fails(error));
    let found = contents(repository, what).await;
    let reclaimed = repository.reclaim(ReclaimOptions::THOROUGH).await;
    reclaimed.unwrap_or_else(|error| fails(error));
    assert!(
        contents(repository, what).await == found,
        "{what}: reclaim changed an object"
    );
    found
}

/// Everything stored is whole, and every counter is what the manifests say.
async fn scrub(repository: &Repository, what: &str) {
    let options = ScrubOptions {
        repair: false,
        ..ScrubOptions::default()
    };
    let report = repository.scrub(options, &ScrubProgress::default()).await;
    let report = report.unwrap_or_else(|error| panic!("{what}: scrub: {error:?}"));
    assert!(report.is_sound() && report.unknown.is_empty(), "{what}: {report:#?}");
}

/// Counters and tables are what a rebuild finds.
async fn compare_with_rebuilt(
    repository: &Repository,
    tables: &FaultyTables,
    objects: &BTreeMap<String, Bytes>,
    what: &str,
) {
    // Packs of puts that failed may still be on their way.
    repository.close().await;
    let catalog = open_catalog(repository, tables, &secrets(objects));
    let (before, status) = (in_use(&catalog), repository.status().unwrap());
    let rebuilt = repository.rebuild().await;
    let rebuilt = rebuilt.unwrap_or_else(|error| panic!("{what}: rebuild: {error:?}"));
    assert_eq!(rebuilt, status, "{what}");
    assert_eq!(in_use(&catalog), before, "{what}: the rebuilt catalog is another one");
}

pub(crate) fn open_catalog(repository: &Repository, tables: &FaultyTables, secrets: &Secrets) -> RepositoryCatalog {
    let location = Location::Kept(Kept(Arc::new(tables.clone())));
    let catalog = Catalog::open(&location, &Limits::default()).unwrap();
    catalog.repository(repository.id(), &secrets.catalog_keys()).unwrap()
}

/// What a catalog says of everything in use, as text: ids with counters and places, packs, put ids, heads.
fn in_use(catalog: &RepositoryCatalog) -> Vec<String> {
    let mut lines = Vec::new();
    for pack in catalog.packs_page(None, usize::MAX).unwrap() {
        if pack.condemned_at != 0 {
            continue;
        }
        let PackRow {
            name,
            kind,
            size,
            live,
            live_bytes,
            log_number,
            ..
        } = &pack;
        lines.push(format!("{name:?} {kind:?} {size} {live} {live_bytes} {log_number}"));
        for entry in catalog.entries(pack.name.number).unwrap().unwrap_or_default().entries {
            let row = catalog.chunk(&entry.id).unwrap();
            lines.extend(row.filter(|row| row.count > 0).map(|row| format!("{row:?}")));
        }
    }
    lines.extend(
        catalog
            .objects_page(None, usize::MAX)
            .unwrap()
            .iter()
            .map(|row| format!("{row:?}")),
    );
    lines.extend(catalog.put_ids().unwrap().iter().map(|row| format!("{row:?}")));
    lines.extend(
        catalog
            .heads_page(None, usize::MAX)
            .unwrap()
            .iter()
            .map(|row| format!("{row:?}")),
    );
    lines
}

/// Whoever comes without a catalog finds the same.
async fn reopen_elsewhere(place: &Place, found: &BTreeMap<String, Arc<Vec<u8>>>, what: &str) {
    let (_store, repository): (Store, Repository) = agent(&FaultyTables::default()).open(place).await.unwrap();
    assert!(
        contents(&repository, what).await == *found,
        "{what}: another agent finds something else"
    );
}

/// Everything in a store, of one listing: what goes while it is read, as old checkpoints do behind a commit, begins it anew.
pub(crate) async fn objects_of(faulty: &Faulty) -> BTreeMap<String, Bytes> {
    const LISTINGS: usize = 100;
    let backend: Backend = faulty.backend();
    'listing: for _ in 0..LISTINGS {
        let mut objects = BTreeMap::new();
        for file in backend.list("", None).await.unwrap() {
            match backend.get(&file.path).await {
                Err(error) if error.kind() == ErrorKind::NotFound => continue 'listing,
                bytes => objects.insert(file.path, bytes.unwrap()),
            };
        }
        return objects;
    }
    panic!("something was listed {LISTINGS} times and never there to be read");
}

/// The secrets of the one repository in a store.
pub(crate) fn secrets(objects: &BTreeMap<String, Bytes>) -> Secrets {
    let mut keyrings = objects
        .iter()
        .filter(|(path, _)| path.contains("/keyring/") && parse_keyring(path).is_some());
    open_keyring(keyrings.next().expect("a store has a keyring").1, &kek()).unwrap()
}

fn kek() -> Kek {
    crate::world::Agent::forgetful().kek().clone()
}

/// The log ends in the highest number of the newest epoch, is dense and chained, and begins where a checkpoint does.
pub(crate) fn check_log(objects: &BTreeMap<String, Bytes>, what: &str) {
    let secrets = secrets(objects);
    let mut commits: HashMap<Hash32, (PackName, Directory)> = HashMap::new();
    for (path, bytes) in objects {
        let Some(name) = parse_pack(path).filter(|_| path.contains("/packs/")) else {
            continue;
        };
        let directory = open_pack_directory(&secrets, &name, bytes).unwrap();
        if directory.commit.is_some() {
            commits.insert(
                parse_trailer(bytes, bytes.len() as u64).unwrap().hash(),
                (name, directory),
            );
        }
    }
    let number =
        |(name, directory): &(PackName, Directory)| (name.number.epoch, directory.commit.as_ref().unwrap().log_number);
    let Some(mut newest) = commits.values().max_by_key(|commit| number(commit)) else {
        return;
    };
    let length = number(newest).1;
    while let Some(before) = commits.get(&newest.1.commit.as_ref().unwrap().previous) {
        assert_eq!(number(before).1 + 1, number(newest).1, "{what}: the log is not dense");
        newest = before;
    }
    let first = number(newest).1;
    let covered = objects.keys().any(|path| path.contains("/checkpoints/"));
    assert!(
        first == 1 || covered,
        "{what}: of {length} commits the first {first} are gone"
    );
}

/// No key and nonce were used for two different blobs: neither in what was there nor in what was put.
pub(crate) fn nothing_was_sealed_twice(before: &BTreeMap<String, Bytes>, journal: &[Event]) {
    let mut packs: HashMap<PackId, Bytes> = HashMap::new();
    let mut sealed: HashMap<(PackId, u32), Bytes> = HashMap::new();
    let mut all = before.clone();
    let puts = journal
        .iter()
        .filter(|event| event.kind == Kind::Put && event.step == Step::Began);
    let puts: Vec<_> = puts
        .map(|event| (event.path.clone(), event.payload.clone().unwrap()))
        .collect();
    all.extend(puts.iter().cloned());
    if !all.keys().any(|path| path.contains("/keyring/")) {
        return;
    }
    let secrets = secrets(&all);
    let packs_put = before
        .iter()
        .map(|(path, bytes)| (path.clone(), bytes.clone()))
        .chain(puts);
    for (path, bytes) in packs_put.filter(|(path, _)| path.contains("/packs/")) {
        let Some(name) = parse_pack(&path) else { continue };
        if let Some(former) = packs.insert(name.id, bytes.clone()) {
            assert!(former == bytes, "{path} was put with two contents");
            continue;
        }
        let directory = open_pack_directory(&secrets, &name, &bytes).unwrap();
        for entry in &directory.entries {
            let blob = bytes.slice(entry.offset as usize..entry.end() as usize);
            let nonce = (directory.births[entry.birth as usize].pack, entry.ordinal);
            if let Some(former) = sealed.insert(nonce, blob.clone()) {
                assert!(former == blob, "{path}: a nonce was used twice");
            }
        }
    }
}
