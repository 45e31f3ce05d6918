//! Scrubs: what is asked for, what was found.
//!
//! A message has an end where the lists of a report have none that would fit: see [`scrub_report`].

use std::num::NonZeroU64;

use prost::Message;

use super::{invalid, required};
use crate::engine::{
    Damage, DamagedObject, DamagedRange, Depth, Error, Reason, Remedy, Result, ScrubOptions, ScrubReport,
};
use crate::format::StoredKind;
use crate::format::names::parse_pack;
use crate::service::proto;
use proto::{ScrubDepth, ScrubRemedy};

/// Bytes of the damage in a report, and of the objects in it. With the other lists a report stays below the 4 MiB that
/// clients take.
const LIST_BYTES: usize = 1 << 20;
/// Bytes of the lists that are of interest to few.
const SHORT_LIST_BYTES: usize = 512 << 10;
/// Most ranges of an object: below [`LIST_BYTES`], however long the paths in them.
pub const RANGES_MAX: usize = 4096;

impl From<Depth> for ScrubDepth {
    fn from(depth: Depth) -> Self {
        match depth {
            Depth::Bytes => Self::Bytes,
            Depth::Structure => Self::Structure,
            Depth::Full => Self::Full,
        }
    }
}

impl From<ScrubDepth> for Depth {
    fn from(depth: ScrubDepth) -> Self {
        match depth {
            ScrubDepth::Unspecified | ScrubDepth::Bytes => Self::Bytes,
            ScrubDepth::Structure => Self::Structure,
            ScrubDepth::Full => Self::Full,
        }
    }
}

impl TryFrom<&proto::ScrubWork> for ScrubOptions {
    type Error = Error;

    fn try_from(work: &proto::ScrubWork) -> Result<Self> {
        let depth = ScrubDepth::try_from(work.depth).map_err(|_| invalid("this agent does not know this depth"))?;
        let options = Self {
            depth: depth.into(),
            rate_bytes: NonZeroU64::new(work.rate_bytes),
            from: match work.cursor.as_str() {
                "" => None,
                cursor => Some(cursor.parse()?),
            },
            bytes_max: Some(work.limit_bytes).filter(|most| *most > 0),
            repair: !work.no_repair,
        };
        options.check()?;
        if work.all_repositories && options.depth != Depth::Bytes {
            return Err(invalid("only a scrub to depth BYTES goes over all repositories at once"));
        }
        Ok(options)
    }
}

/// What to ask an agent for.
pub fn scrub_work(options: &ScrubOptions, all_repositories: bool) -> proto::ScrubWork {
    proto::ScrubWork {
        depth: ScrubDepth::from(options.depth).into(),
        rate_bytes: options.rate_bytes.map_or(0, NonZeroU64::get),
        cursor: cursor(options.from.as_ref()),
        // 0 would mean none; the least limit ends a scrub as early.
        limit_bytes: options.bytes_max.map_or(0, |most| most.max(1)),
        no_repair: !options.repair,
        all_repositories,
    }
}

/// A cursor as text; empty if there is none.
pub fn cursor(cursor: Option<&crate::engine::ScrubCursor>) -> String {
    cursor.map(ToString::to_string).unwrap_or_default()
}

/// A report in one message: what does not fit into it is left out of its lists and said so.
pub fn scrub_report(report: &ScrubReport) -> proto::ScrubReport {
    let damage = fitting(&report.damage, LIST_BYTES, scrub_damage, Message::encoded_len);
    let objects = fitting(&report.objects, LIST_BYTES, damaged_object, Message::encoded_len);
    let contradictions = fitting(&report.contradictions, SHORT_LIST_BYTES, String::clone, String::len);
    let unknown = fitting(&report.unknown, SHORT_LIST_BYTES, String::clone, String::len);
    let is_cut = damage.len() < report.damage.len()
        || objects.len() < report.objects.len()
        || objects.iter().any(|object| object.ranges_truncated)
        || contradictions.len() < report.contradictions.len()
        || unknown.len() < report.unknown.len();
    proto::ScrubReport {
        depth: ScrubDepth::from(report.depth).into(),
        sound: report.is_sound(),
        stored_objects: report.stored_objects,
        packs: report.packs,
        blobs: report.blobs,
        bytes_read: report.bytes,
        damage,
        damage_count: report.damage_count,
        objects,
        objects_count: report.objects_count,
        contradictions,
        contradictions_count: report.contradictions_count,
        strays: report.strays,
        unknown,
        unknown_count: report.unknown_count,
        vanished: report.vanished,
        repaired: report.repaired(),
        released: report.released,
        cursor: cursor(report.next.as_ref()),
        lists_truncated: is_cut || report.is_cut(),
    }
}

