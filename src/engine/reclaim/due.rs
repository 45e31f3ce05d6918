//! When a reclaim is due without anybody asking for it.
//!
//! Decided from totals that cost nothing to know: garbage against what is in use, and packs against what they hold. What
//! the last run left, it could not give back or did not find worth it: only what has come since counts.

use super::ReclaimOptions;
use crate::catalog::Lookup;
use crate::engine::error::{Reason, Result};
use crate::engine::repository::Repository;

/// Garbage above what may stay, in percent, before a run begins: so that each run has something to do.
const MARGIN_PERCENT: u64 = 2;
/// Less new garbage than this is not worth a run.
const NEW_GARBAGE_MIN: u64 = 256 << 10;
/// New garbage that is worth a run in a store of any size: wholly dead packs cost nothing to drop.
const NEW_GARBAGE_MANY: u64 = 1 << 30;
/// Packs that a small store may have, whatever it holds.
const PACKS_FEW: u64 = 64;
/// So many times as many packs as full ones would be are too many.
const PACKS_FACTOR: u64 = 4;
/// New packs that are worth merging while nobody else is at work, and at any time.
const NEW_PACKS_IDLE: u64 = 64;
const NEW_PACKS_BUSY: u64 = 1024;
/// Garbage that may stay, in percent, where there is little room and where there is none.
const PERCENT_LOW: u8 = 5;
const PERCENT_SHORT: u8 = 1;

/// Keeps the space of one repository: says when a reclaim is due, and how much garbage it may leave.
#[derive(Clone, Debug)]
pub struct ReclaimSchedule {
    garbage_percent_max: u8,
    left: Totals,
    /// How much garbage the last run was to leave, in percent.
    left_percent: u8,
}

/// What decides.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    /// Bytes of all blobs.
    blob_bytes: u64,
    /// Those that nothing refers to.
    garbage_bytes: u64,
    packs: u64,
    pack_bytes: u64,
}

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Plenty,
    Low,
    Short,
}

impl ReclaimSchedule {
    /// With so much garbage left where there is room, in percent of all stored blobs; 100 rewrites nothing sparse.
    pub fn new(garbage_percent_max: u8) -> Self {
        Self {
            garbage_percent_max,
            left: Totals::default(),
            left_percent: u8::MAX,
        }
    }

    /// Releases what deleted objects held, and says whether a reclaim is due. Never takes a repository over from another
    /// agent: only one that this process writes, or that lies on its own volume, is looked at.
    ///
    /// # Errors
    /// Those of [`Repository::reclaim`].
    pub async fn due(&self, repository: &Repository) -> Result<Option<ReclaimOptions>> {
        let core = repository.core();
        let is_ours = core.backend.is_volume() || repository.has_writer().await;
        let is_leaving = core.departures.check(repository.id()).is_err();
        if !is_ours || is_leaving || repository.is_fenced() || repository.is_rolled_back() {
            return Ok(None);
        }
        let room = match core.gate.admit().await {
            Err(error) if error.reason() == Reason::NoCapacity => Room::Short,
            // An operator or the file system forbids writing.
            Err(_) => return Ok(None),
            Ok(()) if core.gate.is_low() => Room::Low,
            Ok(()) => Room::Plenty,
        };
        if !core.catalog.releases_page(None, 1)?.is_empty() {
            repository.release_deleted().await?;
        }
        let target_bytes = core.options.pack_target() as u64;
        let percent = decide(
            &totals(repository)?,
            &self.left,
            self.left_percent,
            room,
            self.garbage_percent_max,
            target_bytes,
            core.in_flight.is_busy(),
        );
        Ok(percent.map(|garbage_percent_max| ReclaimOptions {
            garbage_percent_max,
            ..ReclaimOptions::default()
        }))
    }

    /// A reclaim with these options has come to its end: what it left is not worth another, unless less may stay then.
    ///
    /// # Errors
    /// `CatalogFailed`.
    pub fn ended(&mut self, repository: &Repository, options: ReclaimOptions) -> Result<()> {
        self.left_percent = options.garbage_percent_max;
        self.left = totals(repository)?;
        Ok(())
    }
}

fn totals(repository: &Repository) -> Result<Totals> {
    let stats = repository.core().catalog.tip()?.unwrap_or_default().stats;
    Ok(Totals {
        blob_bytes: stats.blob_bytes,
        garbage_bytes: stats.blob_bytes.saturating_sub(stats.live_bytes),
        packs: stats.packs,
        pack_bytes: stats.pack_bytes,
    })
}

