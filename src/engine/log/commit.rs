//! The committer: the one task that appends to the log.
//!
//! It gathers whatever asks for a record while the last commit is on its way, and those who come right after it (group
//! commit), takes the open pack as the commit pack, waits for every pack below it, decides each request against the
//! catalog, and puts. One commit is in flight at a time. Any failure after the decision ends the writer: what was in
//! doubt is settled by the next owner epoch, never by a second attempt.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::sync::mpsc;

use super::apply::{Committed, prepare};
use super::checkpoints::Checkpoints;
use super::decide::Decided;
use super::group::Group;
use super::ownership::Ownership;
use super::replay::log_bytes;
use super::requests::{Answer, Request};
use crate::catalog::{Lookup, TipRow};
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::options::Options;
use crate::engine::write::upload::{Purpose, finish_pack};
use crate::engine::write::{Ledger, NewPack, OpenPack, Packer};
use crate::format::{CommitSection, PackName, Record, Tip};

/// The state of the committer.
pub(crate) struct Committer {
    pub(crate) core: Arc<Core>,
    pub(crate) packer: Arc<Packer>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) ownership: Ownership,
    pub(crate) tip: TipRow,
    /// The record that opens this epoch, until it is durable.
    pub(crate) opening: Option<Record>,
    /// Packs of former epochs that are not on the log; deleted once the epoch is open.
    pub(crate) strays: Vec<PackName>,
    /// Requests that found no room in the last commit pack, in their order.
    pub(crate) waiting: VecDeque<Request>,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) group: Group,
}

