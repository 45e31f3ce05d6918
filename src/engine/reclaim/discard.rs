//! Packs that go: condemned by a record, forgotten by a checkpoint, deleted.

use futures::future::try_join_all;

use super::{PAGE, Run, Scope, for_each_pack, is_idle, next_page};
use crate::catalog::{Lookup, PackRow};
use crate::engine::core::Core;
use crate::engine::error::Result;
use crate::engine::log::ownership::check_fence;
use crate::engine::log::requests::Request;
use crate::format::names::parse_pack;
use crate::format::{PackKind, PackName, PackNumber};

/// Packs condemned at a time, and by one record at most.
const CONDEMN_MAX: usize = 4096;
/// Ids that become unknown with one record, about: what a pack of small chunks has.
const CONDEMN_IDS: u32 = 4096;
/// Packs deleted beside each other: enough for a bucket that takes its time, and few enough to make way for others.
const DROP_AT_ONCE: usize = 16;

impl Run<'_> {
    /// Drops the packs that hold nothing in use and that the log can do without, and those that an earlier run condemned.
    pub(super) async fn drop_dead(&self) -> Result<()> {
        let dead = Dead::find(self.core)?;
        if dead.is_worth_a_commit() {
            let mut numbers = Vec::new();
            let mut after = None;
            while let Some(page) = next_page(self.core, &mut after)? {
                numbers.extend(page.iter().filter(|row| dead.has(row)).map(|row| row.name.number));
                if numbers.len() + PAGE > CONDEMN_MAX {
                    self.condemn_and_drop(&std::mem::take(&mut numbers)).await?;
                }
            }
            self.condemn_and_drop(&numbers).await?;
        }
        self.drop_condemned().await
    }

    /// Drops those of `packs` that hold nothing in use and that nobody holds; how many.
    pub(super) async fn condemn_and_drop(&self, packs: &[PackNumber]) -> Result<u64> {
        if packs.is_empty() {
            return Ok(0);
        }
        let step = self.pace.step();
        // What was released is not on the log. A catalog that a power cut set back behind that, and not behind this
        // record, would have to be made anew.
        self.core.store_catalog.persist()?;
        step.rest().await;
        let condemned = self.condemn(packs).await?;
        if condemned.is_empty() {
            return Ok(0);
        }
        let covered = self.cover().await?;
        let mut rows = Vec::with_capacity(condemned.len());
        for name in condemned {
            rows.extend(self.core.catalog.pack(name.number)?);
        }
        self.drop_packs(&rows, covered).await
    }

    /// Condemns those of the packs that hold nothing in use and that nobody holds, in records that are soon applied: commits
    /// wait for that.
    async fn condemn(&self, packs: &[PackNumber]) -> Result<Vec<PackName>> {
        let mut condemned = Vec::new();
        let (mut record, mut ids) = (Vec::new(), 0);
        for (at, number) in packs.iter().enumerate() {
            ids += self.core.catalog.pack(*number)?.map_or(0, |row| row.current);
            record.push(*number);
            if ids >= CONDEMN_IDS || at + 1 == packs.len() {
                let packs = std::mem::take(&mut record);
                ids = 0;
                let step = self.pace.step();
                condemned.extend(self.access.ask(|reply| Request::Condemn { packs, reply }).await?);
                step.rest().await;
            }
        }
        Ok(condemned)
    }

    /// Deletes packs that a durable record condemns.
    async fn drop_condemned(&self) -> Result<()> {
        let mut is_any = false;
        for_each_pack(self.core, |row| is_any |= row.condemned_at != 0)?;
        if !is_any {
            return Ok(());
        }
        let covered = self.cover().await?;
        let mut after = None;
        while let Some(page) = next_page(self.core, &mut after)? {
            self.drop_packs(&page, covered).await?;
        }
        Ok(())
    }

    /// Writes a checkpoint over all that was condemned, and asks whether this is still the owner. Returns the number of the
    /// commit up to which packs that were condemned may be deleted.
    async fn cover(&self) -> Result<u64> {
        self.checkpoint().await?;
        let tip = self.core.catalog.tip()?.unwrap_or_default();
        self.core.store_catalog.persist()?;
        check_fence(self.core, self.access.epoch).await?;
        Ok(tip.checkpoints[0].as_ref().map_or(0, |(_, log_number)| *log_number))
    }

    /// Deletes the packs whose condemnation a checkpoint covers; how many.
    async fn drop_packs(&self, rows: &[PackRow], covered: u64) -> Result<u64> {
        let is_covered = |row: &&PackRow| row.condemned_at != 0 && row.condemned_at <= covered;
        let rows: Vec<_> = rows.iter().filter(is_covered).collect();
        for rows in rows.chunks(DROP_AT_ONCE) {
            let step = self.pace.step();
            let deleting = rows.iter().map(|row| self.delete(&row.name, row.size));
            try_join_all(deleting).await?;
            step.rest().await;
            forget(self.core, rows).await?;
        }
        Ok(rows.len() as u64)
    }

    async fn delete(&self, name: &PackName, size: u64) -> Result<()> {
        self.core.backend.delete(&self.core.layout.pack(name)).await?;
        self.core.counters.dropped(size);
        self.progress.dropped(size);
        Ok(())
    }

    /// Deletes packs of former epochs that the log does not know: what a killed writer left, or what arrived too late.
    pub(super) async fn sweep_strays(&self) -> Result<()> {
        let prefix = self.core.layout.packs_prefix();
        for directory in self.core.backend.list_directories(&prefix).await? {
            let strays = self.strays(&format!("{prefix}/{directory}")).await?;
            if strays.is_empty() {
                continue;
            }
            // The epoch is closed once this one is on the log: a commit of ours says so.
            self.checkpoint().await?;
            if !is_open(self.core, self.access.epoch)? {
                return Ok(());
            }
            check_fence(self.core, self.access.epoch).await?;
            for (name, size) in strays {
                self.delete(&name, size).await?;
            }
        }
        Ok(())
    }

    async fn strays(&self, directory: &str) -> Result<Vec<(PackName, u64)>> {
        let mut strays = Vec::new();
        for file in self.core.backend.list(directory, None).await? {
            let Some(name) = parse_pack(&file.path) else {
                continue;
            };
            let is_former = name.number.epoch < self.access.epoch;
            if is_former && self.core.catalog.pack(name.number)?.is_none_or(|row| row.name != name) {
                strays.push((name, file.size));
            }
        }
        Ok(strays)
    }
}

