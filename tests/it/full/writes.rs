//! Every write of a history may be the one that finds no room: somebody else leaves so much and no more.

use std::collections::BTreeMap;
use std::path::Path;

use cairn_agent::engine::{ByteRange, Error, PutOptions, ReclaimOptions, Repository, Store};

use super::{Disk, Foreign, KIB, MIB, Mode, Operated, contents, options};
use crate::support::is_long;
use crate::world::{names, read};

/// What each object may be, from what was answered.
#[derive(Default)]
struct Told(BTreeMap<String, Vec<Option<Vec<u8>>>>);

impl Told {
    fn write(&mut self, name: &str, new: Option<Vec<u8>>, is_done: bool) {
        let may_be = self.0.entry(name.to_owned()).or_insert_with(|| vec![None]);
        if is_done {
            may_be.clear();
        }
        may_be.push(new);
    }

    async fn put(&mut self, repository: &Repository, name: &str, seed: &str, len: u64) -> Result<(), Error> {
        let bytes = contents(seed, len);
        let put = repository.put(name, bytes.as_slice(), PutOptions::default()).await;
        self.write(name, Some(bytes), put.is_ok());
        put.map(drop)
    }

    async fn delete(&mut self, repository: &Repository, name: &str) -> bool {
        let deleted = repository.delete(name, Default::default()).await;
        self.write(name, None, deleted.is_ok());
        deleted.is_ok()
    }

    async fn check(&self, repository: &Repository, what: &str) {
        let listed = names(repository).await;
        for (name, may_be) in &self.0 {
            let found = match listed.contains(name) {
                true => Some(
                    read(repository, name, ByteRange::All)
                        .await
                        .unwrap_or_else(|error| panic!("{what}: {name}: {error:?}")),
                ),
                false => None,
            };
            let len = found.as_ref().map(Vec::len);
            assert!(may_be.contains(&found), "{what}: {name} is not what it may be: {len:?}");
        }
        assert!(
            listed.iter().all(|name| self.0.contains_key(name)),
            "{what}: {listed:?}"
        );
    }
}

/// Returns whether the deletes went well.
async fn meet(volume: &Path, left: u64) -> bool {
    let what = format!("{left} bytes left");
    let mut told = Told::default();
    let mut agent = Operated::on(volume).await.unwrap();
    let repository = agent.repository().await;
    told.put(&repository, "large", "large", 3 * MIB).await.unwrap();
    told.put(&repository, "small", "small", 20 * KIB).await.unwrap();
    told.put(&repository, "other", "other", MIB).await.unwrap();
    agent.until_mode(Mode::Optimal).await;
    agent.until_whole(volume).await;

    let foreign = Foreign::all_but(volume, left);
    let _ = told.put(&repository, "small", "small again", 30 * KIB).await;
    let _ = told.put(&repository, "late", "late", 2 * MIB).await;
    let mut are_deleted = told.delete(&repository, "large").await;
    are_deleted &= told.delete(&repository, "other").await;
    let _ = repository.reclaim(ReclaimOptions::default()).await;
    let _ = told.put(&repository, "later", "later", 300 * KIB).await;
    told.check(&repository, &what).await;
    drop(foreign);
    // The mode from here on, not one that was told before.
    agent.store.status().await.unwrap();
    agent.until_mode(Mode::Optimal).await;
    let last = told.put(&repository, "last", "last", 200 * KIB).await;
    last.unwrap_or_else(|error| panic!("{what}: room is back, and the put failed: {error:?}"));
    told.check(&repository, &what).await;
    drop(repository);
    agent.end().await;

    for catalog in ["store.catalog", "another.catalog"] {
        let store = Store::open(options(volume, &volume.join(catalog))).await.unwrap();
        told.check(&store.repository("default").await.unwrap(), &what).await;
        store.close().await;
    }
    are_deleted
}

#[tokio::test(flavor = "multi_thread")]
async fn any_write_may_find_no_room() {
    let steps: Vec<u64> = match is_long() {
        true => (0..1600).map(|step| step * 4 * KIB).collect(),
        false => (0..22).map(|step| step * step * 13 * KIB).collect(),
    };
    for left in steps {
        let Some(disk) = Disk::memory("size=40m") else {
            return;
        };
        assert!(
            meet(&disk.path(), left).await,
            "{left} bytes left: deletes failed beside a whole reserve"
        );
    }
}
