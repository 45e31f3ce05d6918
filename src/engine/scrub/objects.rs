//! Objects: what each refers to is there, and which bytes of which objects are concerned where it is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::cursor::Place;
use super::report::{DamagedObject, DamagedPage, DamagedRange};
use super::walk::Walk;
use crate::catalog::{ChunkRow, Lookup};
use crate::codec::ChunkId;
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::log::rebuild::read_manifest_plain;
use crate::engine::read::manifest_leaves;
use crate::engine::repository::Repository;
use crate::format::{ChunkRef, Content, Leaf, LeafRef, ObjectVersion};

/// Objects read at a time.
const PAGE: usize = 64;
/// Objects looked at for one page of damaged ones: a look may read all manifests of an object.
const LOOKS: usize = 1024;
/// Ranges after which such a page ends.
const PAGE_RANGES: usize = 1024;
/// Pack rows read at a time.
const PACKS_PAGE: usize = 1024;
/// What a root costs, about: its own length is not known before it is read.
const ROOT_BYTES: u64 = 2048;

/// Checks all objects after `after`. Returns the key of the last one if it ends early.
pub(super) async fn check(
    repository: &Repository,
    walk: &Walk<'_>,
    after: Option<[u8; 16]>,
) -> Result<Option<[u8; 16]>> {
    let core = repository.core();
    let look = Look::new(repository)?;
    let mut after = after;
    loop {
        let page = core.catalog.objects_page(after, PAGE)?;
        if page.is_empty() {
            return Ok(None);
        }
        for (key, object) in page {
            core.revocation.check()?;
            walk.check_current()?;
            if matches!(object.content, Content::Root(_)) {
                walk.spend(ROOT_BYTES).await;
            }
            if let Some(damaged) = look.at(object).await? {
                walk.concerned(damaged);
            }
            after = Some(key);
            walk.reach(Place::Objects(after));
            if walk.is_over() {
                return Ok(after);
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Damaged objects whose names begin with `prefix`, at most `limit`. A page ends early where there is much to tell or much
/// to look at.
pub(super) async fn damaged(
    repository: &Repository,
    prefix: &str,
    after: Option<[u8; 16]>,
    limit: usize,
) -> Result<DamagedPage> {
    let core = repository.core();
    let look = Look::new(repository)?;
    let mut found = DamagedPage::default();
    let mut after = after;
    let (mut looks, mut ranges) = (LOOKS, 0);
    if !look.is_close {
        return Ok(found);
    }
    loop {
        core.revocation.check()?;
        let page = core.catalog.objects_page(after, PAGE)?;
        if page.is_empty() {
            return Ok(found);
        }
        for (key, object) in page {
            if looks == 0 || ranges >= PAGE_RANGES || found.objects.len() >= limit {
                found.next = after;
                return Ok(found);
            }
            looks -= 1;
            after = Some(key);
            if object.name.as_str().starts_with(prefix)
                && let Some(damaged) = look.at(object).await?
            {
                ranges += damaged.ranges.len();
                found.objects.push(damaged);
            }
        }
    }
}

/// How objects are looked at: down to their chunks only if something is known to be damaged. Chunks without damage are
/// checked pack by pack.
struct Look<'a> {
    repository: &'a Repository,
    core: &'a Arc<Core>,
    is_close: bool,
    /// Whether the log was followed already: once is enough for what has been damaged for long.
    has_followed: AtomicBool,
}

impl<'a> Look<'a> {
    fn new(repository: &'a Repository) -> Result<Self> {
        let core = repository.core();
        let mut after = None;
        loop {
            let page = core.catalog.packs_page(after, PACKS_PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some(last.name.number);
            if page.iter().any(|row| row.damaged > 0) {
                return Ok(Self::of(repository, true));
            }
        }
        Ok(Self::of(repository, false))
    }

    fn of(repository: &'a Repository, is_close: bool) -> Self {
        let core = repository.core();
        Self {
            repository,
            core,
            is_close,
            has_followed: AtomicBool::new(false),
        }
    }

    /// What is damaged of an object, if anything is and it is still there.
    async fn at(&self, object: ObjectVersion) -> Result<Option<DamagedObject>> {
        let ranges = match self.ranges(&object).await {
            Ok(ranges) => ranges,
            Err(error) if error.reason() == Reason::DataLoss => {
                // Another agent may have deleted it, and its packs.
                if !self.has_followed.swap(true, Ordering::Relaxed) {
                    self.repository.follow_others().await?;
                }
                let mut ranges = Ranges::default();
                ranges.add(object.size, None, "its manifest cannot be read");
                ranges.found
            }
            Err(error) => return Err(error),
        };
        if ranges.is_empty() {
            return Ok(None);
        }
        // It may have been replaced, and the old content reclaimed, since its row was read.
        let present = self.core.catalog.object(&object.name)?;
        let is_present = present.is_some_and(|present| present.sequence == object.sequence);
        Ok(is_present.then(|| DamagedObject {
            name: object.name.as_str().to_owned(),
            version: object.sequence,
            ranges,
        }))
    }

    async fn ranges(&self, object: &ObjectVersion) -> Result<Vec<DamagedRange>> {
        let mut ranges = Ranges::default();
        match &object.content {
            Content::Inline(chunks) => self.add_chunks(chunks, &mut ranges)?,
            Content::Root(root) => {
                let Some(row) = self.whole(root)? else {
                    ranges.add(object.size, self.pack_of(root)?, "its manifest is damaged");
                    return Ok(ranges.found);
                };
                let holder = Arc::new(self.core.in_flight.holder());
                holder.pin(row.pack);
                for leaf in manifest_leaves(self.core, &holder, object, root).await? {
                    self.add_leaf(&leaf, &mut ranges).await?;
                }
            }
        }
        Ok(ranges.found)
    }

    async fn add_leaf(&self, leaf: &LeafRef, ranges: &mut Ranges) -> Result<()> {
        let Some(row) = self.whole(&leaf.id)? else {
            ranges.add(leaf.bytes, self.pack_of(&leaf.id)?, "a part of its manifest is damaged");
            return Ok(());
        };
        if !self.is_close {
            ranges.pass(leaf.bytes);
            return Ok(());
        }
        let plain = read_manifest_plain(self.core, row.pack, row.index).await?;
        let leaf = Leaf::decode(&plain).map_err(|error| Error::data_loss(error.to_string()))?;
        self.add_chunks(&leaf.chunks, ranges)
    }

    fn add_chunks(&self, chunks: &[ChunkRef], ranges: &mut Ranges) -> Result<()> {
        for chunk in chunks {
            match self.whole(&chunk.id)? {
                Some(_) => ranges.pass(chunk.len.into()),
                None => ranges.add(chunk.len.into(), self.pack_of(&chunk.id)?, "it is damaged or missing"),
            }
        }
        Ok(())
    }

    /// The row of a blob that nothing is known to be wrong with.
    fn whole(&self, id: &ChunkId) -> Result<Option<ChunkRow>> {
        Ok(self.core.catalog.chunk(id)?.filter(|row| !row.quarantined))
    }

    fn pack_of(&self, id: &ChunkId) -> Result<Option<String>> {
        let Some(row) = self.core.catalog.chunk(id)?.filter(|row| !row.is_lost()) else {
            return Ok(None);
        };
        let pack = self.core.catalog.pack(row.pack)?;
        Ok(pack.map(|pack| self.core.layout.pack(&pack.name)))
    }
}

/// Collects ranges while an object is gone through from its start.
#[derive(Default)]
struct Ranges {
    at: u64,
    found: Vec<DamagedRange>,
}

impl Ranges {
    fn pass(&mut self, length: u64) {
        self.at += length;
    }

    fn add(&mut self, length: u64, pack: Option<String>, problem: &'static str) {
        let offset = self.at;
        self.at += length;
        match self.found.last_mut() {
            Some(last) if last.offset + last.length == offset && last.pack == pack && last.problem == problem => {
                last.length += length;
            }
            _ => self.found.push(DamagedRange {
                offset,
                length,
                pack,
                problem: problem.into(),
            }),
        }
    }
}
