//! Evacuations and wipes: what came of them.

use prost::Message;

use super::scrub::{damaged_object, fitting};
use crate::engine::{Error, EvacuateReport, Lost, Reason, Removed, Result};
use crate::service::proto;

/// Bytes of each list in a report: both together stay below the 4 MiB that clients take.
const LIST_BYTES: usize = 3 << 19;

/// A report in one message: what does not fit into it is left out of its lists and said so.
pub fn evacuate_report(report: &EvacuateReport) -> proto::EvacuateReport {
    let lost = fitting(&report.lost, LIST_BYTES, evacuate_lost, Message::encoded_len);
    let objects = fitting(&report.objects, LIST_BYTES, damaged_object, Message::encoded_len);
    let is_cut = lost.len() < report.lost.len()
        || objects.len() < report.objects.len()
        || objects.iter().any(|object| object.ranges_truncated);
    proto::EvacuateReport {
        to: report.to.clone(),
        complete: report.verdict() == crate::engine::Verdict::Complete,
        repository_ids: report.repositories.iter().map(ToString::to_string).collect(),
        packs_copied: report.packs_copied,
        bytes_copied: report.bytes_copied,
        packs_present: report.packs_present,
        bytes_present: report.bytes_present,
        lost,
        lost_count: report.lost_count,
        lost_bytes: report.lost_bytes,
        objects,
        objects_count: report.objects_count,
        lists_truncated: is_cut || report.is_cut(),
    }
}

/// The report without its lists.
pub fn without_evacuate_lists(report: &mut proto::EvacuateReport) {
    report.lists_truncated |= !report.lost.is_empty() || !report.objects.is_empty();
    report.lost = Vec::new();
    report.objects = Vec::new();
}

impl TryFrom<proto::EvacuateReport> for EvacuateReport {
    type Error = Error;

    fn try_from(report: proto::EvacuateReport) -> Result<Self> {
        let ids = report.repository_ids.iter().map(|id| repository_id(id));
        Ok(Self {
            to: report.to.clone(),
            repositories: ids.collect::<Result<_>>()?,
            packs_copied: report.packs_copied,
            bytes_copied: report.bytes_copied,
            packs_present: report.packs_present,
            bytes_present: report.bytes_present,
            lost: report.lost.into_iter().map(Lost::try_from).collect::<Result<_>>()?,
            lost_count: report.lost_count,
            lost_bytes: report.lost_bytes,
            objects: report.objects.into_iter().map(Into::into).collect(),
            objects_count: report.objects_count,
        })
    }
}

/// What was removed.
pub fn wipe_report(removed: &Removed) -> proto::WipeReport {
    proto::WipeReport {
        objects_removed: removed.objects,
        bytes_removed: removed.bytes,
    }
}

impl From<proto::WipeReport> for Removed {
    fn from(report: proto::WipeReport) -> Self {
        Self {
            objects: report.objects_removed,
            bytes: report.bytes_removed,
        }
    }
}

fn evacuate_lost(lost: &Lost) -> proto::EvacuateLost {
    proto::EvacuateLost {
        repository_id: lost.repository.to_string(),
        path: lost.path.clone(),
        offset: lost.offset,
        length: lost.length,
        problem: lost.problem.clone(),
        copied: lost.copied,
    }
}

impl TryFrom<proto::EvacuateLost> for Lost {
    type Error = Error;

    fn try_from(lost: proto::EvacuateLost) -> Result<Self> {
        Ok(Self {
            repository: repository_id(&lost.repository_id)?,
            path: lost.path,
            offset: lost.offset,
            length: lost.length,
            problem: lost.problem,
            copied: lost.copied,
        })
    }
}

fn repository_id(text: &str) -> Result<crate::codec::RepositoryId> {
    let line = "the agent's answer has an id of a repository that is none";
    text.parse().map_err(|_| Error::new(Reason::Internal, line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::RepositoryId;
    use crate::engine::{DamagedObject, DamagedRange};

    fn report(entries: usize) -> EvacuateReport {
        let lost = Lost {
            repository: RepositoryId([3; 16]),
            path: "p".repeat(150),
            offset: 1,
            length: 2,
            problem: "it is missing".to_owned(),
            copied: true,
        };
        let object = DamagedObject {
            name: "n".repeat(1024),
            version: 4,
            ranges: vec![DamagedRange {
                offset: 5,
                length: 6,
                pack: None,
                problem: "it is damaged".into(),
            }],
        };
        EvacuateReport {
            to: "s3://there".to_owned(),
            repositories: vec![RepositoryId([3; 16])],
            packs_copied: 1,
            bytes_copied: 2,
            packs_present: 3,
            bytes_present: 4,
            lost: vec![lost; entries],
            lost_count: 10_000,
            lost_bytes: 5,
            objects: vec![object; entries],
            objects_count: 10_000,
        }
    }

    #[test]
    fn a_report_comes_back_as_it_was() {
        let sent = evacuate_report(&report(2));
        assert!(!sent.complete && sent.lists_truncated);
        assert_eq!(EvacuateReport::try_from(sent).unwrap(), report(2));
        assert!(evacuate_report(&EvacuateReport::default()).complete);
        let removed = Removed { objects: 1, bytes: 2 };
        assert_eq!(Removed::from(wipe_report(&removed)), removed);
    }

    #[test]
    fn the_longest_report_fits_into_a_message() {
        let mut sent = evacuate_report(&report(10_000));
        assert!(
            sent.encoded_len() < 4 << 20 && sent.encoded_len() > 2 << 20,
            "{}",
            sent.encoded_len()
        );
        assert!(sent.lists_truncated);
        without_evacuate_lists(&mut sent);
        assert!(sent.encoded_len() < 200 && sent.lost_count == 10_000);
    }
}
