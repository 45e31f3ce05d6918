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
/// Most ranges of an object: below the bytes that a list may have, however long the paths in them.
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
            return Err(invalid(
                "only a scrub to depth BYTES goes over all repositories at once",
            ));
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
pub(super) fn fitting<T, M>(
    all: &[T],
    bytes_max: usize,
    message: impl Fn(&T) -> M,
    len: impl Fn(&M) -> usize,
) -> Vec<M> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ScrubCursor;

    /// What gRPC clients take if nobody tells them otherwise.
    const CLIENTS_TAKE: usize = 4 << 20;

    fn damage(number: u64, remedy: Remedy) -> Damage {
        let pack = format!("{:016x}-{number:016x}-{}", 1, "5a".repeat(32));
        let pack = parse_pack(&pack).expect("the name of a pack");
        Damage {
            path: format!("{}/packs/000/{pack}", "ab".repeat(16)),
            kind: StoredKind::Pack,
            pack: Some(pack),
            offset: number,
            length: 65_536,
            problem: "a block is not what its sum says".to_owned(),
            remedy,
        }
    }

    fn object(name: String, ranges: u64) -> DamagedObject {
        let ranges = (0..ranges).map(|number| DamagedRange {
            offset: number * 100_000,
            length: 99_999,
            pack: (number % 2 == 0).then(|| damage(number, Remedy::None).path),
            problem: "it is damaged or missing".into(),
        });
        DamagedObject {
            name,
            version: 7,
            ranges: ranges.collect(),
        }
    }

    fn small() -> ScrubReport {
        ScrubReport {
            depth: Depth::Full,
            stored_objects: 1,
            packs: 2,
            blobs: 3,
            bytes: 4,
            damage: vec![
                damage(1, Remedy::None),
                damage(2, Remedy::Quarantined(9)),
                damage(3, Remedy::Repaired),
                Damage {
                    kind: StoredKind::Keyring,
                    pack: None,
                    ..damage(4, Remedy::None)
                },
            ],
            damage_count: 4,
            objects: vec![object("an object".to_owned(), 3)],
            objects_count: 1,
            contradictions: vec!["one".to_owned()],
            contradictions_count: 1,
            unknown: vec!["path".to_owned()],
            unknown_count: 1,
            vanished: 5,
            strays: 6,
            released: 7,
            next: Some("1 full tables".parse::<ScrubCursor>().unwrap()),
        }
    }

    #[test]
    fn a_report_comes_back_as_it_was() {
        let sent = scrub_report(&small());
        assert_eq!((sent.sound, sent.repaired, sent.lists_truncated), (false, 1, false));
        assert_eq!(sent.damage[1].quarantined, 9);
        assert_eq!(ScrubReport::try_from(sent).unwrap(), small());
        let nothing = ScrubReport::default();
        let sent = scrub_report(&nothing);
        assert!(sent.sound && sent.cursor.is_empty());
        assert_eq!(ScrubReport::try_from(sent).unwrap(), nothing);
    }

    #[test]
    fn the_longest_report_fits_into_a_message() {
        let long = "x".repeat(1024);
        let many = || vec![long.clone(); 10_000];
        let report = ScrubReport {
            damage: (0..10_000).map(|number| damage(number, Remedy::None)).collect(),
            damage_count: 20_000,
            objects: vec![object(long.clone(), 100); 10_000],
            objects_count: 10_000,
            contradictions: many(),
            contradictions_count: 10_000,
            unknown: many(),
            unknown_count: 10_000,
            ..small()
        };
        let sent = scrub_report(&report);
        assert!(sent.encoded_len() < CLIENTS_TAKE, "{} bytes", sent.encoded_len());
        assert!(sent.encoded_len() > 2 << 20, "{} bytes", sent.encoded_len());
        assert!(sent.lists_truncated && !sent.damage.is_empty() && !sent.objects.is_empty());
        assert_eq!((sent.damage_count, sent.unknown_count), (20_000, 10_000));
        let mut outline = sent;
        without_lists(&mut outline);
        assert!(outline.lists_truncated && outline.encoded_len() < 200);
    }

    #[test]
    fn one_object_with_more_ranges_than_fit_is_told_as_such() {
        let torn = object("torn".to_owned(), 100_000);
        let report = ScrubReport {
            objects: vec![torn],
            ..small()
        };
        let sent = scrub_report(&report);
        assert_eq!((sent.objects.len(), sent.objects[0].ranges.len()), (1, RANGES_MAX));
        assert!(sent.objects[0].ranges_truncated && sent.lists_truncated);
        let fits = damaged_object(&object("fits".to_owned(), RANGES_MAX as u64));
        assert!(!fits.ranges_truncated);
    }

    #[test]
    fn what_is_asked_for_comes_back_as_it_was() {
        let asked = ScrubOptions {
            depth: Depth::Structure,
            rate_bytes: NonZeroU64::new(5),
            from: Some("1 structure tables".parse().unwrap()),
            bytes_max: Some(6),
            repair: false,
        };
        let sent = scrub_work(&asked, false);
        let received = ScrubOptions::try_from(&sent).unwrap();
        assert_eq!(format!("{received:?}"), format!("{asked:?}"));
        let nothing = ScrubOptions::try_from(&proto::ScrubWork::default()).unwrap();
        assert!(nothing.repair && nothing.depth == Depth::Bytes);
        assert_eq!((nothing.rate_bytes, nothing.bytes_max), (None, None));
        // A limit that ends a scrub at once is not one that never does.
        let at_once = ScrubOptions {
            bytes_max: Some(0),
            ..nothing
        };
        assert_eq!(scrub_work(&at_once, true).limit_bytes, 1);
    }
}
