//! Puts full packs: the only place where a chunk pack meets the backend.
//!
//! A separate task, so that an fsync never stops the cores. A pack is finished (block sums, directory) on the CPU
//! pool, unless it is small, and put with the bytes it has; after a failure the whole writer gives up, since later packs
//! may hold manifests that name chunks in this one.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::ledger::{Ledger, NewPack};
use super::packer::{OpenPack, Packer, StoredBytes, share_out};
use crate::backend::Room;
use crate::catalog::EntriesRow;
use crate::engine::budget::Paid;
use crate::engine::compute::caught;
use crate::engine::core::Core;
use crate::engine::error::{Error, Result};
use crate::format::{CommitSection, PackBuffer, PackKind, PackName, PackRef};

/// Puts packs until the packer is gone, at most `uploads_max` at once.
pub(crate) async fn run(
    core: Arc<Core>,
    packer: Weak<Packer>,
    ledger: Arc<Ledger>,
    mut full: mpsc::UnboundedReceiver<OpenPack>,
) {
    let slots = Arc::new(Semaphore::new(core.options.uploads_max.max(1)));
    let mut uploads = JoinSet::new();
    while let Some(open) = full.recv().await {
        while uploads.try_join_next().is_some() {}
        let slot = slots
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let (core, packer, ledger) = (core.clone(), packer.clone(), ledger.clone());
        uploads.spawn(async move {
            let on_panic = FailOnPanic(&ledger);
            match put_pack(&core, &packer, open, Purpose::Chunks).await {
                Ok(pack) => ledger.durable(pack),
                Err(error) => {
                    tracing::error!(%error, "a pack could not be put");
                    ledger.fail(error);
                    core.in_flight.fail_all();
                }
            }
            std::mem::forget(on_panic);
            drop(slot);
        });
    }
    while uploads.join_next().await.is_some() {}
}

/// Ends the writer if an upload panics: else the next commit would wait for its pack for ever.
struct FailOnPanic<'a>(&'a Ledger);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        self.0
            .fail(Error::internal("putting a pack ended early; the log has the cause"));
    }
}

/// A pack of fewer bytes is finished where it is asked for: that takes less than to have another thread do it.
const SMALL_PACK_BYTES: u64 = 512 << 10;

/// What a pack is put for.
pub(crate) enum Purpose {
    /// It takes new chunks: refused where there is no room beyond the reserve.
    Chunks,
    /// It carries an entry of the log, with records of at most so many bytes.
    Commit(CommitSection, usize),
    /// It takes what is in use out of others, so that these can go. Nobody waits for it: it is written with rests.
    Moved(RestRule),
}

/// How long to rest after a step that took so long.
pub(crate) type RestRule = Arc<dyn Fn(Duration) -> Duration + Send + Sync>;

/// Finishes `open`, with the log entry it carries if it is a commit pack, and puts it. Durable on return. What may not use
/// the reserve is refused before it would.
pub(crate) async fn put_pack(core: &Core, packer: &Weak<Packer>, open: OpenPack, purpose: Purpose) -> Result<NewPack> {
    let (pack, unwritten) = finish_pack(core, open, purpose).await?;
    unwritten.put(core, packer).await?;
    Ok(pack)
}

/// The first half of [`put_pack`]: what the pack will be, and what is left to do so that it is.
pub(crate) async fn finish_pack(core: &Core, open: OpenPack, purpose: Purpose) -> Result<(NewPack, UnwrittenPack)> {
    let OpenPack {
        writer,
        children,
        holders,
        shares,
        paid,
        mut claim,
        ..
    } = open;
    let room = match purpose {
        Purpose::Chunks => Room::Free,
        Purpose::Commit(..) | Purpose::Moved(_) => Room::Reserve,
    };
    let (commit, records_len, rule) = match purpose {
        Purpose::Chunks => (None, 0, None),
        Purpose::Commit(section, records_len) => (Some(section), records_len, None),
        Purpose::Moved(rule) => (None, 0, Some(rule)),
    };
    let padding = crate::engine::random()?;
    let is_small = writer.len_max() + (records_len as u64) < SMALL_PACK_BYTES;
    let finish = move || writer.finish(commit, |bytes| fill_from_seed(&padding, bytes));
    let finished = match is_small {
        true => caught(finish)?,
        false => core.compute.run(finish).await?,
    };
    let size = finished.bytes.len() as u64;
    claim.set(size);
    let pack = NewPack {
        pack: PackRef {
            name: finished.name,
            size,
            trailer_hash: finished.trailer_hash,
        },
        kind: finished.kind,
        entries: EntriesRow {
            births: finished.directory.births,
            entries: finished.directory.entries,
        },
        children,
        _holders: holders,
        claim: Some(Arc::new(claim)),
    };
    let unwritten = UnwrittenPack {
        name: finished.name,
        kind: finished.kind,
        bytes: finished.bytes,
        room,
        rule,
        shares,
        _paid: paid,
    };
    Ok((pack, unwritten))
}

/// A pack that is complete in memory.
pub(crate) struct UnwrittenPack {
    name: PackName,
    kind: PackKind,
    bytes: PackBuffer,
    room: Room,
    rule: Option<RestRule>,
    shares: Vec<(StoredBytes, u64)>,
    /// Until it is put.
    _paid: Option<Paid>,
}

impl UnwrittenPack {
    /// Puts it. Durable on return; its buffer goes back to `packer`.
    pub(crate) async fn put(self, core: &Core, packer: &Weak<Packer>) -> Result<()> {
        let size = self.bytes.len() as u64;
        let putting = match self.room {
            Room::Free => Some(core.gate.admit_pack(size).await?),
            Room::Reserve => None,
        };
        let payload = Bytes::from_owner(Recycled {
            bytes: self.bytes,
            packer: packer.clone(),
        });
        let path = core.layout.pack(&self.name);
        let since = Instant::now();
        let putting_it = async {
            match &self.rule {
                None => core.backend.put_using(&path, payload, self.room).await,
                Some(rule) => core.backend.put_gently(&path, payload, self.room, &**rule).await,
            }
        };
        tokio::select! {
            put = putting_it => put.map_err(|error| put_failed(error, self.kind))?,
            // The pack may still land; nothing will refer to it.
            error = core.revocation.revoked() => return Err(error),
        }
        drop(putting);
        if self.rule.is_none() {
            core.counters.pack_seconds(self.kind).observe(since.elapsed());
        }
        core.counters.pack_bytes.add(size);
        share_out(&self.shares, size);
        Ok(())
    }
}

/// Padding bytes, indistinguishable from ciphertext, out of one fresh seed.
fn fill_from_seed(seed: &[u8; 32], bytes: &mut [u8]) {
    blake3::Hasher::new_keyed(seed).finalize_xof().fill(bytes);
}

fn put_failed(error: crate::backend::Error, kind: PackKind) -> Error {
    let what = match kind {
        PackKind::Chunk => "a pack could not be written",
        PackKind::Commit => "the commit could not be written",
    };
    Error::from(error).within(what)
}

/// A pack's buffer on loan to the backend; it returns to the packer when the last reference is gone.
struct Recycled {
    bytes: PackBuffer,
    packer: Weak<Packer>,
}

impl AsRef<[u8]> for Recycled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Recycled {
    fn drop(&mut self) {
        if let Some(packer) = self.packer.upgrade() {
            packer.recycle(std::mem::take(&mut self.bytes));
        }
    }
}
