//! What can happen to an object: the states of one kind.

use std::fmt;

use bytes::Bytes;
use cairn_agent::format::checkpoint::CHECKPOINT_HEADER_LEN;
use cairn_agent::format::pack::{HEADER_LEN, TRAILER_LEN, parse_trailer};
use cairn_agent::format::{StoredKind, StoredName};

use super::Change;
use super::fixture::Files;

const PAGE: usize = 4096;
/// Of parts that are long and all alike, about so many bytes are flipped.
const SAMPLES: usize = 12;

/// One thing that happened.
pub(super) struct State {
    pub(super) kind: StoredKind,
    pub(super) action: &'static str,
    pub(super) changes: Vec<Change>,
    /// The byte that was flipped.
    pub(super) at: Option<usize>,
    /// Not one of hundreds of the same: met with every check there is.
    pub(super) is_rare: bool,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<_> = self
            .changes
            .iter()
            .map(|(path, bytes)| (path, bytes.as_ref().map(Bytes::len)))
            .collect();
        write!(f, "{} {} {:?} {paths:?}", self.kind, self.action, self.at)
    }
}

/// Everything that happens to objects of a kind.
pub(super) fn states(kind: StoredKind, files: &Files, foreign: &Files) -> Vec<State> {
    let of_kind = |files: &Files| -> Vec<(String, Bytes)> {
        let of_kind = |path: &str| StoredName::parse(path).is_some_and(|name| name.kind() == kind);
        let there = files.iter().filter(|(path, _)| of_kind(path));
        there.map(|(path, bytes)| (path.clone(), bytes.clone())).collect()
    };
    let (own, others) = (of_kind(files), of_kind(foreign));
    let mut states = Vec::new();
    for (index, (path, bytes)) in own.iter().enumerate() {
        // The first and the last have every byte of their headers flipped, those between a sample.
        let step = if index == 0 || index + 1 == own.len() { 1 } else { 9 };
        let mut object = Object {
            kind,
            path,
            bytes,
            states: &mut states,
        };
        object.replaced(&own, &others);
        object.cut();
        object.flipped(step);
        object.zeroed();
    }
    states
}

struct Object<'a> {
    kind: StoredKind,
    path: &'a str,
    bytes: &'a Bytes,
    states: &'a mut Vec<State>,
}

