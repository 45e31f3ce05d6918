//! What becomes of each request: a record, a refusal, or the answer to an earlier one.
//!
//! Decided against the catalog and the requests before it in the same commit, under the apply lock.

use std::collections::HashMap;
use std::sync::Arc;

use super::commit::Committer;
use super::requests::{Answer, NewObject, Precondition, Request};
use crate::catalog::{Lookup, Transaction};
use crate::engine::allowance::PutClaim;
use crate::engine::counters::Tally;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::in_flight::Holder;
use crate::engine::write::NewPack;
use crate::format::directory::RECORDS_LEN_MAX;
use crate::format::{Content, ObjectName, ObjectVersion, PackName, PackNumber, Record};

/// Records decided for one commit, with the objects they leave behind.
pub(super) struct Decided {
    /// What was read to decide, for what is to be changed.
    pub(super) tx: Transaction,
    pub(super) records: Vec<Record>,
    pub(super) answers: Vec<Answer>,
    /// Names written in this commit, with what they are after it.
    pub(super) pending: HashMap<ObjectName, Option<Present>>,
    /// Put ids that callers gave, of this commit.
    pub(super) put_ids: HashMap<[u8; 16], ObjectVersion>,
    pub(super) sequence: u64,
    /// Bytes of all objects after it.
    logical_bytes: u64,
    pub(super) holders: Vec<Arc<Holder>>,
    /// What the objects put add; to be given back before the commit is applied.
    pub(super) claims: Vec<PutClaim>,
    /// Bytes that records take at most, those that head the commit pack included.
    pub(super) records_len: usize,
    /// Packs that requests introduce.
    pub(super) introduced: Vec<NewPack>,
    /// What all of it counts for.
    pub(super) tally: Tally,
}

/// An object that is there.
#[derive(Clone, Copy)]
pub(super) struct Present {
    sequence: u64,
    size: u64,
}

enum Decision {
    Record(ObjectVersion),
    Repeat(ObjectVersion),
}

impl Committer {
    /// Decides every request of `batch` against the catalog and the ones before it. From here on only a failure of
    /// the commit itself ends those that were accepted. Those that a commit pack has no room for wait for the next.
    pub(super) fn decide(&mut self, batch: Vec<Request>, head_len: usize) -> Result<Decided> {
        let mut decided = Decided {
            tx: self.core.catalog.begin(),
            records: Vec::new(),
            answers: Vec::new(),
            pending: HashMap::new(),
            put_ids: HashMap::new(),
            sequence: self.tip.sequence,
            logical_bytes: self.tip.stats.logical_bytes,
            holders: Vec::new(),
            claims: Vec::new(),
            records_len: head_len,
            introduced: Vec::new(),
            tally: Tally::default(),
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
                    claim,
                    reply,
                } => match self.decide_put(&mut decided, *object, precondition) {
                    Ok(Decision::Record(version)) => {
                        decided.holders.push(holder);
                        decided.claims.extend(claim);
                        decided.answers.push(Answer::Put(reply, version));
                    }
                    Ok(Decision::Repeat(version)) => decided.answers.push(Answer::Put(reply, version)),
                    Err(error) => {
                        // Who is told may look at once.
                        drop(claim);
                        drop(reply.send(Err(error)));
                    }
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
                Request::Introduce { pack, reply } => {
                    decided.records.push(Record::Introduce(vec![pack.pack]));
                    decided.introduced.push(*pack);
                    decided.answers.push(Answer::Introduce(reply));
                }
                Request::Checkpoint { .. } => {}
            }
        }
        if decided.records.is_empty() && !self.has_leftovers() {
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
        let present = Self::present(decided, &object.name)?;
        precondition.check(&object.name, present.map(|present| present.sequence))?;
        self.core.gate.check()?;
        let without = decided.logical_bytes - present.map_or(0, |present| present.size);
        let logical_bytes = without.saturating_add(object.size);
        let allowance = &self.core.allowance;
        allowance.decide(&self.tip.stats, decided.logical_bytes, logical_bytes)?;
        decided.logical_bytes = logical_bytes;
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
        let present = Present {
            sequence: version.sequence,
            size: version.size,
        };
        decided.pending.insert(version.name.clone(), Some(present));
        if let Some(id) = object.put_id {
            decided.put_ids.insert(id, version.clone());
        }
        decided.tally.put(version.size, version.chunks, object.written);
        decided.records.push(Record::Put(version.clone()));
        Ok(Decision::Record(version))
    }

    /// The result of an earlier put with the same id, if there was one.
    fn first_result(&self, decided: &Decided, object: &NewObject) -> Result<Option<ObjectVersion>> {
        let Some(put_id) = object.put_id else {
            return Ok(None);
        };
        let first = match decided.put_ids.get(&put_id) {
            Some(first) => first.clone(),
            None => match self.core.catalog.put_id(&put_id)? {
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
        let Some(present) = Self::present(decided, &name)? else {
            return Ok(false);
        };
        precondition.check(&name, Some(present.sequence))?;
        decided.logical_bytes -= present.size;
        decided.sequence += 1;
        decided.tally.deletes += 1;
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

    fn present(decided: &mut Decided, name: &ObjectName) -> Result<Option<Present>> {
        match decided.pending.get(name) {
            Some(present) => Ok(*present),
            None => Ok(decided.tx.read_object(name)?.map(|object| Present {
                sequence: object.sequence,
                size: object.size,
            })),
        }
    }
}

impl Precondition {
    pub(crate) fn check(self, name: &ObjectName, present: Option<u64>) -> Result<()> {
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
