//! The committer: the one task that appends to the log.
//!
//! It gathers whatever asks for a record while the last commit is on its way (group commit), takes the open pack as
//! the commit pack, waits for every pack below it, decides each request against the catalog, and puts. One commit is
//! in flight at a time. Any failure after the decision ends the writer: what was in doubt is settled by the next
//! owner epoch, never by a second attempt.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use tokio::sync::{mpsc, oneshot};

use super::apply::{Committed, apply};
use super::checkpoint;
use super::ownership::Ownership;
use crate::backend;
use crate::catalog::{Lookup, TipRow};
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::in_flight::Holder;
use crate::engine::write::upload::put_pack;
use crate::engine::write::{Ledger, NewPack, OpenPack, Packer};
use crate::format::directory::RECORDS_LEN_MAX;
use crate::format::record::metadata_len;
use crate::format::{
    ChunkRef, CommitSection, Content, ObjectName, ObjectVersion, PackName, PackNumber, Record, Tip, next_head,
};

/// What must hold for a write to happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing: the later commit wins.
    #[default]
    None,
    /// No object has this name.
    CreateOnly,
    /// The object is at this version.
    IfVersion(u64),
}

/// An object that waits for its record.
pub(crate) struct NewObject {
    pub(crate) name: ObjectName,
    pub(crate) size: u64,
    pub(crate) chunks: u64,
    pub(crate) crc32c: u32,
    pub(crate) created_ms: i64,
    pub(crate) put_id: [u8; 16],
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) content: Content,
}

/// Something that wants a record.
pub(crate) enum Request {
    Put {
        object: Box<NewObject>,
        precondition: Precondition,
        /// Keeps the packs of the object from being condemned until its record is applied.
        holder: Arc<Holder>,
        reply: oneshot::Sender<Result<ObjectVersion>>,
    },
    Delete {
        name: ObjectName,
        precondition: Precondition,
        reply: oneshot::Sender<Result<bool>>,
    },
    /// Condemns those of the packs that are dead and that nobody holds.
    Condemn {
        packs: Vec<PackNumber>,
        reply: oneshot::Sender<Result<Vec<PackName>>>,
    },
    /// Writes a checkpoint at the present tip.
    Checkpoint { reply: oneshot::Sender<Result<()>> },
}

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
}

/// What a request is told once its commit is acknowledged.
enum Answer {
    Put(oneshot::Sender<Result<ObjectVersion>>, ObjectVersion),
    Delete(oneshot::Sender<Result<bool>>),
    Condemn(oneshot::Sender<Result<Vec<PackName>>>, Vec<PackName>),
}

/// Records decided for one commit, with the objects they leave behind.
struct Decided {
    records: Vec<Record>,
    answers: Vec<Answer>,
    /// Names written in this commit, with the version they have after it.
    pending: HashMap<ObjectName, Option<u64>>,
    /// Put ids of this commit.
    put_ids: HashMap<[u8; 16], ObjectVersion>,
    sequence: u64,
    holders: Vec<Arc<Holder>>,
    /// Bytes of records, those that head the commit pack included.
    records_len: usize,
}

