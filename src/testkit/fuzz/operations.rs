//! Whole stores, used and disturbed, against the model.

use std::num::NonZeroUsize;
use std::sync::Arc;

use object_store::memory::InMemory;

use super::input::{Input, seeded};
use crate::backend::Location;
use crate::catalog;
use crate::codec::{ChunkSizes, Level, Secret};
use crate::engine::{
    ByteRange, Depth, NewRepository, Options, PutOptions, Reason, ReclaimOptions, Repository, Result, Store,
    StoreOptions,
};
use crate::format::Kek;
use crate::testkit::faulty::{Fault, Faulty, FaultyTables, Stop};
use crate::testkit::model::{Model, Operation, read, scrub};

/// Steps of one run; what is left of the input is not looked at.
const STEPS_MAX: usize = 32;
/// Few names, so that they meet again.
const NAMES: u8 = 5;
/// Several packs, and manifests of several leaves.
const LEN_MAX: usize = 400 << 10;
/// Contents that are edited and put again.
const EARLIER_MAX: usize = 4;
/// Commits that hold nothing any more are kept: those since the second-newest checkpoint, and a few more.
const PACKS_LEFT_MAX: u64 = 32;
/// What a store that met a failure is asked to do before it is looked at.
const PROBE: &str = "probe";

/// Whatever is done to a store, and wherever it is disturbed or killed: it holds what was acknowledged, what was not is
/// there or not, and the totals are those that a rebuild finds.
pub fn operations(data: &[u8]) {
    run(data, false);
}

/// The same with a reclaim after every step, which may be disturbed or killed as the step may.
pub fn reclaims(data: &[u8]) {
    run(data, true);
}

fn run(data: &[u8], reclaims: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime on this thread needs nothing special");
    runtime.block_on(async {
        let mut input = Input::new(data);
        let mut run = Run::start().await;
        for _ in 0..STEPS_MAX {
            if input.is_empty() {
                break;
            }
            run.step(&mut input).await;
            if reclaims {
                run.reclaim(&mut input).await;
            }
        }
        run.end().await;
    });
    runtime.shutdown_background();
}

/// What survives a crash, the process that uses it, and what should be in it.
struct Run {
    objects: Arc<InMemory>,
    tables: FaultyTables,
    store: Faulty,
    open: Option<(Store, Repository)>,
    model: Model,
    earlier: Vec<Arc<Vec<u8>>>,
}

impl Run {
    async fn start() -> Self {
        let objects = Arc::new(InMemory::new());
        let mut run = Self {
            store: Faulty::over(objects.clone()),
            objects,
            tables: FaultyTables::default(),
            open: None,
            model: Model::default(),
            earlier: Vec::new(),
        };
        run.open().await;
        run
    }

