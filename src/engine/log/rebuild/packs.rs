//! The pass over all packs of the log: their blobs become known, with no references yet.

use std::collections::HashMap;

use super::ahead::ReadAhead;
use super::directories::Contents;
use super::{Listed, Rebuild};
use crate::catalog::EntriesRow;
use crate::engine::error::{Reason, Result};
use crate::engine::log::apply::Change;
use crate::engine::write::NewPack;

/// Blobs, about, and packs that one transaction makes known.
const BLOBS_AT_ONCE: usize = 4096;
const PACKS_AT_ONCE: usize = 16;

impl Rebuild<'_> {
    /// Makes every pack in the store's pack table known. In the order of their numbers: of several copies of a chunk the
    /// one introduced last counts.
    pub(super) async fn read_packs(&mut self) -> Result<()> {
        let core = self.core.clone();
        let directories = self.directories.clone();
        let packs: Vec<Listed> = self.packs.values().copied().collect();
        let bytes = |listed: &Listed| directories.guess(listed.pack.size);
        let mut reads = ReadAhead::new(&core, packs.into_iter(), bytes, |listed: Listed| {
            let directories = directories.clone();
            async move { (listed, directories.contents(&listed).await) }
        });
        let mut batch = Batch::new(self);
        while let Some(read) = reads.next().await? {
            let (listed, contents) = read.what;
            match contents {
                Ok(contents) => batch.add(self, listed, contents)?,
                Err(error) if error.reason() == Reason::DataLoss => {
                    self.bearer.get_or_insert(listed.pack.name.number);
                    batch.add_unreadable(self, listed, &error.to_string());
                }
                Err(error) => {
                    // What was read so far need not be read again.
                    batch.end(self)?;
                    return Err(error);
                }
            }
            if batch.is_full() {
                batch.end(self)?;
                batch = Batch::new(self);
            }
        }
        batch.end(self)
    }
}

/// Packs that become known in one transaction.
struct Batch {
    change: Change,
    packs: usize,
    blobs: usize,
}

impl Batch {
    fn new(rebuild: &Rebuild<'_>) -> Self {
        Self {
            change: Change::begin(&rebuild.core, rebuild.tip.stats),
            packs: 0,
            blobs: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.blobs >= BLOBS_AT_ONCE || self.packs >= PACKS_AT_ONCE
    }

    fn add(&mut self, rebuild: &Rebuild<'_>, listed: Listed, contents: Contents) -> Result<()> {
        rebuild.progress.pack(contents.kept);
        rebuild.progress.read(contents.bytes);
        self.packs += 1;
        self.blobs += contents.entries.entries.len();
        self.change
            .introduce(&new_pack(listed, contents.entries), listed.log_number)?;
        Ok(())
    }

    fn add_unreadable(&mut self, rebuild: &Rebuild<'_>, listed: Listed, problem: &str) {
        let path = rebuild.core.layout.pack(&listed.pack.name);
        tracing::error!(
            path,
            problem,
            "a pack cannot be read; what only it holds is lost unless it is restored"
        );
        rebuild.progress.pack(false);
        self.packs += 1;
        self.change
            .introduce_unreadable(&listed.pack, listed.kind, listed.log_number);
    }

    fn end(self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        if self.packs > 0 {
            rebuild.tip.stats = self.change.keep()?;
        }
        Ok(())
    }
}

/// A pack as the catalog takes it. Children of its manifests are counted from the objects down.
fn new_pack(listed: Listed, entries: EntriesRow) -> NewPack {
    NewPack {
        pack: listed.pack,
        kind: listed.kind,
        entries,
        children: HashMap::new(),
        _holders: Vec::new(),
        claim: None,
    }
}
