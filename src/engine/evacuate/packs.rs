//! The packs of a repository, one after the other: those that are not at the target yet are copied.
//!
//! The table is read page by page and the target's listing directory by directory, and packs in flight are paid for from
//! the byte budget: memory does not grow with the repository.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;

use super::memory::Memory;
use super::pack::{Closely, Flaw, Pack, is_there, overlap, read};
use super::report::{EvacuateProgress, Lost};
use super::target::Target;
use crate::catalog::{EntriesRow, Lookup, PackRow};
use crate::codec::ChunkId;
use crate::engine::budget::Paid;
use crate::engine::core::Core;
use crate::engine::error::Result;
use crate::engine::repository::Repository;
use crate::engine::scrub;
use crate::format::Entry;
use crate::format::names::parse_pack;

/// Rows read at a time.
const PAGE: usize = 64;
/// Packs being copied at once, as far as the budget goes: a bucket answers each only after a while.
const COPIES_MAX: usize = 4;

/// What copying the packs of one repository needs.
pub(super) struct Packs<'a> {
    pub(super) repository: &'a Repository,
    pub(super) target: &'a Target,
    pub(super) progress: &'a EvacuateProgress,
    /// What is remembered of earlier runs, and of this one.
    pub(super) memory: Mutex<Memory>,
}

/// What the target lists of one directory of packs.
#[derive(Default)]
struct Listing {
    directory: String,
    sizes: HashMap<String, u64>,
}

/// How many packs there are to copy, and their bytes.
pub(super) fn count(core: &Core) -> Result<(u64, u64)> {
    let (mut packs, mut bytes, mut after) = (0, 0, None);
    loop {
        let page = core.catalog.packs_page(after, PAGE)?;
        let Some(last) = page.last() else {
            return Ok((packs, bytes));
        };
        after = Some(last.name.number);
        for row in page.iter().filter(|row| counts(row)) {
            packs += 1;
            bytes += row.size;
        }
    }
}

/// Condemned packs are on their way out by themselves.
fn counts(row: &PackRow) -> bool {
    row.condemned_at == 0
}