    async fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 16 {
            0..=9 => {
                let operation = self.operation(input);
                self.apply(&operation).await;
            }
            10 => self.scrub(input).await,
            11 => self.apply(&Operation::Rebuild).await,
            12 => {
                self.close().await;
                if input.u8().is_multiple_of(2) {
                    self.tables = FaultyTables::default();
                }
                self.open().await;
            }
            13 => {
                let operation = self.operation(input);
                self.kill_meanwhile(operation, input).await;
            }
            _ => {
                let operation = self.operation(input);
                self.disturb(operation, input).await;
            }
        }
    }

    async fn reclaim(&mut self, input: &mut Input<'_>) {
        let options = *input.choice(&[ReclaimOptions::THOROUGH, ReclaimOptions::default()]);
        let operation = Operation::Reclaim(options);
        match input.u8() % 4 {
            0 => self.kill_meanwhile(operation, input).await,
            1 => self.disturb(operation, input).await,
            _ => self.apply(&operation).await,
        }
    }

    /// Everything is read once more; then nothing is left when all is removed.
    async fn end(&mut self) {
        self.apply(&Operation::Rebuild).await;
        let names: Vec<_> = self.model.objects.keys().cloned().collect();
        for name in names {
            self.apply(&Operation::Delete(name)).await;
        }
        self.apply(&Operation::Rebuild).await;
        let status = self.repository().status().expect("the catalog tells its totals");
        assert_eq!((status.chunks, status.unique_bytes), (0, 0), "{status:?}");
        assert!(status.packs <= PACKS_LEFT_MAX, "{status:?}");
        self.close().await;
    }

    fn operation(&mut self, input: &mut Input<'_>) -> Operation {
        match input.u8() % 16 {
            0..=6 => Operation::Put(name(input), self.contents(input)),
            7 => Operation::FailPut(name(input), self.contents(input), input.below(LEN_MAX)),
            8 => Operation::Copy(name(input), name(input)),
            9..=10 => {
                let name = name(input);
                let len = self.model.objects.get(&name).map_or(0, |bytes| bytes.len());
                Operation::Get(name, range(input, len))
            }
            11..=13 => Operation::Delete(name(input)),
            14 => Operation::Reclaim(ReclaimOptions::default()),
            _ => Operation::Reclaim(ReclaimOptions::THOROUGH),
        }
    }

    fn contents(&mut self, input: &mut Input<'_>) -> Arc<Vec<u8>> {
        let kind = input.u8() % 6;
        let bytes = match kind {
            0 => Vec::new(),
            1 => input.array::<3>().to_vec(),
            2 | 3 => {
                // Mostly short, and compressible in different ways.
                let len = input.below(LEN_MAX) >> (input.u8() % 8);
                let (seed, alphabet) = (input.u8(), input.u8());
                let bytes = seeded(seed.into(), len);
                bytes.iter().map(|byte| byte | alphabet).collect()
            }
            _ if self.earlier.is_empty() => Vec::new(),
            kind => {
                let earlier = input.choice(&self.earlier).clone();
                if kind == 4 {
                    return earlier;
                }
                changed(input, &earlier)
            }
        };
        let bytes = Arc::new(bytes);
        self.earlier.insert(0, bytes.clone());
        self.earlier.truncate(EARLIER_MAX);
        bytes
    }

    fn repository(&self) -> &Repository {
        &self.open.as_ref().expect("closed only while it is opened again").1
    }

    async fn attempt(&mut self, operation: &Operation) -> Result<()> {
        let repository = self.repository().clone();
        self.model.apply(&repository, operation).await
    }

    async fn apply(&mut self, operation: &Operation) {
        let done = self.attempt(operation).await;
        done.unwrap_or_else(|error| panic!("{}: {error:?}", short(operation)));
        if matches!(operation, Operation::Reclaim(_) | Operation::Rebuild) {
            self.model.check(self.repository()).await;
        }
    }

    async fn scrub(&mut self, input: &mut Input<'_>) {
        let depth = *input.choice(&[Depth::Bytes, Depth::Structure, Depth::Full]);
        let bytes_max = Some(1 + u64::from(input.u16())).filter(|bytes| bytes.is_multiple_of(2));
        let report = scrub(self.repository(), depth, bytes_max).await;
        let report = report.expect("a scrub comes to its end");
        assert!(report.is_sound(), "{report:?}");
    }

    async fn open(&mut self) {
        let backend = self.store.backend();
        let store = Store::open_on(options(&self.tables), backend, new_repository()).await;
        let store = store.expect("it opens");
        let repository = store.repository("default").await.expect("its one repository opens");
        self.model.check(&repository).await;
        self.open = Some((store, repository));
    }

    async fn close(&mut self) {
        if let Some((store, _)) = self.open.take() {
            store.close().await;
        }
    }

    /// The process ends while it does something, and of its catalog the last commits may be lost.
    async fn kill_meanwhile(&mut self, operation: Operation, input: &mut Input<'_>) {
        let at = usize::from(input.u8() % 24);
        self.store.order([Fault::Freeze(at)]);
        let stop = input.u8();
        let stop = (stop % 2 == 1).then_some(Stop::From(usize::from(stop / 2 % 8)));
        self.tables.order(stop);
        let outcome = self.attempt(&operation).await;
        // What it is still about to do is not done.
        self.store.order([Fault::Freeze(0)]);
        self.tables = self.tables.state_at(usize::MAX, usize::from(input.u8() % 4));
        self.store = Faulty::over(self.objects.clone());
        self.open = None;
        self.settle(&operation, outcome).await;
    }

    /// One or two operations of the store or of the catalog fail, and it goes on. No put leaves half an object: that is
    /// damage, and stores do not do it.
    async fn disturb(&mut self, operation: Operation, input: &mut Input<'_>) {
        let at = usize::from(input.u8() % 24);
        match input.u8() % 5 {
            0 => self.store.order([Fault::Refuse(at)]),
            1 => self.store.order([Fault::LoseAnswer(at)]),
            2 => self.store.order([Fault::Refuse(at), Fault::Refuse(at + 1)]),
            3 => self.tables.order(Some(Stop::At(at % 8))),
            _ => self.tables.order(Some(Stop::LoseAnswer(at % 8))),
        }
        let outcome = self.attempt(&operation).await;
        self.store.order([]);
        self.tables.order(None);
        self.settle(&operation, outcome).await;
    }

    /// After an operation that nobody can tell the outcome of, unless there is one.
    async fn settle(&mut self, operation: &Operation, outcome: Result<()>) {
        let expected = self.model.clone();
        let change = operation.change(&expected.objects).filter(|_| outcome.is_err());
        if self.open.is_none() {
            let store = Store::open_on(options(&self.tables), self.store.backend(), new_repository()).await;
            let store = store.expect("it opens after a crash");
            let repository = store.repository("default").await.expect("its one repository opens");
            self.open = Some((store, repository));
        }
        // A writer that failed has ended; the next one finds out what became durable.
        let probe = self.repository().put(PROBE, &b"!"[..], PutOptions::default()).await;
        probe.unwrap_or_else(|error| panic!("after {}: {error:?}", short(operation)));
        self.model.objects.insert(PROBE.to_owned(), Arc::new(b"!".to_vec()));
        if let Some((name, wrote)) = change {
            let found = read(self.repository(), &name, ByteRange::All).await;
            let found = match found {
                Err(error) if error.reason() == Reason::ObjectNotFound => None,
                found => Some(Arc::new(found.expect("what is there can be read"))),
            };
            let before = expected.objects.get(&name).cloned();
            assert!(found == wrote || found == before, "{name:?} is neither old nor new");
            match found {
                Some(bytes) => drop(self.model.objects.insert(name, bytes)),
                None => drop(self.model.objects.remove(&name)),
            }
        }
        self.model.check(self.repository()).await;
    }
}