/// How much garbage may stay, in percent, if a reclaim is due.
fn decide(
    now: &Totals,
    left: &Totals,
    left_percent: u8,
    room: Room,
    percent_max: u8,
    target_bytes: u64,
    is_busy: bool,
) -> Option<u8> {
    let percent = match room {
        Room::Plenty => percent_max,
        Room::Low => percent_max.min(PERCENT_LOW),
        Room::Short => percent_max.min(PERCENT_SHORT),
    };
    // What a run left that was to leave more is worth another. Something else may have given back more since.
    let left_garbage = if percent < left_percent { 0 } else { left.garbage_bytes };
    let new_garbage = now.garbage_bytes.saturating_sub(left_garbage);
    let threshold = u128::from(now.blob_bytes) * u128::from(u64::from(percent) + MARGIN_PERCENT);
    let is_much = u128::from(now.garbage_bytes) * 100 > threshold && new_garbage >= NEW_GARBAGE_MIN;
    let packs_max = PACKS_FEW + PACKS_FACTOR * (now.pack_bytes / target_bytes.max(1));
    let new_packs = now.packs.saturating_sub(left.packs);
    let new_packs_min = if is_busy { NEW_PACKS_BUSY } else { NEW_PACKS_IDLE };
    let are_many = now.packs > packs_max && new_packs >= new_packs_min;
    (is_much || are_many || new_garbage >= NEW_GARBAGE_MANY).then_some(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn totals(blob_bytes: u64, garbage_bytes: u64, packs: u64) -> Totals {
        Totals {
            blob_bytes,
            garbage_bytes,
            packs,
            pack_bytes: blob_bytes,
        }
    }

    fn due(now: &Totals, left: &Totals, room: Room) -> Option<u8> {
        decide(now, left, 10, room, 10, 16 * MIB, false)
    }

    #[test]
    fn it_is_due_when_there_is_more_garbage_than_may_stay() {
        let nothing = Totals::default();
        assert_eq!(due(&totals(1000 * MIB, 110 * MIB, 63), &nothing, Room::Plenty), None);
        assert_eq!(
            due(&totals(1000 * MIB, 130 * MIB, 63), &nothing, Room::Plenty),
            Some(10)
        );
        assert_eq!(
            due(&totals(MIB / 4, MIB / 5, 3), &nothing, Room::Plenty),
            None,
            "it is not worth it"
        );
    }

    #[test]
    fn where_room_is_short_less_may_stay() {
        let now = totals(1000 * MIB, 80 * MIB, 63);
        let nothing = Totals::default();
        assert_eq!(due(&now, &nothing, Room::Plenty), None);
        assert_eq!(due(&now, &nothing, Room::Low), Some(5));
        assert_eq!(due(&now, &nothing, Room::Short), Some(1));
        // Also if a run with more room has left that much.
        assert_eq!(due(&now, &now, Room::Plenty), None);
        assert_eq!(due(&now, &now, Room::Short), Some(1));
        assert_eq!(decide(&now, &now, 1, Room::Short, 10, 16 * MIB, false), None);
    }

    #[test]
    fn what_a_run_left_does_not_begin_another() {
        let left = totals(1000 * MIB, 200 * MIB, 5000);
        assert_eq!(due(&left, &left, Room::Plenty), None);
        let more = totals(1001 * MIB, 201 * MIB, 5001);
        assert_eq!(due(&more, &left, Room::Plenty), Some(10));
        let less = totals(900 * MIB, 100 * MIB, 100);
        assert_eq!(due(&less, &left, Room::Plenty), None);
    }

    #[test]
    fn much_garbage_is_much_in_a_store_of_any_size() {
        let left = totals(1 << 50, 0, 1 << 20);
        assert_eq!(due(&totals(1 << 50, 1 << 30, 1 << 20), &left, Room::Plenty), Some(10));
    }

    #[test]
    fn many_small_packs_are_merged_sooner_while_nobody_is_at_work() {
        let left = totals(16 * MIB, 0, 10);
        let now = totals(16 * MIB, 0, 100);
        assert_eq!(decide(&now, &left, 10, Room::Plenty, 10, 16 * MIB, false), Some(10));
        assert_eq!(decide(&now, &left, 10, Room::Plenty, 10, 16 * MIB, true), None);
        let now = totals(16 * MIB, 0, 1100);
        assert_eq!(decide(&now, &left, 10, Room::Plenty, 10, 16 * MIB, true), Some(10));
    }
}
