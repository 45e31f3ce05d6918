//! Random operations against a plain map: after every restart, reclaim and rebuild the store says what the map says.
//!
//! `CAIRN_SEED` repeats a run, `CAIRN_STEPS` makes it longer; a failure prints its seed.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cairn_agent::engine::{Blocking, ByteRange, Precondition, PutOptions, Reason, ReclaimOptions, Repository, Store};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::support::{Announce, seed};
use crate::world::{Agent, Place, edited, names, noise, read, rng};

fn steps(default: u64) -> u64 {
    let given = std::env::var("CAIRN_STEPS").ok();
    given.map_or(default, |text| text.parse().expect("CAIRN_STEPS is a number"))
}

/// Contents to put: new ones of every size, and edited copies of those before.
struct Contents {
    rng: ChaCha8Rng,
    earlier: VecDeque<Arc<Vec<u8>>>,
}

impl Contents {
    const KEPT: usize = 12;

    fn new(rng: ChaCha8Rng) -> Self {
        Self {
            rng,
            earlier: VecDeque::new(),
        }
    }

    fn next(&mut self) -> Arc<Vec<u8>> {
        let kind = self.rng.random_range(0..100);
        let bytes = match kind {
            0..5 => Vec::new(),
            5..10 => noise(&mut self.rng, 1),
            10..45 => self.fresh(1..200 << 10),
            45..58 => self.fresh(200 << 10..1 << 20),
            58..60 => self.fresh(6 << 20..11 << 20),
            _ => self.again(kind < 90),
        };
        let bytes = Arc::new(bytes);
        if bytes.len() > 1 {
            self.earlier.push_back(bytes.clone());
        }
        if self.earlier.len() > Self::KEPT {
            self.earlier.pop_front();
        }
        bytes
    }

    fn fresh(&mut self, len: std::ops::Range<usize>) -> Vec<u8> {
        let len = self.rng.random_range(len);
        let mut bytes = noise(&mut self.rng, len);
        if self.rng.random_bool(0.3) {
            bytes.iter_mut().for_each(|byte| *byte %= 7);
        }
        bytes
    }

    fn again(&mut self, change: bool) -> Vec<u8> {
        if self.earlier.is_empty() {
            return Vec::new();
        }
        let index = self.rng.random_range(0..self.earlier.len());
        let earlier = self.earlier[index].clone();
        match change {
            true => edited(&mut self.rng, &earlier),
            false => earlier.to_vec(),
        }
    }
}

type Model = BTreeMap<String, Arc<Vec<u8>>>;

/// One agent that does one thing after the other.
struct Run<'a> {
    place: &'a Place,
    agent: Agent,
    rng: ChaCha8Rng,
    contents: Contents,
    model: Model,
    open: Option<(Store, Repository)>,
}

impl<'a> Run<'a> {
    async fn start(place: &'a Place, seed: u64) -> Self {
        let agent = Agent::with_catalog();
        let open = agent.open(place).await.unwrap();
        Self {
            place,
            agent,
            rng: rng(seed),
            contents: Contents::new(rng(seed ^ 0x5eed)),
            model: Model::new(),
            open: Some(open),
        }
    }

    fn repository(&self) -> &Repository {
        &self.open.as_ref().expect("closed only while it is opened again").1
    }

    fn name(&mut self) -> String {
        format!("object {}", self.rng.random_range(0..24))
    }

    async fn step(&mut self) {
        match self.rng.random_range(0..1000) {
            0..420 => self.put().await,
            420..500 => self.copy().await,
            500..700 => self.get().await,
            700..860 => self.delete().await,
            860..900 => self.fail_a_put().await,
            900..955 => self.reclaim().await,
            955..980 => self.reopen().await,
            980..990 => self.rebuild().await,
            _ => {
                self.close().await;
                self.agent.forget();
                self.open_again().await;
            }
        }
    }

    async fn put(&mut self) {
        let (name, bytes) = (self.name(), self.contents.next());
        let outcome = self
            .repository()
            .put(&name, bytes.as_slice(), PutOptions::default())
            .await
            .unwrap();
        assert_eq!(outcome.object.bytes, bytes.len() as u64);
        self.model.insert(name, bytes);
    }

    async fn copy(&mut self) {
        let (from, to) = (self.name(), self.name());
        let copied = self.repository().copy(&from, &to, PutOptions::default()).await;
        match self.model.get(&from).cloned() {
            Some(bytes) => {
                assert_eq!(copied.unwrap().object.bytes, bytes.len() as u64);
                self.model.insert(to, bytes);
            }
            None => assert_eq!(copied.unwrap_err().reason(), Reason::ObjectNotFound),
        }
    }

