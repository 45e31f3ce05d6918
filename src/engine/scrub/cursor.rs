//! Where a scrub is: a value to keep and to give back.
//!
//! As text, `1 DEPTH PLACE [ARGUMENT]`, separated by spaces. Places, in the order in which a scrub comes by:
//!
//! | depth | place | argument | what is done |
//! |---|---|---|---|
//! | bytes | `path` | an object's path | all objects up to this one, in the order of their paths |
//! | others | `packs` | 32 hexadecimal digits or nothing | all packs up to this number (epoch, then counter) |
//! | | `tables` | | all packs |
//! | | `objects` | 32 hexadecimal digits or nothing | objects up to this key, in the order of listings |
//! | full | `counters` | | all objects |
//!
//! Small files (keyrings, owners, metadata) are checked whenever a scrub of the deeper kinds begins or goes on.

use std::fmt;
use std::str::FromStr;

use super::report::Depth;
use crate::engine::error::{Error, Reason};
use crate::format::PackNumber;

/// How far a scrub got. Survives restarts; see the module's documentation for its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubCursor {
    pub(super) depth: Depth,
    pub(super) place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Path(String),
    Packs(Option<PackNumber>),
    Tables,
    Objects(Option<[u8; 16]>),
    Counters,
}

const VERSION: &str = "1";

impl ScrubCursor {
    /// The depth of the scrub it belongs to.
    pub fn depth(&self) -> Depth {
        self.depth
    }
}

impl fmt::Display for ScrubCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION} {} ", self.depth)?;
        match &self.place {
            Place::Path(path) => write!(f, "path {path}"),
            Place::Packs(None) => f.write_str("packs"),
            Place::Packs(Some(number)) => write!(f, "packs {}", hex::encode(number.to_bytes())),
            Place::Tables => f.write_str("tables"),
            Place::Objects(None) => f.write_str("objects"),
            Place::Objects(Some(key)) => write!(f, "objects {}", hex::encode(key)),
            Place::Counters => f.write_str("counters"),
        }
    }
}

impl FromStr for ScrubCursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).ok_or_else(|| Error::new(Reason::InvalidArgument, format!("{text:?} is no place of a scrub")))
    }
}

fn parse(text: &str) -> Option<ScrubCursor> {
    let mut words = text.splitn(4, ' ');
    if words.next()? != VERSION {
        return None;
    }
    let depth: Depth = words.next()?.parse().ok()?;
    let place = match (words.next()?, words.next()) {
        ("path", Some(path)) => Place::Path(path.to_owned()),
        ("packs", None) => Place::Packs(None),
        ("packs", Some(number)) => Place::Packs(Some(PackNumber::from_bytes(key(number)?))),
        ("tables", None) => Place::Tables,
        ("objects", None) => Place::Objects(None),
        ("objects", Some(after)) => Place::Objects(Some(key(after)?)),
        ("counters", None) => Place::Counters,
        _ => return None,
    };
    let fits = match (&place, depth) {
        (Place::Path(_), depth) => depth == Depth::Bytes,
        (Place::Counters, depth) => depth == Depth::Full,
        (_, depth) => depth != Depth::Bytes,
    };
    fits.then_some(ScrubCursor { depth, place })
}

fn key(text: &str) -> Option<[u8; 16]> {
    // The crate takes upper case too; there is one spelling, as of names.
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let mut key = [0; 16];
    hex::decode_to_slice(text, &mut key).ok()?;
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_reads_back() {
        let number = PackNumber { epoch: 3, counter: 77 };
        let places = [
            (Depth::Bytes, Place::Path("ab/packs/x y".to_owned())),
            (Depth::Structure, Place::Packs(None)),
            (Depth::Full, Place::Packs(Some(number))),
            (Depth::Full, Place::Tables),
            (Depth::Structure, Place::Objects(Some([9; 16]))),
            (Depth::Full, Place::Objects(None)),
            (Depth::Full, Place::Counters),
        ];
        for (depth, place) in places {
            let cursor = ScrubCursor { depth, place };
            assert_eq!(cursor.to_string().parse::<ScrubCursor>().unwrap(), cursor);
        }
        for wrong in [
            "",
            "1",
            "2 full tables",
            "1 bytes tables",
            "1 structure counters",
            "1 full packs 12",
            "1 full packs 0000000000000003000000000000004D",
            "1 full x",
        ] {
            assert!(wrong.parse::<ScrubCursor>().is_err(), "{wrong:?}");
        }
    }
}
