//! What a reclaim gave back.

use crate::engine::Reclaimed;
use crate::service::proto;

/// What was given back.
pub fn reclaim_report(reclaimed: &Reclaimed) -> proto::ReclaimReport {
    proto::ReclaimReport {
        packs_dropped: reclaimed.packs_dropped,
        packs_rewritten: reclaimed.packs_rewritten,
        freed_bytes: reclaimed.freed_bytes,
    }
}

impl From<proto::ReclaimReport> for Reclaimed {
    fn from(report: proto::ReclaimReport) -> Self {
        Self {
            packs_dropped: report.packs_dropped,
            packs_rewritten: report.packs_rewritten,
            freed_bytes: report.freed_bytes,
        }
    }
}
