//! Operations that tell how far they are, and what they leave behind if they do not come to their end.

use std::sync::Arc;

use crate::engine::{EvacuateProgress, ReclaimProgress, RemovalProgress, ScrubProgress};
use crate::service::convert::{cursor, evacuate_report, reclaim_report, scrub_report, wipe_report};
use crate::service::proto::OperationProgress;
use crate::service::proto::operation::Report;

/// Where an operation tells how far it is.
#[derive(Clone)]
pub(super) enum Watched {
    Reclaim(Arc<ReclaimProgress>),
    Scrub(Arc<ScrubProgress>),
    Evacuate(Arc<EvacuateProgress>),
    Wipe(Arc<RemovalProgress>),
}

impl Watched {
    /// How far it is.
    pub(super) fn progress(&self) -> OperationProgress {
        match self {
            Self::Reclaim(reclaim) => OperationProgress {
                bytes_done: reclaim.bytes(),
                bytes_expected: reclaim.bytes_expected(),
                ..OperationProgress::default()
            },
            Self::Scrub(scrub) => OperationProgress {
                bytes_done: scrub.bytes(),
                bytes_expected: scrub.bytes_expected(),
                cursor: cursor(scrub.cursor().as_ref()),
                damage_count: scrub.damage_count(),
                ..OperationProgress::default()
            },
            Self::Evacuate(evacuation) => OperationProgress {
                bytes_done: evacuation.bytes(),
                bytes_expected: evacuation.bytes_expected(),
                damage_count: evacuation.lost_count(),
                objects_done: evacuation.packs(),
                objects_expected: evacuation.packs_expected(),
                rate_bytes: evacuation.rate_bytes(),
                seconds_left: evacuation.time_left().map(|left| left.as_secs()),
                ..OperationProgress::default()
            },
            Self::Wipe(removal) => OperationProgress {
                bytes_done: removal.removed().bytes,
                objects_done: removal.removed().objects,
                ..OperationProgress::default()
            },
        }
    }

    /// What came of it so far.
    pub(super) fn report(&self) -> Report {
        match self {
            Self::Reclaim(reclaim) => Report::Reclaim(reclaim_report(&reclaim.reclaimed())),
            Self::Scrub(scrub) => Report::Scrub(scrub_report(&scrub.report())),
            Self::Evacuate(evacuation) => Report::Evacuate(evacuate_report(&evacuation.report())),
            Self::Wipe(removal) => Report::Wipe(wipe_report(&removal.removed())),
        }
    }
}