impl Packs<'_> {
    /// Copies what is not there. Damage is no error: it is in the report.
    ///
    /// # Errors
    /// Those of both backends and the catalog.
    pub(super) async fn copy(&self) -> Result<()> {
        let core = self.repository.core();
        let mut listing = Listing::default();
        let mut after = None;
        loop {
            let page = core.catalog.packs_page(after, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.name.number);
            let mut copies = Vec::new();
            for row in page.into_iter().filter(counts) {
                let path = core.layout.pack(&row.name);
                listing
                    .turn_to(self.target, core.layout.pack_directory(&row.name.number))
                    .await?;
                let is_listed = listing.sizes.get(&path) == Some(&row.size);
                copies.push(self.copy_one(row, path, is_listed));
            }
            stream::iter(copies)
                .buffer_unordered(COPIES_MAX)
                .try_collect::<Vec<()>>()
                .await?;
        }
    }

    async fn copy_one(&self, row: PackRow, path: String, is_listed: bool) -> Result<()> {
        let core = self.repository.core();
        core.revocation.check()?;
        if is_listed && self.is_there(&row, &path).await? {
            self.progress.present(row.size);
            return Ok(());
        }
        let paid = pay(core, row.size).await;
        let Some(pack) = read(core, &path, &row).await? else {
            return self.missing(&row, &path).await;
        };
        self.put(&row, &path, pack).await?;
        drop(paid);
        Ok(())
    }

    async fn is_there(&self, row: &PackRow, path: &str) -> Result<bool> {
        let core = self.repository.core();
        let look = self.memory.lock().look(row.name.number);
        // What was found damaged since may be whole again, or not: only reading it tells.
        let Some(closely) = look.filter(|_| row.damaged == 0) else {
            return Ok(false);
        };
        let _paid = match closely {
            Closely::Trailer => None,
            Closely::Bytes => Some(pay(core, row.size).await),
        };
        is_there(&self.target.backend, core, path, row, closely).await
    }

    async fn missing(&self, row: &PackRow, path: &str) -> Result<()> {
        // Another agent may have reclaimed it, as its log says then.
        self.repository.follow_others().await?;
        let present = self.repository.core().catalog.pack(row.name.number)?;
        if !present.as_ref().is_some_and(counts) {
            return Ok(());
        }
        let flaw = Flaw {
            range: 0..row.size,
            problem: "it is missing".to_owned(),
        };
        self.quarantine_all(row).await?;
        self.report(path, [flaw], false);
        Ok(())
    }

    async fn put(&self, row: &PackRow, path: &str, pack: Pack) -> Result<()> {
        if !pack.is_useful {
            self.quarantine_all(row).await?;
            self.report(path, pack.flaws, false);
            return Ok(());
        }
        let mut flaws = pack.flaws.clone();
        if !flaws.is_empty() || row.damaged > 0 {
            flaws.extend(self.sort_blobs(row, &pack).await?);
        }
        if !pack.flaws.is_empty() {
            // Before it is put: an interruption must not leave it at the target for whole.
            self.remember(|memory| memory.note_partial(row.name.number))?;
        }
        self.target.backend.put(path, pack.bytes).await?;
        if pack.flaws.is_empty() {
            self.remember(|memory| memory.note_whole(row.name.number))?;
        }
        self.progress.copied(row.size);
        self.report(path, flaws, true);
        Ok(())
    }

    /// Changes what is remembered, and keeps it if `change` says that this is news.
    fn remember(&self, change: impl FnOnce(&mut Memory) -> bool) -> Result<()> {
        let mut memory = self.memory.lock();
        match change(&mut memory) {
            true => memory.keep(self.repository.core()),
            false => Ok(()),
        }
    }

    /// Opens what may be damaged: what does not open is quarantined, and what does leaves quarantine. Blobs that do not
    /// open although their blocks are what was written are flaws of their own.
    async fn sort_blobs(&self, row: &PackRow, pack: &Pack) -> Result<Vec<Flaw>> {
        let core = self.repository.core();
        let Some(entries) = core.catalog.entries(row.name.number)?.map(Arc::new) else {
            return Ok(Vec::new());
        };
        let ranges: Vec<Range<u64>> = pack.flaws.iter().map(|flaw| flaw.range.clone()).collect();
        let all = pack.lacks_sums || row.damaged > 0;
        let job = {
            let (core, entries, bytes, ranges) = (core.clone(), entries.clone(), pack.bytes.clone(), ranges.clone());
            move || {
                let concerns = |entry: &Entry| all || ranges.iter().any(|range| overlap(range, &place_of(entry)));
                scrub::open_whole(core, entries, &bytes, concerns)
            }
        };
        let blobs = core.compute.run(job).await?;
        let damaged: Vec<u32> = blobs.damaged.iter().map(|(index, _)| *index).collect();
        scrub::quarantine(core, row.name.number, &ids(&entries, &damaged)).await?;
        if row.damaged > 0 {
            scrub::release(core, row.name.number, &ids(&entries, &blobs.whole), &|| true).await?;
        }
        let of_their_own = blobs.damaged.into_iter().filter_map(|(index, problem)| {
            let range = place_of(&entries.entries[index as usize]);
            let is_known = ranges.iter().any(|known| overlap(known, &range));
            (!is_known).then_some(Flaw { range, problem })
        });
        Ok(of_their_own.collect())
    }

    async fn quarantine_all(&self, row: &PackRow) -> Result<()> {
        let core = self.repository.core();
        if let Some(entries) = core.catalog.entries(row.name.number)? {
            let all: Vec<u32> = (0..entries.entries.len() as u32).collect();
            scrub::quarantine(core, row.name.number, &ids(&entries, &all)).await?;
        }
        Ok(())
    }

    fn report(&self, path: &str, flaws: impl IntoIterator<Item = Flaw>, copied: bool) {
        for flaw in flaws {
            self.progress.lost(Lost {
                repository: self.repository.id(),
                path: path.to_owned(),
                offset: flaw.range.start,
                length: flaw.range.end - flaw.range.start,
                problem: flaw.problem,
                copied,
            });
        }
    }

    /// Deletes packs at the target that the repository does not have: runs that were interrupted copied them, and they
    /// were reclaimed since.
    pub(super) async fn sweep_target(&self) -> Result<()> {
        let core = self.repository.core();
        let packs = core.layout.packs_prefix();
        for directory in self.target.backend.list_directories(&packs).await? {
            for file in self.target.backend.list(&format!("{packs}/{directory}"), None).await? {
                let Some(name) = parse_pack(&file.path) else { continue };
                let row = core.catalog.pack(name.number)?;
                if !row.is_some_and(|row| row.name == name && counts(&row)) {
                    self.target.backend.delete(&file.path).await?;
                }
            }
        }
        Ok(())
    }
}

impl Listing {
    /// Lists a directory, unless that is the one that was listed last: rows come in the order of their directories.
    async fn turn_to(&mut self, target: &Target, directory: String) -> Result<()> {
        if self.directory != directory {
            let files = target.backend.list(&directory, None).await?;
            self.sizes = files.into_iter().map(|file| (file.path, file.size)).collect();
            self.directory = directory;
        }
        Ok(())
    }
}

/// A pack is in memory as a whole. Out of the part for reads, so that puts of other repositories go on; a pack that is
/// larger than that was made under a larger budget, and passes alone.
async fn pay(core: &Core, bytes: u64) -> Paid {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    match bytes > core.budget.total_bytes() / 2 {
        true => core.budget.pay(bytes).await,
        false => core.budget.pay_read(bytes).await,
    }
}

fn place_of(entry: &Entry) -> Range<u64> {
    u64::from(entry.offset)..entry.end()
}

fn ids(entries: &EntriesRow, indices: &[u32]) -> Vec<(ChunkId, u32)> {
    indices
        .iter()
        .map(|index| (entries.entries[*index as usize].id, *index))
        .collect()
}
