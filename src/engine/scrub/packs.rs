//! Packs that count: each is what the catalog and the log say it is.

use std::sync::Arc;

use super::body::{Blobs, open_all, open_manifests};
use super::frame::{Flaw, Frame};
use super::quarantine::{quarantine_if, release};
use super::report::{Depth, Remedy};
use super::walk::Walk;
use crate::backend::ErrorKind;
use crate::catalog::{EntriesRow, Lookup, PackRow, TipRow};
use crate::codec::ChunkId;
use crate::engine::core::Core;
use crate::engine::error::Result;
use crate::engine::repository::Repository;
use crate::format::names::parse_pack;
use crate::format::pack::open_directory;
use crate::format::{BlobKind, CommitSection, Entry, Hash32, PackKind, PackNumber};

/// Rows read at a time.
const PAGE: usize = 64;

/// Checks all packs after `after` that were on the log when this began. Returns the last one checked if it ends early.
pub(super) async fn check(
    repository: &Repository,
    walk: &Walk<'_>,
    after: Option<PackNumber>,
) -> Result<Option<PackNumber>> {
    let core = repository.core();
    let tip = core.catalog.tip()?.unwrap_or_default();
    let Some(newest) = &tip.tip else { return Ok(None) };
    let until = newest.pack.number;
    let mut log = LogChain::new(&tip);
    let mut after = after;
    loop {
        let page = core.catalog.packs_page(after, PAGE)?;
        let rows: Vec<_> = page.into_iter().filter(|row| row.name.number <= until).collect();
        let Some(last) = rows.last() else { break };
        after = Some(last.name.number);
        for row in rows {
            check_pack(repository, walk, &row, &mut log).await?;
            walk.reach(super::Place::Packs(Some(row.name.number)));
            if walk.is_over() {
                return Ok(Some(row.name.number));
            }
        }
    }
    log.end(core, walk)?;
    count_strays(core, walk, until).await?;
    Ok(None)
}

async fn check_pack(repository: &Repository, walk: &Walk<'_>, row: &PackRow, log: &mut LogChain) -> Result<()> {
    let core = repository.core();
    core.revocation.check()?;
    walk.check_current()?;
    let number = row.name.number;
    // Held, it is not reclaimed meanwhile; what cannot be held or is gone by now is no concern of ours. As a commit it
    // was on the log all the same.
    let holder = core.in_flight.holder();
    if !holder.pin(number) {
        return log.follow(core, row, None, walk);
    }
    let (Some(present), Some(entries)) = (core.catalog.pack(number)?, core.catalog.entries(number)?) else {
        return log.follow(core, row, None, walk);
    };
    if present.condemned_at != 0 {
        return log.follow(core, row, None, walk);
    }
    walk.progress.update(|report| {
        report.stored_objects += 1;
        report.packs += 1;
    });
    let pack = Pack {
        repository,
        core,
        walk,
        path: core.layout.pack(&present.name),
        row: present,
        entries: Arc::new(entries),
    };
    pack.check(log).await
}

struct Pack<'a> {
    repository: &'a Repository,
    core: &'a Arc<Core>,
    walk: &'a Walk<'a>,
    path: String,
    row: PackRow,
    entries: Arc<EntriesRow>,
}