/// Packs that hold nothing in use and that the log can do without.
struct Dead {
    scope: Scope,
    /// Something that cannot be read may be in use: it may be in a pack that cannot be read, which may be restored.
    is_missing_something: bool,
    packs: u64,
    has_large: bool,
}

impl Dead {
    fn find(core: &Core) -> Result<Self> {
        let mut dead = Self {
            scope: Scope::of(core)?,
            is_missing_something: false,
            packs: 0,
            has_large: false,
        };
        for_each_pack(core, |row| {
            dead.is_missing_something |= row.is_unreadable() && !row.is_dead()
        })?;
        let (mut packs, mut has_large) = (0, false);
        for_each_pack(core, |row| {
            if dead.has(row) {
                packs += 1;
                has_large |= row.kind == PackKind::Chunk || row.size > SMALL;
            }
        })?;
        Ok(Self {
            packs,
            has_large,
            ..dead
        })
    }

    fn has(&self, row: &PackRow) -> bool {
        is_idle(row) && self.scope.may_go(row) && !(row.is_unreadable() && self.is_missing_something)
    }

    /// Dropping packs takes a commit, which one day is a dead pack itself: for a few small ones it gains nothing.
    fn is_worth_a_commit(&self) -> bool {
        self.packs >= FEW || self.has_large
    }
}

/// Packs that are not few.
const FEW: u64 = 16;
/// A commit pack up to this size is small.
const SMALL: u64 = 64 * 1024;

async fn forget(core: &Core, packs: &[&PackRow]) -> Result<()> {
    let _applying = core.apply.lock().await;
    let mut tx = core.catalog.begin();
    packs.iter().for_each(|pack| tx.remove_pack(pack.name.number));
    tx.commit()?;
    Ok(())
}

/// Whether the newest commit is of this epoch.
fn is_open(core: &Core, epoch: u64) -> Result<bool> {
    let tip = core.catalog.tip()?.unwrap_or_default();
    Ok(tip.tip.is_some_and(|tip| tip.pack.number.epoch == epoch))
}