impl Object<'_> {
    fn add(&mut self, action: &'static str, is_rare: bool, at: Option<usize>, changes: Vec<Change>) {
        self.states.push(State {
            kind: self.kind,
            action,
            changes,
            at,
            is_rare,
        });
    }

    fn becomes(&mut self, action: &'static str, is_rare: bool, at: Option<usize>, bytes: Vec<u8>) {
        if bytes != *self.bytes {
            let change = (self.path.to_owned(), Some(Bytes::from(bytes)));
            self.add(action, is_rare, at, vec![change]);
        }
    }

    fn replaced(&mut self, own: &[(String, Bytes)], foreign: &[(String, Bytes)]) {
        let path = self.path.to_owned();
        self.add("missing", true, None, vec![(path.clone(), None)]);
        self.becomes("empty", true, None, Vec::new());
        let other = own.iter().rfind(|(_, bytes)| bytes != self.bytes);
        match other {
            Some((other, bytes)) => {
                let swapped = vec![
                    (path.clone(), Some(bytes.clone())),
                    (other.clone(), Some(self.bytes.clone())),
                ];
                self.add("swapped", true, None, swapped);
            }
            // The only one of its kind here.
            None => self.becomes("swapped", true, None, foreign[0].1.to_vec()),
        }
        // An object is never written twice under one name, so what came before under it is what came before.
        let older = own.iter().find(|(_, bytes)| bytes != self.bytes).or(foreign.first());
        if let Some((_, bytes)) = older {
            self.becomes("older", true, None, bytes.to_vec());
        }
        if let Some(copy) = other_name(&path) {
            let copied = vec![(copy, Some(self.bytes.clone()))];
            self.add("copied", true, None, copied);
        }
    }

    fn cut(&mut self) {
        for at in self.boundaries() {
            if at > 0 && at < self.bytes.len() {
                self.becomes("truncated", at % 5 == 0, None, self.bytes[..at].to_vec());
            }
        }
        for more in [&[0_u8][..], &[0; 300], &self.bytes[..]] {
            self.becomes("extended", true, None, [&self.bytes[..], more].concat());
        }
    }

    fn flipped(&mut self, step: usize) {
        for at in 0..self.bytes.len() {
            let (action, samples) = self.part(at);
            let wanted = match samples {
                None => at % step == 0,
                Some(len) => at % (len / SAMPLES).max(1) == 7 % (len / SAMPLES).max(1),
            };
            if wanted {
                let mut bytes = self.bytes.to_vec();
                bytes[at] ^= 1 << (at % 8);
                self.becomes(action, at % 64 == 0, Some(at), bytes);
            }
        }
    }

    fn zeroed(&mut self) {
        let pages = self.bytes.len().div_ceil(PAGE);
        for page in (0..pages).step_by((pages / 4).max(1)) {
            let end = self.bytes.len().min((page + 1) * PAGE);
            let mut bytes = self.bytes.to_vec();
            bytes[page * PAGE..end].fill(0);
            let action = match (self.kind, page * PAGE, end) {
                (StoredKind::Pack, 0, _) => "page 0",
                (StoredKind::Pack, start, _) if self.part(start).0 == "body" && self.part(end - 1).0 == "body" => {
                    "page"
                }
                (StoredKind::Checkpoint, start, _) if start > 0 => "page",
                _ => "page 0",
            };
            self.becomes(action, true, None, bytes);
        }
    }

    /// What a byte belongs to, and how long that part is if it is one of which a sample is enough.
    fn part(&self, at: usize) -> (&'static str, Option<usize>) {
        let len = self.bytes.len();
        match self.kind {
            StoredKind::Metadata | StoredKind::Owner => ("flipped", None),
            StoredKind::Keyring if at < 460 => ("flipped", None),
            StoredKind::Keyring => ("flipped", Some(len)),
            StoredKind::Checkpoint if at < CHECKPOINT_HEADER_LEN => ("header", None),
            StoredKind::Checkpoint => ("body", Some(len)),
            StoredKind::Pack => {
                let body = parse_trailer(self.bytes, len as u64).unwrap().body_len as usize;
                match at {
                    at if at < HEADER_LEN => ("header", None),
                    at if at < body => ("body", Some(len)),
                    at if at >= len - TRAILER_LEN => ("trailer", None),
                    _ => ("tail", Some(len / 8)),
                }
            }
        }
    }

    /// Where fields of the object end.
    fn boundaries(&self) -> Vec<usize> {
        let len = self.bytes.len();
        let mut ends = match self.kind {
            StoredKind::Metadata => self
                .bytes
                .iter()
                .enumerate()
                .filter(|(_, byte)| **byte == b'\n')
                .map(|(at, _)| at)
                .collect(),
            StoredKind::Owner => vec![4, 6, 8, 24, 32, 64],
            StoredKind::Keyring => {
                let name = usize::from(self.bytes[56]);
                let names = 60 + name + usize::from(self.bytes[58 + name]);
                let sections = [0, 1, 33, 65, 67, 115, 119].map(|end| names + end);
                let hashes = [238, 270, 302, 334].map(|end| names + end);
                [
                    &[4, 6, 8, 24, 40, 48, 49, 56, 58, 58 + name, 60 + name][..],
                    &sections,
                    &hashes,
                ]
                .concat()
            }
            StoredKind::Checkpoint => vec![4, 6, 8, 24, 56, 64, 72, 80, 112, 113, 120, len - 16],
            StoredKind::Pack => {
                let trailer = parse_trailer(self.bytes, len as u64).unwrap();
                let parts = [
                    trailer.body_len,
                    trailer.directory_range().end,
                    trailer.sums_range().end,
                ];
                let fields = [8, 16, 24, 56, 88, 120, 122, 124].map(|end| len - TRAILER_LEN + end);
                let header = [4, 6, 8, 24, 56, 64, 96, 104, 136, 137, HEADER_LEN];
                [&header[..], &parts.map(|end| end as usize), &fields].concat()
            }
        };
        ends.extend([1, len / 2, len - 1]);
        ends
    }
}

/// A name of the same kind under which nothing is.
fn other_name(path: &str) -> Option<String> {
    let other = match StoredName::parse(path)? {
        StoredName::Metadata => return None,
        StoredName::Keyring(repository, generation, copy) => StoredName::Keyring(repository, generation + 1, copy),
        StoredName::Owner(repository, epoch) => StoredName::Owner(repository, epoch + 1),
        StoredName::Pack(repository, mut name) => {
            (name.number.epoch, name.number.counter) = (1, name.number.counter + 2000);
            StoredName::Pack(repository, name)
        }
        StoredName::Checkpoint(repository, mut name) => {
            name.log_number += 1;
            StoredName::Checkpoint(repository, name)
        }
    };
    Some(other.path())
}
