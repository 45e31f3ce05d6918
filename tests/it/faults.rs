//! What fails, fails whole: a small history of puts, deletes, copies and reclaims, with every single operation on the
//! store refused, answered wrongly, or the last one that the process did. Afterwards another process finds what was
//! acknowledged, and nothing in halves. And the orders that this rests on, each held by name.

mod mishaps;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cairn_agent::backend::Backend;
use cairn_agent::engine::{ByteRange, Precondition, PutOptions, Reason, ReclaimOptions, Repository, Result};
use cairn_agent::format::checkpoint::{CheckpointHeader, open_checkpoint_file};
use cairn_agent::format::keyring::open_keyring;
use cairn_agent::format::names::{KeyringCopy, parse_checkpoint, parse_keyring, parse_pack};
use cairn_agent::format::pack::{HEADER_LEN, open_pack_directory, parse_header};
use cairn_agent::format::{
    CheckpointKind, CheckpointRoot, Kek, Layout, PackId, PackKind, PackName, PackNumber, Record, Secrets,
};
use cairn_agent::testkit::faulty::{Event, Fault, Faulty, Kind, Saying, Step};
use object_store::memory::InMemory;
use rustix::io::Errno;

use crate::world::{Agent, Place, names, noise, read, rng};

type Contents = Option<Arc<Vec<u8>>>;

/// What each object may be, from what its writers were told.
#[derive(Default)]
struct Told(BTreeMap<String, Vec<Contents>>);

impl Told {
    fn may_be(&self, name: &str) -> Vec<Contents> {
        self.0.get(name).cloned().unwrap_or_else(|| vec![None])
    }

    /// A write ended: if it was acknowledged the object is one of `new`, else it may be so.
    fn write<T>(&mut self, name: &str, new: Vec<Contents>, result: &Result<T>) {
        let mut may_be = if result.is_ok() { Vec::new() } else { self.may_be(name) };
        may_be.extend(new);
        self.0.insert(name.to_owned(), may_be);
    }
}

/// The history that every fault meets. Goes on after a failure, as a service does.
struct History {
    told: Told,
}

impl History {
    async fn run(agent: &Agent, place: &Place) -> Self {
        let mut history = Self { told: Told::default() };
        // Nothing is told while there is no repository: it is opened until a fault stops it for good.
        for _ in 0..2 {
            let Ok((store, repository)) = agent.open(place).await else {
                continue;
            };
            history.first_half(&repository).await;
            store.close().await;
        }
        if let Ok((store, repository)) = agent.open(place).await {
            history.second_half(&repository).await;
            store.close().await;
        }
        history
    }

    async fn first_half(&mut self, repository: &Repository) {
        self.put(repository, "small", 1, 9 << 10).await;
        self.put(repository, "packs", 2, 2300 << 10).await;
        self.put(repository, "small", 3, 12 << 10).await;
        self.copy(repository, "packs", "copy").await;
        self.delete(repository, "packs").await;
    }

    async fn second_half(&mut self, repository: &Repository) {
        self.put(repository, "other", 4, 700 << 10).await;
        self.delete(repository, "copy").await;
        drop(repository.reclaim(ReclaimOptions::default()).await);
        // The same bytes as those that are being reclaimed.
        self.put(repository, "again", 2, 2300 << 10).await;
        self.delete(repository, "small").await;
        drop(repository.reclaim(ReclaimOptions::default()).await);
        self.put(repository, "empty", 0, 0).await;
    }

    async fn put(&mut self, repository: &Repository, name: &str, seed: u64, len: usize) {
        let bytes = Arc::new(noise(&mut rng(seed), len));
        let result = repository.put(name, bytes.as_slice(), PutOptions::default()).await;
        self.told.write(name, vec![Some(bytes)], &result);
    }

    async fn delete(&mut self, repository: &Repository, name: &str) {
        let result = repository.delete(name, Precondition::None).await;
        self.told.write(name, vec![None], &result);
    }