    async fn get(&mut self) {
        let name = self.name();
        let Some(bytes) = self.model.get(&name).cloned() else {
            let error = read(self.repository(), &name, ByteRange::All).await.unwrap_err();
            assert_eq!(error.reason(), Reason::ObjectNotFound);
            return;
        };
        if bytes.is_empty() {
            return;
        }
        let first = self.rng.random_range(0..bytes.len());
        let last = self.rng.random_range(first..bytes.len());
        let range = ByteRange::Inclusive {
            first: first as u64,
            last: last as u64,
        };
        let found = read(self.repository(), &name, range).await.unwrap();
        assert!(found == bytes[first..=last], "{name:?} {first}..={last} differs");
    }

    async fn delete(&mut self) {
        let name = self.name();
        let deleted = self.repository().delete(&name, Precondition::None).await.unwrap();
        assert_eq!(deleted, self.model.remove(&name).is_some());
    }

    async fn fail_a_put(&mut self) {
        let (name, bytes) = (self.name(), self.contents.next());
        let source = Blocking::new(Broken::after(bytes, &mut self.rng));
        let error = self
            .repository()
            .put(&name, source, PutOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.reason(), Reason::SourceFailed);
    }

    async fn reclaim(&mut self) {
        self.repository().reclaim(ReclaimOptions::default()).await.unwrap();
        self.check().await;
    }

    async fn rebuild(&mut self) {
        // Packs of a put that failed may still be on their way; a commit that brings them in would change the numbers.
        self.repository().close().await;
        self.repository().reclaim(ReclaimOptions::default()).await.unwrap();
        let before = self.repository().status().unwrap();
        assert!(before.unique_bytes <= before.logical_bytes, "{before:?}");
        let after = self.repository().rebuild().await.unwrap();
        assert_eq!(before, after);
        self.check().await;
    }

    async fn reopen(&mut self) {
        // Half of the time without a word, as a process that ends does.
        if self.rng.random_bool(0.5) {
            self.close().await;
        } else {
            let (store, repository) = self.open.take().unwrap();
            drop(repository);
            drop(store);
        }
        self.open_again().await;
    }

    async fn close(&mut self) {
        let (store, _) = self.open.take().unwrap();
        store.close().await;
    }

    async fn open_again(&mut self) {
        self.open = Some(self.agent.open(self.place).await.unwrap());
        self.check().await;
    }

    async fn check(&self) {
        check(self.repository(), &self.model).await;
    }
}

/// The repository holds exactly what the model does.
async fn check(repository: &Repository, model: &Model) {
    assert_eq!(names(repository).await, model.keys().cloned().collect::<Vec<_>>());
    for (name, bytes) in model {
        let found = read(repository, name, ByteRange::All)
            .await
            .unwrap_or_else(|error| panic!("{name:?}: {error:?}"));
        assert!(found == bytes.as_slice(), "{name:?} differs");
    }
    let status = repository.status().unwrap();
    assert_eq!(status.objects, model.len() as u64);
    assert_eq!(
        status.logical_bytes,
        model.values().map(|bytes| bytes.len() as u64).sum::<u64>()
    );
}

/// A source that fails somewhere on its way.
struct Broken {
    bytes: Arc<Vec<u8>>,
    at: usize,
    end: usize,
}

impl Broken {
    fn after(bytes: Arc<Vec<u8>>, rng: &mut ChaCha8Rng) -> Self {
        let end = rng.random_range(0..=bytes.len());
        Self { bytes, at: 0, end }
    }
}