/// The report without its lists.
pub fn without_lists(report: &mut proto::ScrubReport) {
    let listed = report.damage.len() + report.objects.len() + report.contradictions.len() + report.unknown.len();
    report.lists_truncated |= listed > 0;
    report.damage = Vec::new();
    report.objects = Vec::new();
    report.contradictions = Vec::new();
    report.unknown = Vec::new();
}

/// The first of `all` that fit into so many bytes, as messages.
fn fitting<T, M>(all: &[T], bytes_max: usize, message: impl Fn(&T) -> M, len: impl Fn(&M) -> usize) -> Vec<M> {
    /// Tag and length around an entry.
    const AROUND: usize = 8;
    let mut bytes = 0;
    let messages = all.iter().map(message);
    let fitting = messages.take_while(|message| {
        bytes += AROUND + len(message);
        bytes <= bytes_max
    });
    fitting.collect()
}

impl TryFrom<proto::ScrubReport> for ScrubReport {
    type Error = Error;

    fn try_from(report: proto::ScrubReport) -> Result<Self> {
        let depth = report.depth().into();
        let damage = report.damage.into_iter().map(Damage::try_from);
        Ok(Self {
            depth,
            stored_objects: report.stored_objects,
            packs: report.packs,
            blobs: report.blobs,
            bytes: report.bytes_read,
            damage: damage.collect::<Result<_>>()?,
            damage_count: report.damage_count,
            objects: report.objects.into_iter().map(Into::into).collect(),
            objects_count: report.objects_count,
            contradictions: report.contradictions,
            contradictions_count: report.contradictions_count,
            unknown: report.unknown,
            unknown_count: report.unknown_count,
            vanished: report.vanished,
            strays: report.strays,
            released: report.released,
            next: match report.cursor.as_str() {
                "" => None,
                cursor => Some(cursor.parse().map_err(|_| unreadable("a cursor"))?),
            },
        })
    }
}

fn scrub_damage(damage: &Damage) -> proto::ScrubDamage {
    let (remedy, quarantined) = match damage.remedy {
        Remedy::None => (ScrubRemedy::None, 0),
        Remedy::Quarantined(blobs) => (ScrubRemedy::Quarantined, blobs),
        Remedy::Repaired => (ScrubRemedy::Repaired, 0),
    };
    proto::ScrubDamage {
        path: damage.path.clone(),
        kind: damage.kind.as_str().to_owned(),
        pack: damage.pack.map(|pack| pack.to_string()).unwrap_or_default(),
        offset: damage.offset,
        length: damage.length,
        problem: damage.problem.clone(),
        remedy: remedy.into(),
        quarantined,
    }
}

impl TryFrom<proto::ScrubDamage> for Damage {
    type Error = Error;

    fn try_from(damage: proto::ScrubDamage) -> Result<Self> {
        let kind = StoredKind::ALL.into_iter().find(|kind| kind.as_str() == damage.kind);
        let pack = match damage.pack.as_str() {
            "" => None,
            pack => Some(parse_pack(pack).ok_or_else(|| unreadable("the name of a pack"))?),
        };
        Ok(Self {
            remedy: match damage.remedy() {
                ScrubRemedy::Unspecified | ScrubRemedy::None => Remedy::None,
                ScrubRemedy::Quarantined => Remedy::Quarantined(damage.quarantined),
                ScrubRemedy::Repaired => Remedy::Repaired,
            },
            kind: required(kind, "kind of damage that this version knows")?,
            path: damage.path,
            pack,
            offset: damage.offset,
            length: damage.length,
            problem: damage.problem,
        })
    }
}

/// A damaged object, with as many of its ranges as a message takes.
pub fn damaged_object(object: &DamagedObject) -> proto::DamagedObject {
    let ranges = object.ranges.iter().take(RANGES_MAX);
    proto::DamagedObject {
        name: object.name.clone(),
        version: object.version,
        ranges: ranges.map(Into::into).collect(),
        ranges_truncated: object.ranges.len() > RANGES_MAX,
    }
}

impl From<proto::DamagedObject> for DamagedObject {
    fn from(object: proto::DamagedObject) -> Self {
        Self {
            name: object.name,
            version: object.version,
            ranges: object.ranges.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<&DamagedRange> for proto::DamagedRange {
    fn from(range: &DamagedRange) -> Self {
        Self {
            offset: range.offset,
            length: range.length,
            pack: range.pack.clone().unwrap_or_default(),
            problem: range.problem.to_string(),
        }
    }
}

impl From<proto::DamagedRange> for DamagedRange {
    fn from(range: proto::DamagedRange) -> Self {
        Self {
            offset: range.offset,
            length: range.length,
            pack: Some(range.pack).filter(|pack| !pack.is_empty()),
            problem: range.problem.into(),
        }
    }
}

fn unreadable(what: &str) -> Error {
    Error::new(Reason::Internal, format!("the agent's answer has {what} that is none"))
}