impl Committer {
    /// Serves requests until the writer is dropped.
    pub(crate) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let introduce_max = self.core.options.introduce_packs_max;
        loop {
            let mut batch = Vec::from(std::mem::take(&mut self.waiting));
            if batch.is_empty() {
                tokio::select! {
                    request = requests.recv() => match request {
                        Some(request) => batch.push(request),
                        None => break,
                    },
                    () = self.ledger.pressure(introduce_max), if self.ledger.failure().is_none() => {}
                }
            }
            while batch.len() < self.core.options.commit_records_max
                && let Ok(request) = requests.try_recv()
            {
                batch.push(request);
            }
            self.serve(batch).await;
        }
    }

    async fn serve(&mut self, batch: Vec<Request>) {
        let (checkpoints, batch): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .partition(|request| matches!(request, Request::Checkpoint { .. }));
        if let Some(error) = self.ledger.failure() {
            batch
                .into_iter()
                .chain(checkpoints)
                .for_each(|request| request.refuse(error.clone()));
            return;
        }
        if !batch.is_empty() || checkpoints.is_empty() {
            self.commit(batch).await;
        }
        let due = self.tip.log_bytes_since_checkpoint >= self.core.options.checkpoint_log_bytes;
        if !checkpoints.is_empty() || due {
            let written = self.checkpoint().await;
            for request in checkpoints {
                if let Request::Checkpoint { reply } = request {
                    let _ = reply.send(written.clone());
                }
            }
        }
    }

    /// One commit, from the open pack to the acknowledgements.
    async fn commit(&mut self, batch: Vec<Request>) {
        let gathered = self.gather().await;
        let (open, introduced) = match gathered {
            Ok(gathered) => gathered,
            Err(error) => return self.fail(error, batch),
        };
        let core = self.core.clone();
        let _applying = core.apply.lock().await;
        let decided = self.refresh().and_then(|()| {
            let head_len = self.head(&introduced).iter().map(Record::encoded_len).sum();
            self.decide(batch, head_len)
        });
        let mut decided = match decided {
            Ok(decided) => decided,
            // Their callers learn nothing but that the writer is gone: none of them is on the log.
            Err(error) => return self.fail(error, Vec::new()),
        };
        if decided.records.is_empty() && introduced.is_empty() && open.writer.is_empty() {
            return;
        }
        let answers = std::mem::take(&mut decided.answers);
        let outcome = self.append(open, introduced, decided).await;
        if let Err(error) = &outcome {
            tracing::error!(%error, "the writer of this repository has given up");
            self.ledger.fail(error.clone());
            self.core.in_flight.fail_all();
        }
        for answer in answers {
            answer.send(&outcome);
        }
    }

    /// Takes over what others changed in the totals: reclaim does.
    fn refresh(&mut self) -> Result<()> {
        if let Some(tip) = self.core.catalog.tip()? {
            self.tip = tip;
        }
        Ok(())
    }

    /// The open pack, and every durable pack below it.
    async fn gather(&self) -> Result<(OpenPack, Vec<NewPack>)> {
        let open = self.packer.take()?;
        let introduced = self.ledger.take_below(open.writer.name().number.counter).await?;
        Ok((open, introduced))
    }

    async fn append(&mut self, open: OpenPack, introduced: Vec<NewPack>, decided: Decided) -> Result<()> {
        let section = self.section(&introduced, decided.records);
        let name = *open.writer.name();
        let packer: Weak<Packer> = Arc::downgrade(&self.packer);
        let commit = put_pack(&self.core, &packer, open, Some(section.clone()))
            .await
            .map_err(|error| in_doubt(error, &name))?;
        // From here on it is durable: whatever fails, others may come to see it.
        self.ownership
            .check(&self.core)
            .await
            .map_err(|error| unacknowledged(error, &name))?;
        self.apply(commit, introduced, section, decided.sequence)
            .await
            .map_err(|error| unacknowledged(error, &name))?;
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

    async fn apply(
        &mut self,
        commit: NewPack,
        introduced: Vec<NewPack>,
        section: CommitSection,
        sequence: u64,
    ) -> Result<()> {
        let mut tip = self.tip.clone();
        tip.tip = Some(Tip {
            pack: commit.pack.name,
            log_number: section.log_number,
            trailer_hash: commit.pack.trailer_hash,
        });
        tip.head = next_head(&tip.head, &commit.pack.trailer_hash);
        tip.sequence = sequence;
        tip.log_bytes_since_checkpoint += commit.pack.size;
        tip.durable_log_number = section.log_number;
        let entry = Committed {
            commit,
            introduced,
            section,
            tip,
        };
        let core = self.core.clone();
        let applied = tokio::task::spawn_blocking(move || apply(&core, &entry));
        self.tip = applied
            .await
            .map_err(|_| Error::internal("applying a commit to the catalog panicked"))??;
        Ok(())
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

    async fn checkpoint(&mut self) -> Result<()> {
        let core = self.core.clone();
        let _applying = core.apply.lock().await;
        self.refresh()?;
        let written = checkpoint::write(&core, self.ownership.epoch(), &self.tip).await;
        match written {
            Ok(tip) => self.tip = tip,
            Err(error) => {
                tracing::error!(%error, "a checkpoint could not be written; the log stays longer");
                return Err(error);
            }
        }
        Ok(())
    }

    fn fail(&mut self, error: Error, batch: Vec<Request>) {
        self.ledger.fail(error.clone());
        self.core.in_flight.fail_all();
        batch.into_iter().for_each(|request| request.refuse(error.clone()));
    }

    /// Decides every request of `batch` against the catalog and the ones before it. From here on only a failure of
    /// the commit itself ends those that were accepted. Those that a commit pack has no room for wait for the next.
    fn decide(&mut self, batch: Vec<Request>, head_len: usize) -> Result<Decided> {
        let mut decided = Decided {
            records: Vec::new(),
            answers: Vec::new(),
            pending: HashMap::new(),
            put_ids: HashMap::new(),
            sequence: self.tip.sequence,
            holders: Vec::new(),
            records_len: head_len,
        };
        for request in batch {
            let len = request.record_len_max();
            if !self.waiting.is_empty() || decided.records_len + len > RECORDS_LEN_MAX {
                self.waiting.push_back(request);
                continue;
            }
            decided.records_len += len;
            match request {
                Request::Put {
                    object,
                    precondition,
                    holder,
                    reply,
                } => match self.decide_put(&mut decided, *object, precondition) {
                    Ok(Decision::Record(version)) => {
                        decided.holders.push(holder);
                        decided.answers.push(Answer::Put(reply, version));
                    }
                    Ok(Decision::Repeat(version)) => decided.answers.push(Answer::Put(reply, version)),
                    Err(error) => drop(reply.send(Err(error))),
                },
                Request::Delete {
                    name,
                    precondition,
                    reply,
                } => match self.decide_delete(&mut decided, name, precondition) {
                    Ok(true) => decided.answers.push(Answer::Delete(reply)),
                    refused => drop(reply.send(refused)),
                },
                Request::Condemn { packs, reply } => match self.decide_condemn(&mut decided, &packs) {
                    Ok(names) => decided.answers.push(Answer::Condemn(reply, names)),
                    Err(error) => drop(reply.send(Err(error))),
                },
                Request::Checkpoint { .. } => {}
            }
        }
        if decided.records.is_empty() {
            // Repeats need no commit of their own: what they repeat is durable.
            for answer in std::mem::take(&mut decided.answers) {
                answer.send(&Ok(()));
            }
        }
        Ok(decided)
    }

    fn decide_put(&self, decided: &mut Decided, object: NewObject, precondition: Precondition) -> Result<Decision> {
        if let Some(first) = self.first_result(decided, &object)? {
            return Ok(Decision::Repeat(first));
        }
        let present = self.version_of(decided, &object.name)?;
        precondition.check(&object.name, present)?;
        decided.sequence += 1;
        let version = ObjectVersion {
            name: object.name,
            sequence: decided.sequence,
            size: object.size,
            chunks: object.chunks,
            crc32c: object.crc32c,
            created_ms: object.created_ms,
            put_id: object.put_id,
            metadata: object.metadata,
            content: object.content,
        };
        decided.pending.insert(version.name.clone(), Some(version.sequence));
        decided.put_ids.insert(version.put_id, version.clone());
        decided.records.push(Record::Put(version.clone()));
        Ok(Decision::Record(version))
    }

    /// The result of an earlier put with the same id, if there was one.
    fn first_result(&self, decided: &Decided, object: &NewObject) -> Result<Option<ObjectVersion>> {
        let first = match decided.put_ids.get(&object.put_id) {
            Some(first) => first.clone(),
            None => match self.core.catalog.put_id(&object.put_id)? {
                Some(row) => repeated(row.result, object),
                None => return Ok(None),
            },
        };
        if first.name != object.name {
            let line = format!(
                "this put id was used for another object before {:?}; use a fresh id for each put",
                object.name.as_str()
            );
            return Err(Error::new(Reason::PutIdReused, line));
        }
        Ok(Some(first))
    }

    fn decide_delete(&self, decided: &mut Decided, name: ObjectName, precondition: Precondition) -> Result<bool> {
        let Some(present) = self.version_of(decided, &name)? else {
            return Ok(false);
        };
        precondition.check(&name, Some(present))?;
        decided.sequence += 1;
        decided.pending.insert(name.clone(), None);
        decided.records.push(Record::Delete {
            name,
            sequence: decided.sequence,
        });
        Ok(true)
    }

    fn decide_condemn(&self, decided: &mut Decided, packs: &[PackNumber]) -> Result<Vec<PackName>> {
        let mut dead = Vec::new();
        for pack in packs {
            let row = self.core.catalog.pack(*pack)?;
            dead.extend(
                row.filter(|row| row.is_dead() && row.condemned_at == 0)
                    .map(|row| row.name),
            );
        }
        let numbers: Vec<_> = dead.iter().map(|name| name.number).collect();
        let free = self.core.in_flight.condemn(&numbers);
        dead.retain(|name| free.contains(&name.number));
        if !dead.is_empty() {
            decided.records.push(Record::Condemn(dead.clone()));
        }
        for number in &free {
            self.core.locality.forget_pack(*number);
        }
        Ok(dead)
    }

    fn version_of(&self, decided: &Decided, name: &ObjectName) -> Result<Option<u64>> {
        match decided.pending.get(name) {
            Some(version) => Ok(*version),
            None => Ok(self.core.catalog.object(name)?.map(|object| object.sequence)),
        }
    }
}

/// The result of a put that is sent again. Its content is not kept, and not needed.
fn repeated(first: crate::catalog::PutResult, again: &NewObject) -> ObjectVersion {
    ObjectVersion {
        name: first.name,
        sequence: first.sequence,
        size: first.size,
        chunks: first.chunks,
        crc32c: first.crc32c,
        created_ms: first.created_ms,
        put_id: again.put_id,
        metadata: again.metadata.clone(),
        content: Content::Inline(Vec::new()),
    }
}

enum Decision {
    Record(ObjectVersion),
    Repeat(ObjectVersion),
}

impl Precondition {
    fn check(self, name: &ObjectName, present: Option<u64>) -> Result<()> {
        match (self, present) {
            (Precondition::None, _) | (Precondition::CreateOnly, None) => Ok(()),
            (Precondition::IfVersion(wanted), Some(version)) if wanted == version => Ok(()),
            (Precondition::CreateOnly, Some(version)) => Err(Error::new(
                Reason::ObjectExists,
                format!(
                    "{:?} exists already (version {version}); nothing was changed",
                    name.as_str()
                ),
            )),
            (Precondition::IfVersion(wanted), present) => {
                let found = present.map_or("it does not exist".to_owned(), |version| format!("it is at {version}"));
                let line = format!(
                    "{:?} is not at version {wanted}: {found}; nothing was changed",
                    name.as_str()
                );
                Err(Error::new(Reason::VersionMismatch, line))
            }
        }
    }
}

impl Request {
    /// The most that its record can take in a commit pack.
    fn record_len_max(&self) -> usize {
        // More than everything of fixed length in any record, its frame and counts included.
        const FIXED: usize = 256;
        FIXED
            + match self {
                Request::Put { object, .. } => {
                    let content = match &object.content {
                        Content::Inline(chunks) => chunks.len() * ChunkRef::LEN,
                        Content::Root(_) => 0,
                    };
                    object.name.as_str().len() + metadata_len(&object.metadata) + content
                }
                Request::Delete { name, .. } => name.as_str().len(),
                Request::Condemn { packs, .. } => packs.len() * PackName::LEN,
                Request::Checkpoint { .. } => 0,
            }
    }

    fn refuse(self, error: Error) {
        match self {
            Request::Put { reply, .. } => drop(reply.send(Err(error))),
            Request::Delete { reply, .. } => drop(reply.send(Err(error))),
            Request::Condemn { reply, .. } => drop(reply.send(Err(error))),
            Request::Checkpoint { reply } => drop(reply.send(Err(error))),
        }
    }
}

impl Answer {
    fn send(self, outcome: &Result<()>) {
        let outcome = outcome.clone();
        match self {
            Answer::Put(reply, version) => drop(reply.send(outcome.map(|()| version))),
            Answer::Delete(reply) => drop(reply.send(outcome.map(|()| true))),
            Answer::Condemn(reply, names) => drop(reply.send(outcome.map(|()| names))),
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

impl From<backend::Error> for Error {
    fn from(error: backend::Error) -> Self {
        use backend::ErrorKind;
        let reason = match error.kind() {
            ErrorKind::NotFound | ErrorKind::Truncated => Reason::DataLoss,
            ErrorKind::NoSpace => Reason::NoCapacity,
            ErrorKind::ReadOnly => Reason::ReadOnly,
            ErrorKind::PermissionDenied | ErrorKind::AuthFailed => Reason::AuthFailed,
            ErrorKind::Held => Reason::StoreHeld,
            ErrorKind::NotADirectory => Reason::ForeignStore,
            ErrorKind::Invalid => Reason::InvalidArgument,
            ErrorKind::AlreadyExists | ErrorKind::Unavailable | ErrorKind::Io => Reason::BackendUnavailable,
        };
        Error::new(reason, error.to_string()).caused_by(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::ChunkId;
    use crate::format::PackId;
    use crate::format::record::{INLINE_CHUNKS_MAX, METADATA_LEN_MAX};

    #[test]
    fn no_record_is_longer_than_was_reckoned() {
        let name = ObjectName::new("n".repeat(1024)).unwrap();
        let chunk = ChunkRef {
            id: ChunkId([1; 32]),
            len: 1,
        };
        let version = ObjectVersion {
            name: name.clone(),
            sequence: 1,
            size: INLINE_CHUNKS_MAX as u64,
            chunks: INLINE_CHUNKS_MAX as u64,
            crc32c: 0,
            created_ms: 0,
            put_id: [0; 16],
            metadata: vec![("k".to_owned(), "v".repeat(METADATA_LEN_MAX - 5))],
            content: Content::Inline(vec![chunk; INLINE_CHUNKS_MAX]),
        };
        let object = NewObject {
            name: name.clone(),
            size: version.size,
            chunks: version.chunks,
            crc32c: 0,
            created_ms: 0,
            put_id: [0; 16],
            metadata: version.metadata.clone(),
            content: version.content.clone(),
        };
        let put = Request::Put {
            object: Box::new(object),
            precondition: Precondition::None,
            holder: Arc::new(Arc::<crate::engine::in_flight::InFlight>::default().holder()),
            reply: oneshot::channel().0,
        };
        assert!(Record::Put(version).encoded_len() <= put.record_len_max());
        let delete = Request::Delete {
            name: name.clone(),
            precondition: Precondition::None,
            reply: oneshot::channel().0,
        };
        assert!(Record::Delete { name, sequence: 1 }.encoded_len() <= delete.record_len_max());
        let number = PackNumber { epoch: 1, counter: 1 };
        let packs = vec![number; 4096];
        let condemn = Request::Condemn {
            packs,
            reply: oneshot::channel().0,
        };
        let names = vec![
            PackName {
                number,
                id: PackId([0; 32])
            };
            4096
        ];
        assert!(Record::Condemn(names).encoded_len() <= condemn.record_len_max());
        assert!(
            condemn.record_len_max() < RECORDS_LEN_MAX / 2,
            "one request always fits"
        );
    }
}
