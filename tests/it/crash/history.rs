//! A history of two agents on one store, recorded so that it can be cut off at any moment.

use std::sync::Arc;

use cairn_agent::engine::{ReclaimOptions, Repository};
use cairn_agent::testkit::faulty::{Faulty, FaultyTables, Timeline};
use object_store::memory::InMemory;

use super::told::{Callers, fenced};
use crate::world::{Agent, Place};

/// The bytes of the object that several packs are needed for.
const LARGE: usize = 1300 << 10;
const SMALL: usize = 9 << 10;

/// What happened, and all states it went through.
pub(crate) struct History {
    pub(crate) store: Faulty,
    /// The catalogs of both agents.
    pub(crate) tables: [FaultyTables; 2],
    pub(crate) callers: Callers,
}

/// An agent with a short log, so that checkpoints are written all along.
pub(crate) fn agent(tables: &FaultyTables) -> Agent {
    Agent::with_tables(tables).tuned(|options| options.checkpoint_log_bytes = 12 << 10)
}

impl History {
    pub(crate) fn new() -> Self {
        let timeline = Timeline::default();
        Self {
            store: Faulty::over(Arc::new(InMemory::new())).on(&timeline),
            tables: [FaultyTables::on(&timeline), FaultyTables::on(&timeline)],
            callers: Callers::on(&timeline),
        }
    }

    /// Runs all of it. Nothing fails but what a fenced writer is refused.
    pub(crate) async fn record() -> Self {
        let history = Self::new();
        let place = Place::Faulty(history.store.clone());
        let [one, two] = [0, 1].map(|side| agent(&history.tables[side]));
        let (store, first) = one.open(&place).await.unwrap();
        history.write(&first).await;
        store.close().await;
        assert!(store.counters().checkpoints.value() > 0);
        // The same agent again, with its catalog.
        drop((store, first));
        let (_one_store, first) = one.open(&place).await.unwrap();
        history.reclaim_and_write(&first).await;
        // Another one takes over, while the first believes that the store is its own.
        let (two_store, second) = two.open(&place).await.unwrap();
        history.take_over(&second).await;
        fenced(history.callers.put(&first, "late", 20, SMALL).await);
        fenced(history.callers.delete(&first, "small").await);
        history.reclaim_and_rebuild(&second).await;
        two_store.close().await;
        // The first comes back, behind by another's reclaim and rebuild.
        let (one_store, first) = one.open(&place).await.unwrap();
        history.come_back(&first).await;
        one_store.close().await;
        history
    }

    async fn write(&self, repository: &Repository) {
        let callers = &self.callers;
        callers.put(repository, "small", 1, SMALL).await.unwrap();
        callers.put(repository, "large", 2, LARGE).await.unwrap();
        callers.put(repository, "duplicate", 2, LARGE).await.unwrap();
        callers.put(repository, "small", 3, SMALL).await.unwrap();
        callers.copy(repository, "large", "copy").await.unwrap();
        let at_once = (0..4).map(|number| async move {
            let name = format!("at once {number}");
            callers.put(repository, &name, 40 + number / 2, 60 << 10).await.unwrap();
        });
        futures::future::join_all(at_once).await;
        callers.delete(repository, "large").await.unwrap();
        callers.put(repository, "small", 4, SMALL).await.unwrap();
    }

    async fn reclaim_and_write(&self, repository: &Repository) {
        let callers = &self.callers;
        callers.put(repository, "passing", 5, LARGE).await.unwrap();
        // It begins as that one does.
        callers.put(repository, "part", 5, LARGE / 3).await.unwrap();
        callers.delete(repository, "passing").await.unwrap();
        callers.delete(repository, "at once 1").await.unwrap();
        // The same bytes come back while they are reclaimed.
        let (reclaimed, put) = tokio::join!(
            repository.reclaim(ReclaimOptions::THOROUGH),
            callers.put(repository, "again", 5, LARGE)
        );
        let first = reclaimed.unwrap();
        put.unwrap();
        callers.delete(repository, "again").await.unwrap();
        // What another object shared with it stays, and its pack is rewritten: now, or before the bytes came back.
        let second = repository.reclaim(ReclaimOptions::THOROUGH).await.unwrap();
        let rewritten = first.packs_rewritten + second.packs_rewritten;
        assert!(rewritten > 0, "{first:?} {second:?}");
        callers.put(repository, "empty", 0, 0).await.unwrap();
    }

    async fn take_over(&self, repository: &Repository) {
        let callers = &self.callers;
        callers.put(repository, "second", 6, 200 << 10).await.unwrap();
        callers.put(repository, "passing", 5, LARGE).await.unwrap();
        callers.delete(repository, "duplicate").await.unwrap();
    }

    async fn reclaim_and_rebuild(&self, repository: &Repository) {
        let callers = &self.callers;
        callers.delete(repository, "copy").await.unwrap();
        repository.reclaim(ReclaimOptions::THOROUGH).await.unwrap();
        callers.put(repository, "small", 7, SMALL).await.unwrap();
        repository.rebuild().await.unwrap();
        callers.put(repository, "duplicate", 2, LARGE).await.unwrap();
        callers.delete(repository, "passing").await.unwrap();
        repository.reclaim(ReclaimOptions::THOROUGH).await.unwrap();
    }

    async fn come_back(&self, repository: &Repository) {
        let callers = &self.callers;
        callers.put(repository, "passing", 5, LARGE).await.unwrap();
        callers.copy(repository, "duplicate", "large").await.unwrap();
        callers.delete(repository, "duplicate").await.unwrap();
        repository.reclaim(ReclaimOptions::THOROUGH).await.unwrap();
        callers.put(repository, "second", 8, SMALL).await.unwrap();
    }
}