impl Pack<'_> {
    async fn check(&self, log: &mut LogChain) -> Result<()> {
        let repository = self.core.secrets.repository();
        let Some(mut frame) = Frame::read(self.walk, &self.path, repository, &self.row.name).await? else {
            log.follow(self.core, &self.row, None, self.walk)?;
            if self.was_reclaimed().await? {
                self.walk.progress.update(|report| report.vanished += 1);
                return Ok(());
            }
            let remedy = self.quarantine_all().await?;
            self.walk.found(&self.path, 0..0, "it is missing", remedy);
            return Ok(());
        };
        let section = self.check_structure(&mut frame)?;
        log.follow(self.core, &self.row, section.as_ref(), self.walk)?;
        let (blobs, blocks) = match self.walk.depth() {
            Depth::Full => open_all(self.core, self.walk, &self.path, &self.entries, &frame).await?,
            _ => {
                let blobs = open_manifests(self.core, self.walk, &self.path, &self.entries).await?;
                (blobs, Vec::new())
            }
        };
        self.check_children(&blobs)?;
        let opened = blobs.whole.len() as u64;
        self.walk.progress.update(|report| report.blobs += opened);
        self.report(frame, blobs, blocks).await
    }

    /// Whether the pack went because another agent reclaimed it, as its log says.
    async fn was_reclaimed(&self) -> Result<bool> {
        self.repository.follow_others().await?;
        self.walk.check_current()?;
        let row = self.core.catalog.pack(self.row.name.number)?;
        Ok(row.is_none_or(|row| row.condemned_at != 0))
    }

    /// Trailer and directory against what log and catalog say. Flaws are added to the frame's.
    fn check_structure(&self, frame: &mut Frame) -> Result<Option<CommitSection>> {
        let Some(trailer) = frame.trailer.clone().filter(|_| frame.flaws.is_empty()) else {
            return Ok(None);
        };
        let size = frame.size;
        if (trailer.hash(), size) != (self.row.trailer_hash, self.row.size) {
            frame.flaw(0..size, "it is not the pack that the log introduced");
            return Ok(None);
        }
        let (secrets, name) = (&self.core.secrets, &self.row.name);
        match open_directory(secrets, name, &frame.header, &trailer, &frame.directory, &frame.sums) {
            Err(error) => {
                frame.flaw(trailer.directory_range(), error.to_string());
                Ok(None)
            }
            Ok(_) if self.row.is_unreadable() => {
                self.contradict("was unreadable when the catalog was made and can be read again");
                Ok(None)
            }
            Ok(directory) => {
                if (&directory.births, &directory.entries) != (&self.entries.births, &self.entries.entries) {
                    self.contradict("has other contents than the catalog says");
                }
                Ok(directory.commit)
            }
        }
    }

    fn contradict(&self, what: &str) {
        let line = format!("{} {what}; `cairn rebuild` makes the catalog anew", self.path);
        self.walk.contradicted(line);
    }

    /// What leaves and roots lead to is known, and of the right kind.
    fn check_children(&self, blobs: &Blobs) -> Result<()> {
        for (index, children) in &blobs.children {
            let entry = &self.entries.entries[*index as usize];
            let place = self.core.catalog.chunk(&entry.id)?;
            if place.is_none_or(|row| (row.pack, row.index) != (self.row.name.number, *index)) {
                continue;
            }
            let kind = match entry.kind {
                BlobKind::Root => BlobKind::Leaf,
                _ => BlobKind::Data,
            };
            let rows = self.core.catalog.chunks(children)?;
            if !rows.iter().all(|row| row.as_ref().is_some_and(|row| row.kind == kind)) {
                self.contradict("has a manifest that leads to chunks the catalog does not know");
            }
        }
        Ok(())
    }

    /// Quarantines what is damaged, lets out what is not, and reports.
    async fn report(&self, frame: Frame, blobs: Blobs, blocks: Vec<Flaw>) -> Result<()> {
        let number = self.row.name.number;
        let damaged: Vec<u32> = blobs.damaged.iter().map(|(index, _)| *index).collect();
        if frame.flaws.is_empty() {
            quarantine_if(self.core, number, &self.ids(&damaged), &|| self.walk.is_current()).await?;
            if self.row.damaged > 0 && !self.row.is_unreadable() {
                let whole = self.ids(&blobs.whole);
                let released = release(self.core, number, &whole, &|| self.walk.is_current()).await?;
                self.walk.progress.update(|report| report.released += released);
            }
        } else {
            let remedy = self.quarantine_all().await?;
            for flaw in frame.flaws {
                self.walk.found(&self.path, flaw.range, flaw.problem, remedy);
            }
        }
        let blob = |index: u32| -> &Entry { &self.entries.entries[index as usize] };
        for flaw in blocks {
            // Where a blob says more closely what is damaged, the block says nothing new.
            let is_known = |index: &u32| {
                let entry = blob(*index);
                u64::from(entry.offset) < flaw.range.end && entry.end() > flaw.range.start
            };
            if !damaged.iter().any(is_known) {
                self.walk.found(&self.path, flaw.range, flaw.problem, Remedy::None);
            }
        }
        for (index, problem) in blobs.damaged {
            let entry = blob(index);
            let range = u64::from(entry.offset)..entry.end();
            self.walk.found(&self.path, range, problem, Remedy::Quarantined(1));
        }
        Ok(())
    }

    async fn quarantine_all(&self) -> Result<Remedy> {
        let all: Vec<u32> = (0..self.entries.entries.len() as u32).collect();
        let is_current = || self.walk.is_current();
        quarantine_if(self.core, self.row.name.number, &self.ids(&all), &is_current).await?;
        Ok(Remedy::Quarantined(all.len() as u64))
    }

    fn ids(&self, indices: &[u32]) -> Vec<(ChunkId, u32)> {
        indices
            .iter()
            .map(|index| (self.entries.entries[*index as usize].id, *index))
            .collect()
    }
}