impl Committer {
    /// Serves requests until the writer is dropped.
    pub(crate) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let Options {
            introduce_packs_max: packs,
            introduce_blobs_max: blobs,
            ..
        } = self.core.options;
        loop {
            let mut batch = Vec::from(std::mem::take(&mut self.waiting));
            if batch.is_empty() {
                tokio::select! {
                    request = requests.recv() => match request {
                        Some(request) => batch.push(request),
                        None => break,
                    },
                    is_written = Self::checkpoint(&mut self.checkpoints, &self.core, &self.ledger) => {
                        self.after_checkpoint(is_written);
                        continue;
                    }
                    () = self.ledger.pressure(packs, blobs), if self.ledger.failure().is_none() => {}
                }
            }
            let most = self.core.options.commit_records_max;
            while batch.len() < most
                && let Ok(request) = requests.try_recv()
            {
                batch.push(request);
            }
            self.group.gather(&mut batch, most, &mut requests).await;
            // One that opens the epoch also clears away what others left: it says nothing about the next.
            let (since, opens) = (Instant::now(), self.opening.is_some());
            let ended = self.serve(batch).await;
            if let Some(ended) = ended {
                // Before they are told: whoever is may be among those who wait before the next line.
                let waiting = requests.len() + self.waiting.len();
                if !opens {
                    self.group.served(ended.answers.len(), waiting, since.elapsed());
                }
                ended.tell();
            }
        }
        while !self.checkpoints.is_idle() {
            let is_written = Self::checkpoint(&mut self.checkpoints, &self.core, &self.ledger).await;
            self.after_checkpoint(is_written);
        }
    }

    /// Waits until a checkpoint ends, or the writer does; whether it was written. Who waits for one may keep the writer until
    /// told.
    async fn checkpoint(checkpoints: &mut Checkpoints, core: &Core, ledger: &Ledger) -> bool {
        if checkpoints.is_idle() {
            std::future::pending::<()>().await;
        }
        tokio::select! {
            // First: giving up may itself be interrupted, and what was given up must not be taken for a failure of its own.
            biased;
            error = ledger.failed() => {
                checkpoints.give_up(&error).await;
                false
            }
            written = checkpoints.ended() => {
                let is_written = written.is_ok();
                checkpoints.answer(core, written);
                is_written
            }
        }
    }

    /// Whoever is not among those whom the commit that ended is to tell has been told.
    async fn serve(&mut self, batch: Vec<Request>) -> Option<Ended> {
        let (checkpoints, batch): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .partition(|request| matches!(request, Request::Checkpoint { .. }));
        if let Some(error) = self.ledger.failure() {
            batch
                .into_iter()
                .chain(checkpoints)
                .for_each(|request| request.refuse(error.clone()));
            return None;
        }
        // A checkpoint leaves behind what came before its tip. What a salvage gives up has to come before, and whatever may
        // have become of the commits of a repository that leaves.
        let must_open = self.opening.is_some() && self.core.must_open();
        let ended = match !batch.is_empty() || checkpoints.is_empty() || must_open {
            true => self.commit(batch).await,
            false => None,
        };
        for request in checkpoints {
            if let Request::Checkpoint { reply } = request {
                self.checkpoints.ask(reply);
            }
        }
        self.begin_checkpoint(self.is_due(&self.tip));
        ended
    }

    /// The log may have grown by as much again meanwhile. A checkpoint that failed is tried again with the next commit.
    fn after_checkpoint(&mut self, is_written: bool) {
        let tip = self.core.catalog.tip().ok().flatten();
        self.begin_checkpoint(is_written && tip.is_some_and(|tip| self.is_due(&tip)));
    }

    fn is_due(&self, tip: &TipRow) -> bool {
        let least = self.core.options.checkpoint_log_bytes;
        self.checkpoints.is_due(tip.log_bytes_since_checkpoint, least)
    }

    /// Begins a checkpoint if one is asked for or `is_due`, unless this writer has failed. The log goes on beside it.
    fn begin_checkpoint(&mut self, is_due: bool) {
        if self.ledger.failure().is_none() {
            self.checkpoints.begin(&self.core, self.ownership.epoch(), is_due);
        }
    }

    /// One commit, from the open pack to what is to be told of it; `None` if that was told or there was none.
    async fn commit(&mut self, batch: Vec<Request>) -> Option<Ended> {
        let since = Instant::now();
        let gathered = self.gather(&batch).await;
        let (open, introduced) = match gathered {
            Ok(gathered) => gathered,
            Err(error) => {
                self.fail(error, batch);
                return None;
            }
        };
        if let Err(error) = self.admit(&open).await {
            self.fail(error, batch);
            return None;
        }
        let core = self.core.clone();
        // Decides about the puts of this batch, further down.
        let _ = core.gate.admit().await;
        let _applying = core.apply.lock().await;
        let decided = self.refresh().and_then(|()| {
            let head_len = self.head(&introduced).iter().map(Record::encoded_len).sum();
            self.decide(batch, head_len)
        });
        let mut decided = match decided {
            Ok(decided) => decided,
            // Their callers learn nothing but that the writer is gone: none of them is on the log.
            Err(error) => {
                self.fail(error, Vec::new());
                return None;
            }
        };
        let is_idle = decided.records.is_empty() && introduced.is_empty() && open.writer.is_empty();
        if is_idle && !self.has_leftovers() {
            self.packer.committed();
            return None;
        }
        let answers = std::mem::take(&mut decided.answers);
        let outcome = self.append(open, introduced, decided).await;
        if outcome.is_ok() {
            self.core.counters.commit_seconds.observe(since.elapsed());
        }
        if let Err(error) = &outcome {
            tracing::error!(%error, "the writer of this repository has given up");
            self.ledger.fail(error.clone());
            self.core.in_flight.fail_all();
            self.core.gate.poke();
        }
        Some(Ended { answers, outcome })
    }

    /// Whether former epochs left packs that can go once this one is open: reason enough for a commit.
    pub(super) fn has_leftovers(&self) -> bool {
        self.opening.is_some() && (self.core.must_open() || !self.strays.is_empty())
    }

    /// Takes over what others changed in the totals: reclaim does.
    fn refresh(&mut self) -> Result<()> {
        if let Some(tip) = self.core.catalog.tip()? {
            self.tip = tip;
        }
        Ok(())
    }

    /// The open pack, and every durable pack below it.
    async fn gather(&self, batch: &[Request]) -> Result<(OpenPack, Vec<NewPack>)> {
        let open = self.packer.take(batch.iter().filter_map(Request::introduces))?;
        let introduced = self.ledger.take_below(open.writer.name().number.counter).await?;
        Ok((open, introduced))
    }

    /// Fails if this commit should not be begun. The reserve is for what a commit says, not for data that is in its pack:
    /// puts that were under way when the room ran out end here. And what the catalog cannot take up is not committed.
    async fn admit(&self, open: &OpenPack) -> Result<()> {
        let catalog = self.core.store_catalog.clone();
        let ready = tokio::task::spawn_blocking(move || catalog.ready());
        if !open.writer.is_empty() {
            self.core.gate.admit_pack(open.writer.stored_len() as u64).await?;
        }
        Ok(ready
            .await
            .map_err(|_| Error::internal("opening the catalog anew panicked"))??)
    }

    async fn append(&mut self, open: OpenPack, introduced: Vec<NewPack>, decided: Decided) -> Result<()> {
        let section = self.section(&introduced, decided.records);
        let records = section.records.len() as u64;
        let name = *open.writer.name();
        let finished = finish_pack(&self.core, open, Purpose::Commit(section.clone(), decided.records_len)).await;
        let (mut commit, unwritten) = finished.map_err(|error| in_doubt(error, &name))?;
        let size = commit.pack.size;
        let mut introduced: Vec<_> = introduced.into_iter().chain(decided.introduced).collect();
        // Kept until they count among the totals: what others claim meanwhile is told of them at least once.
        let claims = introduced.iter_mut().chain([&mut commit]).map(|pack| pack.claim.take());
        let pending: Vec<_> = claims.collect();
        let entry = Arc::new(self.entry(commit, introduced, section, decided.sequence));
        let packer: Weak<Packer> = Arc::downgrade(&self.packer);
        // The processor has something to do while the disk syncs.
        let (tx, change) = (decided.tx, entry.clone());
        let preparing = on_catalog(move || prepare(&change, tx));
        let (written, prepared) = tokio::join!(unwritten.put(&self.core, &packer), preparing);
        written.map_err(|error| in_doubt(error, &name))?;
        // From here on it is durable: whatever fails, others may come to see it.
        self.packer.committed();
        self.ownership
            .check(&self.core)
            .await
            .map_err(|error| unacknowledged(error, &name))?;
        drop(decided.claims);
        let prepared = prepared.map_err(|error| unacknowledged(error, &name))?;
        let core = self.core.clone();
        self.tip = on_catalog(move || prepared.apply(&core, &entry))
            .await
            .map_err(|error| unacknowledged(error, &name))?;
        drop(pending);
        self.checkpoints.follow(size);
        self.core.counters.records.add(records);
        self.core.counters.committed(&decided.tally);
        drop(decided.holders);
        self.after_opening().await;
        Ok(())
    }

    fn section(&mut self, introduced: &[NewPack], records: Vec<Record>) -> CommitSection {
        let mut all = self.head(introduced);
        all.extend(records);
        CommitSection {
            log_number: self.tip.log_number() + 1,
            previous: self.tip.trailer_hash(),
            records: all,
        }
    }

    /// The records that stand before those of requests.
    fn head(&self, introduced: &[NewPack]) -> Vec<Record> {
        let mut head = Vec::from_iter(self.opening.clone());
        if !introduced.is_empty() {
            head.push(Record::Introduce(introduced.iter().map(|pack| pack.pack).collect()));
        }
        head
    }

    /// What the catalog is to take up, with the tip after it.
    fn entry(&self, commit: NewPack, introduced: Vec<NewPack>, section: CommitSection, sequence: u64) -> Committed {
        let mut tip = self.tip.clone();
        let newest = Tip {
            pack: commit.pack.name,
            log_number: section.log_number,
            trailer_hash: commit.pack.trailer_hash,
        };
        tip.advance(newest, log_bytes(&commit.pack, &commit.entries.entries));
        tip.sequence = sequence;
        tip.durable_log_number = section.log_number;
        Committed {
            commit,
            introduced,
            section,
            tip,
        }
    }

    /// Housekeeping that has to wait until this epoch is on the log: what former epochs left behind goes.
    async fn after_opening(&mut self) {
        if self.opening.take().is_none() {
            return;
        }
        for stray in std::mem::take(&mut self.strays) {
            if let Err(error) = self.core.backend.delete(&self.core.layout.pack(&stray)).await {
                tracing::warn!(%error, "a pack that is not on the log could not be deleted; gc tries again");
            }
        }
        self.ownership.forget_older(&self.core).await;
    }

    fn fail(&mut self, error: Error, batch: Vec<Request>) {
        self.ledger.fail(error.clone());
        self.core.in_flight.fail_all();
        batch.into_iter().for_each(|request| request.refuse(error.clone()));
    }
}

/// Works on the catalog, where that may block.
async fn on_catalog<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::internal("applying a commit to the catalog panicked"))?
}

/// A commit that has ended, and those who wait to be told.
struct Ended {
    answers: Vec<Answer>,
    outcome: Result<()>,
}

impl Ended {
    fn tell(self) {
        for answer in self.answers {
            answer.send(&self.outcome);
        }
    }
}

/// A commit that failed for want of room or permission is known not to have happened; anything else is in doubt.
fn in_doubt(error: Error, name: &PackName) -> Error {
    match error.reason() {
        Reason::NoCapacity | Reason::ReadOnly | Reason::AuthFailed => error,
        _ => outcome_unknown(error, name),
    }
}

/// A commit that is durable but that nobody may be told of. A fenced writer says so: the next owner has decided.
fn unacknowledged(error: Error, name: &PackName) -> Error {
    match error.reason() {
        Reason::Fenced => error,
        _ => outcome_unknown(error, name),
    }
}

fn outcome_unknown(error: Error, name: &PackName) -> Error {
    let line = format!(
        "whether commit {}-{} was written is not known; repeat the request with the same put id to learn it",
        name.number.epoch, name.number.counter
    );
    Error::new(Reason::OutcomeUnknown, line).caused_by(error)
}