    async fn copy(&mut self, repository: &Repository, from: &str, to: &str) {
        let source = self.told.may_be(from);
        match repository.copy(from, to, PutOptions::default()).await {
            Err(error) if error.reason() == Reason::ObjectNotFound => {
                assert!(
                    source.contains(&None),
                    "{from:?} was acknowledged and is not there to be copied"
                );
            }
            result => {
                let there = source.into_iter().filter(Option::is_some).collect();
                self.told.write(to, there, &result);
            }
        }
    }
}

/// The store opens, and [`examine`] finds what its writers were told.
async fn reopen_and_examine(agent: &Agent, place: &Place, told: &Told, what: &str) {
    let (store, repository) = agent
        .open(place)
        .await
        .unwrap_or_else(|error| panic!("{what}: {error:?}"));
    examine(&repository, told, what).await;
    store.close().await;
}

/// The repository holds what its writers were told, and goes on doing so through reclaim and rebuild.
async fn examine(repository: &Repository, told: &Told, what: &str) {
    let found = contents(repository).await;
    for name in told.0.keys().chain(found.keys()) {
        let object = found.get(name).cloned();
        assert!(
            told.may_be(name).contains(&object),
            "{what}: {name:?} is {}",
            describe(&object)
        );
    }
    repository
        .reclaim(ReclaimOptions::default())
        .await
        .unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert!(contents(repository).await == found, "{what}: reclaim changed an object");
    let replayed = repository.status().unwrap();
    let rebuilt = repository
        .rebuild()
        .await
        .unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert_eq!(rebuilt, replayed, "{what}");
    assert!(contents(repository).await == found, "{what}: rebuild changed an object");
}

async fn contents(repository: &Repository) -> BTreeMap<String, Arc<Vec<u8>>> {
    let mut contents = BTreeMap::new();
    for name in names(repository).await {
        let bytes = read(repository, &name, ByteRange::All).await;
        let bytes = bytes.unwrap_or_else(|error| panic!("{name:?} is listed but cannot be read: {error:?}"));
        contents.insert(name, Arc::new(bytes));
    }
    contents
}

fn describe(object: &Contents) -> String {
    object.as_ref().map_or("absent".to_owned(), |bytes| {
        format!("something else, of {} bytes", bytes.len())
    })
}

/// How the process comes back.
#[derive(Clone, Copy, Debug)]
enum Catalog {
    Kept,
    Lost,
}

async fn meet(fault: impl Fn(usize) -> Fault) {
    meet_saying(fault, Saying::Nothing).await;
}

