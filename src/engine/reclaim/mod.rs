//! Space comes back: what deleted objects held is released, packs in which nothing is left are dropped, and what is left
//! of sparse and of tiny packs moves together, so that these can be dropped too.
//!
//! Puts and gets go on meanwhile, and the work makes way for them ([`pace`]). Memory is that of a pack and a few pages of
//! rows, whatever the size of the store; what is in flight is paid for from the byte budget.
//!
//! # The order of durable steps
//!
//! 1. [`release`]: a manifest that nothing refers to becomes unknown to lookup, its children lose a reference. Catalog only.
//! 2. A pack in which nothing is in use: a record condemns it (from that decision on lookup does not know it), a checkpoint
//!    covers the record, the catalog is made durable, the owners are listed once more, the pack is deleted ([`discard`]).
//! 3. A pack worth rewriting ([`choice`]): what is in use in it is copied as ciphertext into a new pack, with block sums
//!    verified ([`moving`]); that pack is made durable, a record introduces it, and with that every id in it has its place
//!    there. The old pack then holds nothing in use and takes the road above.
//!
//! Whatever is interrupted is taken up by the next run: a condemned pack is deleted then, a pack that was moved out of is
//! dead, and a new pack that no record introduced is deleted once its epoch is closed.
//!
//! # Beside everything else
//!
//! - A *put* that finds a chunk holds its pack; held packs are not condemned. If the chunk moves, the put holds both packs.
//!   What it finds in a pack that has been moved out of, because nothing referred to it then, is in use there again: the pack
//!   stays until the next run.
//! - A *get* reads on from the pack it holds.
//! - A *delete* may take the last reference of what is being moved: it arrives as garbage.
//! - A *scrub* holds the pack it reads. A *rebuild* waits, and is waited for.
//! - *Another owner*: the fence is asked before every deletion. What was moved is introduced by the log or not at all.

mod choice;
mod discard;
mod due;
mod moving;
mod progress;
mod release;

use std::sync::Arc;

pub use self::due::ReclaimSchedule;
pub use self::progress::{ReclaimPhase, ReclaimProgress};

use self::choice::{Choice, Survey};
use self::moving::Mover;
#[cfg(test)]
pub(crate) use self::moving::checkpoint_bytes;
#[cfg(test)]
pub(crate) use self::release::release_step;
use super::core::Core;
use super::error::{Error, Reason, Result};
use super::log::requests::Request;
use super::repository::{Repository, WriteAccess};
use crate::catalog::{Lookup, PackRow};
use crate::engine::pace::Pace;
use crate::format::{PackKind, PackNumber};

/// Rows read at a time.
const PAGE: usize = 1024;
/// Packs that are moved out of before they are condemned and deleted: what one record condemns.
const ROUND_PACKS: usize = 4096;
/// Bytes that are written before the same: an eighth of what is free, within these bounds. Each round ends with a checkpoint,
/// which may be large, so there should be few; and until then both copies take space.
const ROUND_BYTES: (u64, u64) = (256 << 20, 1 << 30);

/// How to reclaim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReclaimOptions {
    /// Only tell what would be given back now.
    pub dry_run: bool,
    /// Garbage that may stay, in percent of all stored blobs: packs are rewritten, the sparsest first, until no more is left.
    /// 100 rewrites none.
    pub garbage_percent_max: u8,
    /// So many small packs are merged, not fewer. 0 merges none.
    pub merge_packs_min: u32,
}

impl Default for ReclaimOptions {
    /// A tenth may stay: rewriting a pack then copies at most nine times what it frees, and mostly far less.
    fn default() -> Self {
        Self {
            dry_run: false,
            garbage_percent_max: 10,
            merge_packs_min: 16,
        }
    }
}

impl ReclaimOptions {
    /// Whatever can be given back, at any cost.
    pub const THOROUGH: Self = Self {
        dry_run: false,
        garbage_percent_max: 0,
        merge_packs_min: 2,
    };