/// Without all of the bytes it puts.
fn short(operation: &Operation) -> String {
    format!("{operation:?}").chars().take(80).collect()
}

fn name(input: &mut Input<'_>) -> String {
    format!("object {}", input.u8() % NAMES)
}

/// Any kind of range, mostly one that lies in an object of this length.
fn range(input: &mut Input<'_>, len: usize) -> ByteRange {
    let kind = input.u8() % 8;
    let at = input.below(len + 1) as u64;
    match kind {
        0 => ByteRange::All,
        1 => ByteRange::From(at),
        2 => ByteRange::Last(at),
        3 => ByteRange::Inclusive {
            first: input.u64(),
            last: input.u64(),
        },
        _ => ByteRange::Inclusive {
            first: at,
            last: at + input.below(len + 1 - at as usize) as u64,
        },
    }
}

/// Other bytes in one place, more or fewer than were there.
fn changed(input: &mut Input<'_>, bytes: &[u8]) -> Vec<u8> {
    let start = input.below(bytes.len() + 1);
    let end = (start + usize::from(input.u16())).min(bytes.len());
    let new = seeded(input.u8().into(), input.u16().into());
    [&bytes[..start], &new, &bytes[end..]].concat()
}

/// Small packs, a short log.
fn options(tables: &FaultyTables) -> StoreOptions {
    StoreOptions {
        location: Location::Memory("fuzz".to_owned()),
        catalog: catalog::Location::Kept(catalog::Kept(Arc::new(tables.clone()))),
        keks: vec![Kek {
            id: "fuzz".to_owned(),
            secret: Secret::from_bytes([7; 32]),
        }],
        options: Options {
            budget_bytes: 8 << 20,
            compute_threads: NonZeroUsize::MIN,
            pack_bytes_target: 64 << 10,
            introduce_packs_max: 2,
            checkpoint_log_bytes: 4 << 10,
            read_ahead_bytes: 128 << 10,
            locality_bytes: 64 << 10,
            release_children_max: 3,
            ..Options::default()
        },
    }
}

/// Small chunks.
fn new_repository() -> NewRepository {
    NewRepository {
        chunk_sizes: ChunkSizes::new(128, 512, 2048).expect("they are even and in order"),
        level: Level::DEFAULT,
        ..NewRepository::named("default").expect("a short name")
    }
}
