//! Random operations against a plain map: after every restart, reclaim and rebuild the store says what the map says.
//!
//! `CAIRN_SEED` repeats a run, `CAIRN_STEPS` makes it longer; a failure prints its seed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cairn_agent::engine::{ByteRange, Depth, Precondition, ReclaimOptions, Repository, Store};
use cairn_agent::testkit::fuzz;
use cairn_agent::testkit::model::{Model, Operation};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::support::{Announce, seed};
use crate::world::{Agent, Place, edited, noise, rng};

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
            model: Model::default(),
            open: Some(open),
        }
    }

    fn name(&mut self) -> String {
        format!("object {}", self.rng.random_range(0..24))
    }

    async fn step(&mut self) {
        let operation = match self.rng.random_range(0..1000) {
            0..420 => Operation::Put(self.name(), self.contents.next()),
            420..500 => Operation::Copy(self.name(), self.name()),
            500..700 => {
                let name = self.name();
                let range = self.range(&name);
                Operation::Get(name, range)
            }
            700..860 => Operation::Delete(self.name()),
            860..900 => broken_put(self.name(), self.contents.next(), &mut self.rng),
            900..930 => Operation::Reclaim(ReclaimOptions::default()),
            930..955 => Operation::Reclaim(ReclaimOptions::THOROUGH),
            955..980 => return self.reopen().await,
            980..985 => Operation::Rebuild,
            985..990 => Operation::Scrub(Depth::Full, None),
            _ => {
                self.close().await;
                self.agent.forget();
                return self.open_again().await;
            }
        };
        self.apply(operation).await;
    }

    async fn apply(&mut self, operation: Operation) {
        let (_, repository) = self.open.as_ref().expect("closed only while it is opened again");
        self.model.apply(repository, &operation).await.unwrap();
        if matches!(operation, Operation::Reclaim(_) | Operation::Rebuild) {
            self.model.check(repository).await;
        }
    }

    /// A part of an object that has any.
    fn range(&mut self, name: &str) -> ByteRange {
        let len = self.model.objects.get(name).map_or(0, |bytes| bytes.len() as u64);
        if len == 0 {
            return ByteRange::All;
        }
        let first = self.rng.random_range(0..len);
        let last = self.rng.random_range(first..len);
        ByteRange::Inclusive { first, last }
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
        let (store, repository) = self.agent.open(self.place).await.unwrap();
        self.model.check(&repository).await;
        self.open = Some((store, repository));
    }
}

/// A put whose source fails somewhere on its way.
fn broken_put(name: String, bytes: Arc<Vec<u8>>, rng: &mut ChaCha8Rng) -> Operation {
    let end = rng.random_range(0..=bytes.len());
    Operation::FailPut(name, bytes, end)
}

async fn one_after_the_other(place: Place, seed: u64, steps: u64) {
    let _announce = Announce(seed);
    let mut run = Run::start(&place, seed).await;
    for _ in 0..steps {
        run.step().await;
    }
    run.apply(Operation::Rebuild).await;
    let names: Vec<_> = run.model.objects.keys().cloned().collect();
    for name in names {
        run.apply(Operation::Delete(name)).await;
    }
    run.apply(Operation::Rebuild).await;
    let status = run.open.unwrap().1.status().unwrap();
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
            model: Model::default(),
        }
    }

    async fn run(mut self, steps: u64) -> Model {
        for _ in 0..steps {
            let operation = match self.rng.random_range(0..100) {
                0..45 => Operation::Put(self.name(), self.contents.next()),
                45..55 => Operation::Copy(self.name(), self.name()),
                55..65 => Operation::Get(self.name(), ByteRange::All),
                65..85 => Operation::Delete(self.name()),
                85..90 => broken_put(self.name(), self.contents.next(), &mut self.rng),
                90..95 => {
                    self.read_while_it_is_deleted().await;
                    continue;
                }
                95..97 => Operation::Reclaim(ReclaimOptions::default()),
                _ => Operation::Reclaim(ReclaimOptions::THOROUGH),
            };
            self.model.apply(&self.repository, &operation).await.unwrap();
        }
        self.model
    }

    fn name(&mut self) -> String {
        format!("task {} object {}", self.number, self.rng.random_range(0..8))
    }

    async fn read_while_it_is_deleted(&mut self) {
        let name = self.name();
        let Some(bytes) = self.model.objects.remove(&name) else {
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
        self.repository.reclaim(ReclaimOptions::THOROUGH).await.unwrap();
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
                repository.reclaim(ReclaimOptions::THOROUGH).await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    };
    let tasks: Vec<_> = (0..TASKS)
        .map(|number| tokio::spawn(Task::new(number, repository.clone(), seed).run(steps)))
        .collect();
    let mut model = Model::default();
    for task in tasks {
        model.objects.extend(task.await.unwrap().objects);
    }
    done.store(true, Ordering::Relaxed);
    reclaiming.await.unwrap();
    model.check(&repository).await;
    repository.close().await;
    repository.reclaim(ReclaimOptions::default()).await.unwrap();
    let before = repository.status().unwrap();
    assert_eq!(repository.rebuild().await.unwrap(), before);
    model.check(&repository).await;
    store.close().await;
    drop((store, repository));
    let (_store, repository) = agent.open(&place).await.unwrap();
    model.check(&repository).await;
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

/// After every step a reclaim, thorough or not; any step and any reclaim may meet a failure of the store or of the catalog,
/// or be the last of its process.
#[test]
fn reclaims_after_every_step_lose_nothing_whatever_fails() {
    /// Decisions of a run: more than it takes.
    const DECISIONS: usize = 2048;
    let seed = seed(7);
    let _announce = Announce(seed);
    let mut rng = rng(seed);
    for _ in 0..steps(160) / 8 {
        fuzz::reclaims(&noise(&mut rng, DECISIONS));
    }
}