    /// With so much garbage left at most, in percent of all stored blobs.
    ///
    /// # Errors
    /// `InvalidArgument` for more than 100.
    pub fn leaving(garbage_percent_max: u8) -> Result<Self> {
        match garbage_percent_max {
            0 => Ok(Self::THOROUGH),
            1..=100 => Ok(Self {
                garbage_percent_max,
                ..Self::default()
            }),
            _ => {
                let line = "garbage that may stay is given in percent, from 0 to 100";
                Err(Error::new(Reason::InvalidArgument, line))
            }
        }
    }
}

/// What a run gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Packs deleted, or that would be.
    pub packs_dropped: u64,
    /// Those of them that something in use was moved out of.
    pub packs_rewritten: u64,
    /// Bytes of the packs deleted, less those of the packs written in their place.
    pub freed_bytes: u64,
}

/// Reclaims what can be reclaimed now.
pub(crate) async fn run(
    repository: &Repository,
    options: ReclaimOptions,
    progress: &ReclaimProgress,
) -> Result<Reclaimed> {
    let core = repository.core().clone();
    progress.begin();
    if options.dry_run {
        return foresee(&core, &options);
    }
    let access = repository.write_access().await?;
    let run = Run {
        core: &core,
        access: &access,
        options,
        progress,
        pace: Pace::new(&core),
    };
    // Who holds on to a writer that has given up keeps the next one from opening.
    tokio::select! {
        biased;
        done = run.run() => done?,
        error = access.packer.failed() => return Err(error),
        error = core.revocation.revoked() => return Err(error),
    }
    progress.reach(ReclaimPhase::Done);
    Ok(progress.reclaimed())
}

/// The first step of a run alone.
pub(crate) async fn release(repository: &Repository) -> Result<()> {
    let core = repository.core();
    release::release_all(core, &Pace::new(core)).await
}

/// What a run would give back at once. Deletes whose release is still due are not looked through.
fn foresee(core: &Core, options: &ReclaimOptions) -> Result<Reclaimed> {
    let survey = Survey::take(core, Scope::of(core)?)?;
    let choice = survey.choose(options, core.options.pack_target() as u64);
    let mut reclaimed = Reclaimed::default();
    for_each_pack(core, |row| {
        let (moved, kept) = match choice.is_worth(row) {
            true => (1, row.live_bytes),
            false if row.is_dead() || row.condemned_at != 0 => (0, 0),
            false => return,
        };
        reclaimed.packs_dropped += 1;
        reclaimed.packs_rewritten += moved;
        reclaimed.freed_bytes += row.size.saturating_sub(kept);
    })?;
    Ok(reclaimed)
}

/// One run over a repository.
struct Run<'a> {
    core: &'a Arc<Core>,
    access: &'a WriteAccess,
    options: ReclaimOptions,
    progress: &'a ReclaimProgress,
    pace: Pace,
}

