//! The asynchronous side of a put: reads the source into slabs, pays for them, and collects the manifest.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::ingest::{Ingest, SlabShare};
use super::manifest::ManifestBuilder;
use super::packer::Packer;
use super::source::Source;
use crate::codec::More;
use crate::engine::allowance::PutClaim;
use crate::engine::budget::Paid;
use crate::engine::core::Core;
use crate::engine::counters::Written;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::in_flight::Holder;
use crate::format::{Content, ObjectName};

/// While a slab waits for the budget, the open pack is looked at this often.
const RELIEVED_EVERY: Duration = Duration::from_millis(50);

/// An object whose chunks are in packs, before its record.
pub(crate) struct Draft {
    pub(crate) content: Content,
    pub(crate) size: u64,
    pub(crate) chunks: u64,
    pub(crate) new_chunks: u64,
    pub(crate) new_bytes: u64,
    pub(crate) crc32c: u32,
    pub(crate) stored: super::packer::StoredBytes,
}

impl Draft {
    /// What it is counted with.
    pub(crate) fn written(&self) -> Written {
        Written {
            new_chunks: self.new_chunks,
            new_bytes: self.new_bytes,
            stored: self.stored.clone(),
        }
    }

    /// Bytes this object added to the backend. Complete once its record is durable.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }
}

/// How far a put is, for whoever watches it. Neither number ever decreases.
#[derive(Debug, Default)]
pub struct PutProgress {
    accepted: AtomicU64,
    durable: AtomicU64,
}

impl PutProgress {
    /// Bytes that were taken from the source.
    pub fn accepted_bytes(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Bytes from the beginning of the stream whose chunks are durable. The object itself is durable only when the put
    /// returns.
    pub fn durable_bytes(&self) -> u64 {
        self.durable.load(Ordering::Relaxed)
    }

    fn accept(&self, bytes: usize) {
        self.accepted.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn settle(&self, durable: u64) {
        self.durable.fetch_max(durable, Ordering::Relaxed);
    }
}

/// Sends `source` through the pipeline. On return every chunk has its place in a pack, and `holder` holds all of them.
///
/// `claim` grows with what arrives.
///
/// Dropping the future leaves nothing visible; chunks already placed stay in their packs and are found by later puts.
pub(crate) async fn ingest_stream<S: Source>(
    core: &Arc<Core>,
    packer: &Arc<Packer>,
    holder: &Arc<Holder>,
    name: &ObjectName,
    mut source: S,
    progress: &PutProgress,
    claim: &mut PutClaim,
) -> Result<Draft> {
    let ingest = Ingest::new(core.clone(), packer.clone(), holder.clone())?;
    let drafted = draft(&ingest, name, &mut source, progress, claim).await;
    if drafted.is_err() {
        // A part that is being read may wait for what only its source can give, or end.
        drop(source);
        // What is under way would go on holding packs when the caller has its answer.
        ingest.settled().await;
    }
    drafted
}

async fn draft<S: Source>(
    ingest: &Arc<Ingest>,
    name: &ObjectName,
    source: &mut S,
    progress: &PutProgress,
    claim: &mut PutClaim,
) -> Result<Draft> {
    let Ingest {
        core,
        packer,
        holder,
        stored,
        ..
    } = &**ingest;
    let mut manifest = ManifestBuilder::new(core.clone(), packer.clone(), holder.clone(), stored.clone());
    let mut index = 0;
    let mut accepted = 0;
    loop {
        let slot = ingest.slot().await;
        ingest.check()?;
        packer.check()?;
        // What others wrote meanwhile counts too: a long stream ends here, before it uses up the reserve.
        core.gate.admit().await?;
        let room = ingest.room(index);
        let paid = pay(core, packer, ingest.slab_cost(index)).await?;
        let mut slab = ingest.slab(index);
        let part = source.part(room.len());
        let len = match &part {
            Some(part) => part.len(),
            None => tokio::select! {
                filled = source.fill(std::mem::take(&mut slab.bytes), room.clone()) => {
                    let (bytes, len) = filled.map_err(|error| source_failed(name, error))?;
                    slab.bytes = bytes;
                    len
                }
                // The next writer waits for this stream to end, and the source may never bring anything again.
                error = packer.failed() => return Err(error),
            },
        };
        let more = if len < room.len() { More::End } else { More::MayFollow };
        claim.arrive(len as u64)?;
        let claim = claim.packs(len as u64)?;
        progress.accept(len);
        accepted += len as u64;
        let share = SlabShare { paid, claim, slot };
        match part {
            Some(part) => {
                let name = name.clone();
                let failed = move |error| source_failed(&name, error);
                ingest.push_part(index, slab, part, more, share, failed);
            }
            None => ingest.push(index, slab, room.start..room.start + len, more, share),
        }
        progress.settle(ingest.durable_bytes());
        manifest.add(ingest.take_chunks()).await?;
        index += 1;
        if more == More::End {
            break;
        }
    }
    ingest.drained().await?;
    manifest.add(ingest.take_chunks()).await?;
    let totals = ingest.totals();
    if totals.bytes != accepted {
        // A slab that failed may have given its slot back a moment before that was noted.
        ingest.check()?;
        return Err(Error::internal("not all of the stream was placed"));
    }
    source
        .check(totals.bytes, totals.crc32c)
        .map_err(|error| source_failed(name, error))?;
    Ok(Draft {
        content: manifest.finish(name, totals.bytes).await?,
        size: totals.bytes,
        chunks: totals.chunks_total,
        new_chunks: totals.new_chunks,
        new_bytes: totals.new_bytes,
        crc32c: totals.crc32c,
        stored: stored.clone(),
    })
}

/// Pays for a slab. When nothing is free the open pack is closed: it may be what holds the budget. So may the next one be, with
/// what slabs that were on their way have left in it, and nobody else comes to close that.
async fn pay(core: &Core, packer: &Packer, bytes: usize) -> Result<Paid> {
    if let Some(paid) = core.budget.try_pay(bytes) {
        return Ok(paid);
    }
    let mut paid = pin!(core.budget.pay(bytes));
    loop {
        packer.relieve()?;
        tokio::select! {
            paid = &mut paid => return Ok(paid),
            error = packer.failed() => return Err(error),
            () = tokio::time::sleep(RELIEVED_EVERY) => {}
        }
    }
}

fn source_failed(name: &ObjectName, error: std::io::Error) -> Error {
    let line = format!(
        "reading the data for {:?} failed: {error}; nothing was stored",
        name.as_str()
    );
    Error::new(Reason::SourceFailed, line).caused_by(error)
}