impl Read for Broken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.end {
            return Err(io::Error::other("the cable is out"));
        }
        let len = buffer.len().min(self.end - self.at);
        buffer[..len].copy_from_slice(&self.bytes[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

async fn one_after_the_other(place: Place, seed: u64, steps: u64) {
    let _announce = Announce(seed);
    let mut run = Run::start(&place, seed).await;
    for _ in 0..steps {
        run.step().await;
    }
    run.rebuild().await;
    let names: Vec<_> = run.model.keys().cloned().collect();
    for name in names {
        run.repository().delete(&name, Precondition::None).await.unwrap();
    }
    run.model.clear();
    run.rebuild().await;
    let status = run.repository().status().unwrap();
    assert_eq!(
        (status.chunks, status.unique_bytes, status.garbage_bytes),
        (0, 0, 0),
        "{status:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_holds_what_the_model_does() {
    one_after_the_other(Place::directory(), seed(1), steps(500)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_holds_what_the_model_does() {
    one_after_the_other(Place::memory(), seed(2), steps(1500)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_holds_what_the_model_does() {
    one_after_the_other(Place::s3().await, seed(3), steps(500)).await;
}

/// One of several tasks on one repository, with names of its own.
struct Task {
    number: u64,
    repository: Repository,
    rng: ChaCha8Rng,
    contents: Contents,
    model: Model,
}

impl Task {
    fn new(number: u64, repository: Repository, seed: u64) -> Self {
        Self {
            number,
            repository,
            rng: rng(seed ^ number << 32),
            // The same for every task: they bring the same content at about the same time.
            contents: Contents::new(rng(seed)),
            model: Model::new(),
        }
    }

    async fn run(mut self, steps: u64) -> Model {
        for _ in 0..steps {
            match self.rng.random_range(0..100) {
                0..45 => self.put().await,
                45..55 => self.copy().await,
                55..65 => self.get().await,
                65..85 => self.delete().await,
                85..90 => self.abandon_a_put().await,
                90..95 => self.read_while_it_is_deleted().await,
                _ => drop(self.repository.reclaim(ReclaimOptions::default()).await.unwrap()),
            }
        }
        self.model
    }

    fn name(&mut self) -> String {
        format!("task {} object {}", self.number, self.rng.random_range(0..8))
    }

    async fn put(&mut self) {
        let (name, bytes) = (self.name(), self.contents.next());
        self.repository
            .put(&name, bytes.as_slice(), PutOptions::default())
            .await
            .unwrap();
        self.model.insert(name, bytes);
    }

    async fn copy(&mut self) {
        let (from, to) = (self.name(), self.name());
        if let Some(bytes) = self.model.get(&from).cloned() {
            self.repository.copy(&from, &to, PutOptions::default()).await.unwrap();
            self.model.insert(to, bytes);
        }
    }

    async fn get(&mut self) {
        let name = self.name();
        if let Some(bytes) = self.model.get(&name) {
            let found = read(&self.repository, &name, ByteRange::All).await.unwrap();
            assert!(found == bytes.as_slice(), "{name:?} differs");
        }
    }

    async fn delete(&mut self) {
        let name = self.name();
        let deleted = self.repository.delete(&name, Precondition::None).await.unwrap();
        assert_eq!(deleted, self.model.remove(&name).is_some());
    }

    async fn abandon_a_put(&mut self) {
        let (name, bytes) = (self.name(), self.contents.next());
        let source = Blocking::new(Broken::after(bytes, &mut self.rng));
        self.repository
            .put(&name, source, PutOptions::default())
            .await
            .unwrap_err();
    }

    async fn read_while_it_is_deleted(&mut self) {
        let name = self.name();
        let Some(bytes) = self.model.remove(&name) else {
            return;
        };
        let mut reader = self.repository.get(&name, ByteRange::All).await.unwrap();
        let mut found = Vec::new();
        if self.rng.random_bool(0.5)
            && let Some(part) = reader.next().await.unwrap()
        {
            found.extend_from_slice(&part);
        }
        assert!(self.repository.delete(&name, Precondition::None).await.unwrap());
        self.repository.reclaim(ReclaimOptions::default()).await.unwrap();
        while let Some(part) = reader.next().await.unwrap() {
            found.extend_from_slice(&part);
        }
        assert!(
            found == bytes.as_slice(),
            "{name:?} differs for the reader that had it open"
        );
    }
}

async fn all_at_once(place: Place, seed: u64, steps: u64) {
    const TASKS: u64 = 5;
    let _announce = Announce(seed);
    let agent = Agent::with_catalog();
    let (store, repository) = agent.open(&place).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let reclaiming = {
        let (repository, done) = (repository.clone(), done.clone());
        tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                repository.reclaim(ReclaimOptions::default()).await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    };
    let tasks: Vec<_> = (0..TASKS)
        .map(|number| tokio::spawn(Task::new(number, repository.clone(), seed).run(steps)))
        .collect();
    let mut model = Model::new();
    for task in tasks {
        model.extend(task.await.unwrap());
    }
    done.store(true, Ordering::Relaxed);
    reclaiming.await.unwrap();
    check(&repository, &model).await;
    repository.close().await;
    repository.reclaim(ReclaimOptions::default()).await.unwrap();
    let before = repository.status().unwrap();
    assert_eq!(repository.rebuild().await.unwrap(), before);
    check(&repository, &model).await;
    store.close().await;
    drop((store, repository));
    let (_store, repository) = agent.open(&place).await.unwrap();
    check(&repository, &model).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_in_memory() {
    all_at_once(Place::memory(), seed(4), steps(150)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_in_a_directory() {
    all_at_once(Place::directory(), seed(5), steps(60)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_in_a_bucket() {
    all_at_once(Place::s3().await, seed(6), steps(60)).await;
}