impl Run<'_> {
    async fn run(&self) -> Result<()> {
        self.progress.reach(ReclaimPhase::Releasing);
        release::release_all(self.core, &self.pace).await?;
        self.checkpoint_past_old_commits().await?;
        self.progress.reach(ReclaimPhase::Dropping);
        self.drop_dead().await?;
        self.sweep_strays().await?;
        self.progress.reach(ReclaimPhase::Moving);
        self.rewrite().await
    }

    /// Moves what is in use out of packs that are worth it.
    async fn rewrite(&self) -> Result<()> {
        let scope = Scope::of(self.core)?;
        let survey = Survey::take(self.core, scope)?;
        let choice = survey.choose(&self.options, self.core.options.pack_target() as u64);
        self.progress.expect(choice.bytes());
        for choice in choice.in_turn(self.is_short_of_room().await) {
            if !self.rewrite_chosen(&choice).await? {
                break;
            }
        }
        Ok(())
    }

    /// False if it came to no end, since nothing can be dropped or no room is left.
    async fn rewrite_chosen(&self, choice: &Choice) -> Result<bool> {
        let mut after = None;
        let mut mover = Mover::new(self);
        // Packs that are written now come behind: they are not looked at.
        let until = self.access.packer.next_number();
        while let Some(page) = next_page(self.core, &mut after)? {
            for row in page
                .iter()
                .filter(|row| row.name.number < until && choice.is_worth(row))
            {
                if !mover.has_room().await {
                    let goes_on = self.end_round(&mut mover).await?;
                    if !goes_on || !mover.has_room().await {
                        return Ok(false);
                    }
                }
                mover.take(row).await?;
                if mover.is_round_over(self.is_short_of_room().await) && !self.end_round(&mut mover).await? {
                    return Ok(false);
                }
            }
        }
        self.end_round(&mut mover).await
    }

    /// Drops the packs that were moved out of. False if there were some and none could go, since others hold them: then more
    /// copies would only take more room.
    async fn end_round(&self, mover: &mut Mover<'_>) -> Result<bool> {
        let emptied = mover.finish().await?;
        if emptied.is_empty() {
            return Ok(true);
        }
        let dropped = self.condemn_and_drop(&emptied).await?;
        self.progress.rewritten(dropped);
        self.core.counters.packs_rewritten.add(dropped);
        Ok(dropped > 0)
    }

    /// Commit packs may only go once they lie below the second-newest checkpoint. If some that could go lie above it,
    /// checkpoints are written until they do not; segments that did not change cost nothing.
    async fn checkpoint_past_old_commits(&self) -> Result<()> {
        for _ in 0..2 {
            let tip = self.core.catalog.tip()?.unwrap_or_default();
            let (newest, kept_from) = (tip.log_number(), tip.kept_from());
            let (mut kept, mut has_dead) = (0u32, false);
            for_each_pack(self.core, |row| {
                if row.kind == PackKind::Commit && row.log_number >= kept_from && row.log_number < newest {
                    kept += u32::from(row.condemned_at == 0);
                    has_dead |= is_idle(row);
                }
            })?;
            let merges = self.options.merge_packs_min > 0 && kept >= self.options.merge_packs_min;
            if !has_dead && !merges {
                return Ok(());
            }
            self.checkpoint().await?;
        }
        Ok(())
    }

    async fn checkpoint(&self) -> Result<()> {
        self.access.ask(|reply| Request::Checkpoint { reply }).await
    }

    /// Whether there is no room for puts: then little is written before something is given back.
    async fn is_short_of_room(&self) -> bool {
        let admitted = self.core.gate.admit().await;
        admitted.is_err_and(|error| error.reason() == Reason::NoCapacity)
    }
}

/// Which packs may go as the log stands.
#[derive(Clone, Copy)]
struct Scope {
    /// Commit packs from this log number on are kept.
    kept_from: u64,
}

impl Scope {
    fn of(core: &Core) -> Result<Self> {
        let tip = core.catalog.tip()?.unwrap_or_default();
        Ok(Self {
            kept_from: tip.kept_from(),
        })
    }

    /// Whether the log can do without the pack.
    fn may_go(self, row: &PackRow) -> bool {
        row.condemned_at == 0 && (row.kind == PackKind::Chunk || row.log_number < self.kept_from)
    }
}

/// Whether a pack holds nothing in use and waits for nothing.
fn is_idle(row: &PackRow) -> bool {
    row.is_dead() && row.condemned_at == 0
}

/// The next packs in the order of their numbers; none at the end.
fn next_page(core: &Core, after: &mut Option<PackNumber>) -> Result<Option<Vec<PackRow>>> {
    core.revocation.check()?;
    let page = core.catalog.packs_page(*after, PAGE)?;
    let Some(last) = page.last() else { return Ok(None) };
    *after = Some(last.name.number);
    Ok(Some(page))
}

fn for_each_pack(core: &Core, mut look: impl FnMut(&PackRow)) -> Result<()> {
    let mut after = None;
    while let Some(page) = next_page(core, &mut after)? {
        page.iter().for_each(&mut look);
    }
    Ok(())
}