async fn meet_saying(fault: impl Fn(usize) -> Fault, saying: Saying) {
    let operations = {
        let faulty = Faulty::over(Arc::new(InMemory::new()));
        History::run(&Agent::with_catalog(), &Place::Faulty(faulty.clone())).await;
        faulty.operations()
    };
    assert!(
        operations > 60,
        "the history is shorter than it was: {operations} operations"
    );
    // Each fault changes what comes after it, so some of these histories are longer.
    for number in 0..operations + 10 {
        let fault = fault(number);
        let faulty = Faulty::over(Arc::new(InMemory::new()));
        let place = Place::Faulty(faulty.clone());
        faulty.order_saying(Some(fault), saying);
        let mut agent = Agent::with_catalog();
        let history = History::run(&agent, &place).await;
        faulty.order(None);
        let catalog = if number % 2 == 0 { Catalog::Kept } else { Catalog::Lost };
        if let Catalog::Lost = catalog {
            agent.forget();
        }
        let what = format!("{fault:?}, catalog {catalog:?}");
        reopen_and_examine(&agent, &place, &history.told, &what).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_operation_may_be_refused() {
    meet(Fault::Refuse).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_operation_may_find_no_room() {
    let full = Errno::NOSPC.raw_os_error();
    meet_saying(Fault::Refuse, Saying::Errno(full)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_answer_may_be_lost() {
    meet(Fault::LoseAnswer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_operation_may_be_the_last() {
    meet(Fault::Freeze).await;
}

/// A put relies on a pack in which nothing is in use any more, and is not at its end when a reclaim runs.
#[tokio::test(flavor = "multi_thread")]
async fn reclaim_never_drops_a_pack_that_a_put_relies_on() {
    let place = Place::memory();
    let (_store, repository) = Agent::with_catalog().open(&place).await.unwrap();
    let bytes = noise(&mut rng(5), 16 << 20);
    repository
        .put("first", bytes.as_slice(), PutOptions::default())
        .await
        .unwrap();
    repository.delete("first", Precondition::None).await.unwrap();

    let (source, gate) = Gated::over(bytes.clone(), 12 << 20);
    let putting = {
        let repository = repository.clone();
        tokio::spawn(async move { repository.put("second", source, PutOptions::default()).await })
    };
    gate.reached().await;
    repository.reclaim(ReclaimOptions::default()).await.unwrap();
    // Whatever the put found before is still there; a commit between makes sure that nothing waits to go.
    repository
        .put("between", &b"x"[..], PutOptions::default())
        .await
        .unwrap();
    repository.reclaim(ReclaimOptions::default()).await.unwrap();
    gate.open();
    let outcome = putting.await.unwrap().unwrap();
    assert!(
        outcome.new_bytes < 8 << 20,
        "the put found nothing of what was there: {outcome:?}"
    );
    assert!(read(&repository, "second", ByteRange::All).await.unwrap() == bytes);
    repository.rebuild().await.unwrap();
    assert!(read(&repository, "second", ByteRange::All).await.unwrap() == bytes);
}

/// A put stores a leaf over chunks that it found, and is given up. Its leaf is in a pack, which is introduced later.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_abandoned_leaf_names_stays_until_it_is_counted() {
    let place = Place::memory();
    let (_store, repository) = Agent::with_catalog().open(&place).await.unwrap();
    // Ids are other ones in each repository, and decide where a leaf ends: here is more than fits into the longest.
    let bytes = noise(&mut rng(6), 27 << 20);
    repository
        .put("first", bytes.as_slice(), PutOptions::default())
        .await
        .unwrap();
    // Cut alike, but for the first chunks: so the first leaf is another one, of chunks that are known.
    let other = [&noise(&mut rng(7), 40 << 10), &bytes[..]].concat();
    repository.delete("first", Precondition::None).await.unwrap();
    let (source, gate) = Gated::over(other, 26 << 20);
    let putting = {
        let repository = repository.clone();
        tokio::spawn(async move { repository.put("second", source, PutOptions::default()).await })
    };
    gate.reached().await;
    putting.abort();
    drop(putting.await);
    for round in 0..3 {
        repository.reclaim(ReclaimOptions::default()).await.unwrap();
        repository
            .put(&format!("round {round}"), &b"x"[..], PutOptions::default())
            .await
            .unwrap();
    }
    repository.reclaim(ReclaimOptions::default()).await.unwrap();
    let status = repository.status().unwrap();
    assert!(status.unique_bytes < 1 << 10, "{status:?}");
    assert_eq!(repository.rebuild().await.unwrap(), status);
}

/// Chunks that a put brought and did not commit are not there for the next writer of the same process.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_closed_writer_did_not_commit_is_stored_anew() {
    let place = Place::memory();
    let (_store, repository) = Agent::with_catalog().open(&place).await.unwrap();
    // More than is cut at once, less than fills a second pack.
    let bytes = noise(&mut rng(8), 1500 << 10);
    let (source, gate) = Gated::over([&bytes[..], &bytes].concat(), bytes.len());
    drop(gate);
    repository
        .put("given up", source, PutOptions::default())
        .await
        .unwrap_err();
    repository.close().await;
    repository
        .put("kept", bytes.as_slice(), PutOptions::default())
        .await
        .unwrap();
    assert!(read(&repository, "kept", ByteRange::All).await.unwrap() == bytes);
}

/// Another owner may have cleared away a segment that has not changed since.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_refers_to_nothing_that_is_gone() {
    let place = Place::memory();
    let agent = Agent::with_catalog();
    let (_store, repository) = agent.open(&place).await.unwrap();
    let backend = place.backend().await;
    let layout = Layout::new(repository.id());
    repository
        .put("object", &b"x"[..], PutOptions::default())
        .await
        .unwrap();
    for round in 0..3 {
        let mut roots = Vec::new();
        for (path, kind) in checkpoints(&backend, &layout).await {
            match kind {
                CheckpointKind::Root => roots.push(path),
                _ => backend.delete(&path).await.unwrap(),
            }
        }
        // A pack of a former epoch that nothing knows: a checkpoint is written before it goes.
        let number = PackNumber {
            epoch: 0,
            counter: round,
        };
        let stray = layout.pack(&PackName {
            number,
            id: PackId([9; 32]),
        });
        backend.put(&stray, Bytes::from_static(b"stray")).await.unwrap();
        repository.reclaim(ReclaimOptions::default()).await.unwrap();
        assert!(backend.get(&stray).await.is_err(), "the stray is swept");
        let keyring = backend.get(&layout.keyring(1, KeyringCopy::First)).await.unwrap();
        let secrets = open_keyring(&keyring, agent.kek()).unwrap();
        let mut written = 0;
        for (path, kind) in checkpoints(&backend, &layout).await {
            if kind != CheckpointKind::Root || roots.contains(&path) {
                continue;
            }
            written += 1;
            let file = backend.get(&path).await.unwrap();
            let plain = open_checkpoint_file(&secrets, kind, &parse_checkpoint(&path).unwrap(), &file).unwrap();
            let root = CheckpointRoot::decode(&plain).unwrap();
            for segment in root.object_segments.iter().chain(&root.pack_segments) {
                assert!(segment.matches(&backend.get(&layout.checkpoint(&segment.name)).await.unwrap()));
            }
        }
        assert!(written > 0, "no checkpoint was written");
    }
}

/// What was followed beyond the checkpoint that a rebuild began with is not in that checkpoint's segments.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_rebuild_followed_is_in_the_next_checkpoint() {
    let place = Place::memory();
    let (_store, repository) = Agent::with_catalog().open(&place).await.unwrap();
    let backend = place.backend().await;
    let layout = Layout::new(repository.id());
    for (counter, name) in ["first", "second"].into_iter().enumerate() {
        repository
            .put(name, name.as_bytes(), PutOptions::default())
            .await
            .unwrap();
        if counter > 0 {
            repository.rebuild().await.unwrap();
        }
        let before = checkpoints(&backend, &layout).await.len();
        // As above: before it goes a checkpoint is written.
        let number = PackNumber {
            epoch: 0,
            counter: counter as u64,
        };
        let stray = layout.pack(&PackName {
            number,
            id: PackId([9; 32]),
        });
        backend.put(&stray, Bytes::from_static(b"stray")).await.unwrap();
        repository.reclaim(ReclaimOptions::default()).await.unwrap();
        assert!(
            checkpoints(&backend, &layout).await.len() > before,
            "no checkpoint was written"
        );
    }
    repository.rebuild().await.unwrap();
    assert_eq!(names(&repository).await, ["first", "second"]);
}

/// The checkpoint files of a repository.
async fn checkpoints(backend: &Backend, layout: &Layout) -> Vec<(String, CheckpointKind)> {
    let mut files = Vec::new();
    for file in backend.list(&layout.checkpoints_prefix(), None).await.unwrap() {
        let header = CheckpointHeader::parse(&backend.get(&file.path).await.unwrap()).unwrap();
        files.push((file.path, header.kind));
    }
    files
}

/// A reader that has not asked for a byte yet holds what it will need.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_goes_on_after_its_object_is_deleted_and_reclaimed() {
    let place = Place::memory();
    let (_store, repository) = Agent::with_catalog().open(&place).await.unwrap();
    for len in [1, 100 << 10, 9 << 20] {
        let bytes = noise(&mut rng(9), len);
        repository
            .put("object", bytes.as_slice(), PutOptions::default())
            .await
            .unwrap();
        let mut reader = repository.get("object", ByteRange::All).await.unwrap();
        repository.delete("object", Precondition::None).await.unwrap();
        // A chunk pack that is dead is worth a commit; a few small commit packs are not.
        for _ in 0..2 {
            repository.reclaim(ReclaimOptions::default()).await.unwrap();
        }
        let mut found = Vec::new();
        while let Some(part) = reader.next().await.unwrap() {
            found.extend_from_slice(&part);
        }
        assert!(found == bytes, "an object of {len} bytes differs");
    }
}

/// A source that stops after some bytes until it is told to go on. Fails there if nobody can tell it any more.
struct Gated {
    bytes: Vec<u8>,
    at: usize,
    gate_at: usize,
    reached: Option<tokio::sync::oneshot::Sender<()>>,
    open: Option<tokio::sync::oneshot::Receiver<()>>,
}

struct Gate {
    reached: std::sync::Mutex<Option<tokio::sync::oneshot::Receiver<()>>>,
    open: tokio::sync::oneshot::Sender<()>,
}

impl Gate {
    async fn reached(&self) {
        let reached = self.reached.lock().unwrap().take();
        reached.expect("waited for once").await.unwrap();
    }

    fn open(self) {
        self.open.send(()).unwrap();
    }
}

impl Gated {
    fn over(bytes: Vec<u8>, gate_at: usize) -> (cairn_agent::engine::Blocking<Self>, Gate) {
        let (reached, reached_here) = tokio::sync::oneshot::channel();
        let (open, opened) = tokio::sync::oneshot::channel();
        let source = Self {
            bytes,
            at: 0,
            gate_at,
            reached: Some(reached),
            open: Some(opened),
        };
        let gate = Gate {
            reached: std::sync::Mutex::new(Some(reached_here)),
            open,
        };
        (cairn_agent::engine::Blocking::new(source), gate)
    }
}

impl std::io::Read for Gated {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.gate_at
            && let Some(open) = self.open.take()
        {
            self.reached.take().map(|reached| reached.send(()));
            open.blocking_recv().map_err(std::io::Error::other)?;
        }
        let until = if self.at < self.gate_at {
            self.gate_at
        } else {
            self.bytes.len()
        };
        let len = buffer.len().min(until - self.at);
        buffer[..len].copy_from_slice(&self.bytes[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

/// Packs of every second counter come in late.
fn is_slow(path: &str) -> bool {
    parse_pack(path).is_some_and(|pack| pack.number.counter % 2 == 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commit_pack_is_put_last() {
    let faulty = Faulty::over(Arc::new(InMemory::new())).delaying(is_slow, 5000);
    let place = Place::Faulty(faulty.clone());
    let (store, repository) = Agent::with_catalog().open(&place).await.unwrap();
    for seed in 1..=3 {
        let bytes = noise(&mut rng(seed), 7 << 20);
        repository
            .put(&format!("{seed}"), bytes.as_slice(), PutOptions::default())
            .await
            .unwrap();
    }
    store.close().await;
    let journal = faulty.journal();
    let mut commits = 0;
    for (index, (commit, _)) in packs_put(&journal, PackKind::Commit) {
        commits += 1;
        for (begun, (chunks, _)) in packs_put(&journal, PackKind::Chunk) {
            if chunks.number < commit.number {
                let path = &journal[begun].path;
                let done = journal[..index]
                    .iter()
                    .any(|event| event.path == *path && event.step == Step::Done);
                assert!(
                    done,
                    "commit {:?} was put before pack {:?} was there",
                    commit.number, chunks.number
                );
            }
        }
    }
    assert!(commits >= 3, "{commits}");
}

/// The packs that were put, with the place in the journal at which that began.
fn packs_put(journal: &[Event], kind: PackKind) -> Vec<(usize, (PackName, &[u8]))> {
    let begun = journal
        .iter()
        .enumerate()
        .filter(|(_, event)| event.kind == Kind::Put && event.step == Step::Began);
    let packs = begun.filter_map(|(index, event)| {
        let name = parse_pack(&event.path)?;
        let payload = event.payload.as_deref()?;
        Some((index, (name, payload)))
    });
    packs
        .filter(|(_, (_, payload))| parse_header(&payload[..HEADER_LEN]).unwrap().kind == kind)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_is_deleted_only_after_its_condemnation_is_covered_by_a_checkpoint() {
    let faulty = Faulty::over(Arc::new(InMemory::new()));
    let agent = Agent::with_catalog();
    let history = History::run(&agent, &Place::Faulty(faulty.clone())).await;
    assert!(
        history.told.0.values().all(|may_be| may_be.len() == 1),
        "nothing fails here"
    );
    let journal = faulty.journal();
    let secrets = secrets(&journal, agent.kek());
    let mut deleted = 0;
    for (index, event) in journal.iter().enumerate() {
        if event.kind != Kind::Delete || event.step != Step::Began {
            continue;
        }
        let Some(pack) = parse_pack(&event.path) else { continue };
        deleted += 1;
        let before = done_before(&journal, index);
        let condemned = condemned_at(&secrets, &before, &pack);
        let condemned = condemned.unwrap_or_else(|| panic!("pack {:?} was deleted and not condemned", pack.number));
        let covered = before
            .iter()
            .filter_map(|event| checkpoint(&secrets, event))
            .map(|root| root.tip.log_number)
            .max();
        assert!(
            covered >= Some(condemned),
            "{:?}: condemned at {condemned}, covered to {covered:?}",
            pack.number
        );
        let listed = |directory| {
            before
                .iter()
                .rposition(|event| event.kind == Kind::List && event.path.ends_with(directory))
        };
        assert!(
            listed("/owner") > listed("/checkpoints"),
            "the owners are listed once more after the checkpoint and before the first pack goes"
        );
    }
    assert!(deleted >= 3, "{deleted} packs were deleted");
}

/// What was begun and done before a place in the journal: the events that began it, in the order in which they ended.
fn done_before(journal: &[Event], index: usize) -> Vec<&Event> {
    let done = journal[..index].iter().filter(|event| event.step == Step::Done);
    let began = done.filter_map(|done| {
        journal
            .iter()
            .find(|event| event.operation == done.operation && event.step == Step::Began)
    });
    began.collect()
}

fn secrets(journal: &[Event], kek: &Kek) -> Secrets {
    let keyring = journal.iter().find(|event| {
        event.kind == Kind::Put && parse_keyring(&event.path).is_some() && event.path.contains("/keyring/")
    });
    open_keyring(keyring.unwrap().payload.as_ref().unwrap(), kek).unwrap()
}

fn condemned_at(secrets: &Secrets, done: &[&Event], pack: &PackName) -> Option<u64> {
    done.iter().find_map(|event| {
        let name = parse_pack(&event.path).filter(|_| event.kind == Kind::Put)?;
        let directory = open_pack_directory(secrets, &name, event.payload.as_ref()?).unwrap();
        let commit = directory.commit?;
        let condemns = commit.records.iter().any(|record| match record {
            Record::Condemn(packs) => packs.contains(pack),
            _ => false,
        });
        condemns.then_some(commit.log_number)
    })
}

fn checkpoint(secrets: &Secrets, event: &Event) -> Option<CheckpointRoot> {
    if event.kind != Kind::Put || !event.path.contains("/checkpoints/") {
        return None;
    }
    let name = parse_checkpoint(&event.path)?;
    let plain = open_checkpoint_file(secrets, CheckpointKind::Root, &name, event.payload.as_ref()?).ok()?;
    CheckpointRoot::decode(&plain).ok()
}
