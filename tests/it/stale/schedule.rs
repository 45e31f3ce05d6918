//! Who does the next step, when there are two.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::sync::watch;

use super::*;

const LARGE: usize = 1100 << 10;

/// Where every schedule begins: a store that the first one owns, with something to reclaim.
#[derive(Clone)]
pub(super) struct Base {
    objects: BTreeMap<String, Bytes>,
    tables: FaultyTables,
    callers: Callers,
    timeline: Timeline,
}

/// Who does what, step by step. A step is one operation of the store.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    /// Steps before which the other one goes on.
    switches: Vec<usize>,
    mischief: Option<Mischief>,
}

/// What becomes of one step.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mischief {
    /// Its caller is told that it failed; it happens before another step.
    Late { at: usize, lands: usize },
    /// It happens, and its caller is told that it failed.
    LoseAnswer { at: usize },
    /// It fails.
    Refuse { at: usize },
}

impl Schedule {
    pub(super) fn switching(switches: impl Into<Vec<usize>>) -> Self {
        Self {
            switches: switches.into(),
            mischief: None,
        }
    }

    pub(super) fn with(mut self, mischief: Mischief) -> Self {
        self.mischief = Some(mischief);
        self
    }
}

/// One of the two, at work.
struct Side {
    store: Faulty,
    tables: FaultyTables,
    done: watch::Receiver<bool>,
}

impl Side {
    /// Waits until it wants something or has come to its end; true in the latter case.
    async fn settled(&mut self) -> bool {
        tokio::select! {
            biased;
            _ = self.store.held(|waiting| !waiting.abandoned) => false,
            _ = self.done.wait_for(|done| *done) => true,
        }
    }

    async fn step(&self, number: usize, waiting: usize, schedule: &Schedule) -> Option<usize> {
        match schedule.mischief {
            Some(Mischief::Late { at, .. }) if at == number => {
                self.store.give_up(waiting);
                return Some(waiting);
            }
            Some(Mischief::LoseAnswer { at }) if at == number => drop(self.store.lose_answer(waiting).await),
            Some(Mischief::Refuse { at }) if at == number => drop(self.store.refuse(waiting)),
            _ => drop(self.store.release(waiting).await),
        }
        None
    }
}

impl Base {
    pub(super) async fn make() -> Self {
        let timeline = Timeline::default();
        let store = Faulty::over(store_of(&BTreeMap::new()).await).on(&timeline);
        let (tables, callers) = (FaultyTables::on(&timeline), Callers::on(&timeline));
        let (open, repository) = agent(&tables).open(&Place::Faulty(store.clone())).await.unwrap();
        for round in 0..18 {
            callers.put(&repository, "hot", 100 + round, 200).await.unwrap();
        }
        callers.put(&repository, "dead", 1, LARGE).await.unwrap();
        callers.put(&repository, "theirs", 2, 300).await.unwrap();
        callers.put(&repository, "ours", 3, 300).await.unwrap();
        // It begins as that one does.
        callers.put(&repository, "part", 1, LARGE / 4).await.unwrap();
        callers.delete(&repository, "dead").await.unwrap();
        repository.release_deleted().await.unwrap();
        let dry = ReclaimOptions {
            dry_run: true,
            ..ReclaimOptions::THOROUGH
        };
        let foreseen = repository.reclaim(dry).await.unwrap();
        assert!(foreseen.packs_rewritten > 0, "{foreseen:?}");
        open.close().await;
        Self {
            objects: objects_of(&store).await,
            tables,
            callers,
            timeline,
        }
    }

    /// Steps of the first, and of the second, one after the other.
    pub(super) async fn steps(&self) -> (usize, usize) {
        let (_, steps) = self.play(&Schedule::switching([])).await;
        (steps[0], steps[1])
    }

    /// Follows a schedule, and looks at what is left.
    pub(super) async fn run(&self, schedule: &Schedule, index: usize) {
        let (played, _) = self.play(schedule).await;
        let catalog = match index % 3 {
            side @ 0..2 => played.tables[side].clone(),
            _ => FaultyTables::default(),
        };
        let left = Left {
            what: format!("{schedule:?}\n{}\n", played.trace.join("\n")),
            objects: played.objects,
            catalog,
            told: played.callers.at(usize::MAX),
        };
        left.examine().await;
    }