/// Follows the commit packs in their order: each names the one before.
struct LogChain {
    newest: u64,
    last: Option<(u64, Hash32)>,
}

impl LogChain {
    fn new(tip: &TipRow) -> Self {
        Self {
            newest: tip.log_number(),
            last: None,
        }
    }

    fn follow(&mut self, core: &Core, row: &PackRow, section: Option<&CommitSection>, walk: &Walk<'_>) -> Result<()> {
        if row.kind != PackKind::Commit {
            return Ok(());
        }
        if let Some((number, hash)) = self.last {
            let is_next = number + 1 == row.log_number;
            if !is_next && row.log_number > kept_from(core)? {
                walk.contradicted(format!(
                    "the catalog knows no commit between {number} and {}",
                    row.log_number
                ));
            }
            if is_next && section.is_some_and(|section| section.previous != hash) {
                walk.contradicted(format!("commit {} does not continue commit {number}", row.log_number));
            }
        }
        self.last = Some((row.log_number, row.trailer_hash));
        Ok(())
    }

    /// At the end: the newest commit was met, and the heads that are kept follow from each other.
    fn end(&self, core: &Core, walk: &Walk<'_>) -> Result<()> {
        if self.last.is_some_and(|(number, _)| number < self.newest) && self.newest > kept_from(core)? {
            walk.contradicted(format!("the catalog does not know the pack of commit {}", self.newest));
        }
        if let Some((number, hash)) = self.last
            && let (Some(before), Some(head)) = (core.catalog.head(number - 1)?, core.catalog.head(number)?)
            && crate::format::next_head(&before, &hash) != head
        {
            walk.contradicted(format!(
                "the head of commit {number} does not follow from the one before"
            ));
        }
        Ok(())
    }
}

/// Commits up to this one may be gone: a checkpoint covers them. Asked for anew whenever one is missed, since checkpoints are written
/// and what they cover is dropped while a scrub goes on. After a rebuild only the newest checkpoint is known.
fn kept_from(core: &Core) -> Result<u64> {
    let tip = core.catalog.tip()?.unwrap_or_default();
    Ok(tip.checkpoints.iter().flatten().last().map_or(0, |(_, number)| *number))
}

async fn is_there(core: &Core, path: &str) -> Result<bool> {
    match core.backend.size(path).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Packs of the store that are not on the log: left by killed writers, or put there by somebody else.
async fn count_strays(core: &Core, walk: &Walk<'_>, until: PackNumber) -> Result<()> {
    let packs = core.layout.packs_prefix();
    for directory in core.backend.list_directories(&packs).await? {
        for file in core.backend.list(&format!("{packs}/{directory}"), None).await? {
            let Some(name) = parse_pack(&file.path) else {
                walk.progress.unknown(&file.path);
                continue;
            };
            // One that is being written is known before it ceases to be unannounced.
            let is_coming = core.in_flight.is_unannounced(name.number);
            let is_known = core.catalog.pack(name.number)?.is_some_and(|row| row.name == name);
            // And one that was dropped since it was listed is there no more.
            if name.number <= until && !is_coming && !is_known && is_there(core, &file.path).await? {
                walk.progress.update(|report| report.strays += 1);
            }
        }
    }
    Ok(())
}