    async fn play(&self, schedule: &Schedule) -> (Played, [usize; 2]) {
        let inner = store_of(&self.objects).await;
        let callers = self.callers.fork();
        let tables = [self.tables.state_at(usize::MAX, 0), FaultyTables::default()];
        let stores = [0, 1].map(|_| Faulty::over(inner.clone()).on(&self.timeline));
        let (first_store, first) = agent(&tables[0]).open(&Place::Faulty(stores[0].clone())).await.unwrap();
        callers.put(&first, "first", 10, 100).await.unwrap();
        stores.iter().for_each(|store| store.hold(|kind, _| kind != Kind::Get));
        let works = [
            {
                let callers = callers.clone();
                let work = async move {
                    the_first(&callers, &first).await;
                    first_store.close().await;
                };
                tokio::spawn(work)
            },
            {
                let (callers, store, tables) = (callers.clone(), stores[1].clone(), tables[1].clone());
                tokio::spawn(async move { the_second(&callers, store, &tables).await })
            },
        ];
        let mut tables = tables.clone().into_iter();
        let mut sides = Vec::new();
        let mut ends = Vec::new();
        for (store, work) in stores.into_iter().zip(works) {
            let (ended, done) = watch::channel(false);
            ends.push(tokio::spawn(async move {
                let result = work.await;
                let _ = ended.send(true);
                result
            }));
            let tables = tables.next().expect("as many as stores");
            sides.push(Side { store, tables, done });
        }
        let (steps, trace) = interleave(&mut sides, schedule).await;
        for end in ends {
            if let Err(panic) = end.await.unwrap() {
                eprintln!("{schedule:?}");
                std::panic::resume_unwind(panic.into_panic());
            }
        }
        let played = Played {
            trace,
            objects: objects_of(&Faulty::over(inner)).await,
            tables: sides.into_iter().map(|side| side.tables).collect(),
            callers,
        };
        (played, steps)
    }
}

struct Played {
    /// Every step: whose, and what.
    trace: Vec<String>,
    objects: BTreeMap<String, Bytes>,
    tables: Vec<FaultyTables>,
    callers: Callers,
}

async fn interleave(sides: &mut [Side], schedule: &Schedule) -> ([usize; 2], Vec<String>) {
    let mut steps = [0, 0];
    let mut trace = Vec::new();
    let mut turn = 0;
    let mut late = None;
    for step in 0.. {
        let mut done = [false, false];
        for (done, side) in done.iter_mut().zip(sides.iter_mut()) {
            *done = side.settled().await;
        }
        let lands = matches!(schedule.mischief, Some(Mischief::Late { lands, .. }) if lands <= step);
        if (lands || done == [true, true])
            && let Some((side, operation)) = late.take()
        {
            let side: &Side = &sides[side];
            side.store.release(operation).await;
        }
        if done == [true, true] {
            return (steps, trace);
        }
        turn ^= usize::from(schedule.switches.contains(&step));
        let side = if done[turn] { turn ^ 1 } else { turn };
        let next = sides[side].store.held(|waiting| !waiting.abandoned).await;
        trace.push(format!("{step}: {side} {:?} {}", next.kind, next.path));
        if let Some(operation) = sides[side].step(step, next.operation, schedule).await {
            late = Some((side, operation));
        }
        steps[side] += 1;
    }
    unreachable!("steps have an end")
}

/// Once it was told that it is fenced, it is told nothing else.
#[derive(Default)]
struct Fence(bool);

impl Fence {
    fn note<T>(&mut self, result: Result<T>) {
        match result {
            Ok(_) => assert!(!self.0, "a fenced writer wrote"),
            Err(error) => {
                let fenced = error.reason() == Reason::Fenced;
                assert!(fenced || !self.0, "after being fenced: {error:?}");
                self.0 |= fenced;
            }
        }
    }
}

async fn the_first(callers: &Callers, repository: &Repository) {
    let mut fence = Fence::default();
    fence.note(callers.put(repository, "first", 11, 400).await);
    fence.note(callers.delete(repository, "theirs").await);
    fence.note(repository.reclaim(ReclaimOptions::THOROUGH).await);
    fence.note(callers.put(repository, "first again", 1, LARGE).await);
    fence.note(callers.put(repository, "hot", 12, 400).await);
}

async fn the_second(callers: &Callers, store: Faulty, tables: &FaultyTables) {
    // Whatever goes wrong while it opens, it tries again.
    let agent = agent(tables);
    let place = Place::Faulty(store);
    let Ok((store, repository)) = agent.open(&place).await else {
        return;
    };
    let mut fence = Fence::default();
    fence.note(callers.put(&repository, "second", 13, 400).await);
    fence.note(callers.delete(&repository, "ours").await);
    fence.note(callers.put(&repository, "hot", 14, 400).await);
    fence.note(repository.reclaim(ReclaimOptions::THOROUGH).await);
    fence.note(callers.put(&repository, "second again", 1, LARGE).await);
    store.close().await;
}
