//! What is remembered of an evacuation beyond the process: where to, whether it came to its end, and which packs were
//! copied with damage in them, so that they are not taken for whole by the next run.
//!
//! A note in the catalog: lines of `begun` or `ended`, the place, then a number of a pack in each, or `unsure` if packs at
//! the target may have damage that is not noted. A note that is lost costs time only: what is at the target is read and
//! compared then.

use std::collections::BTreeSet;

use super::pack::Closely;
use crate::backend::Location;
use crate::engine::core::Core;
use crate::engine::error::Result;
use crate::format::PackNumber;

/// The note's name.
const NOTE: &str = "evacuation";
/// Packs that are remembered; the note is written anew for each.
const PARTIAL_MAX: usize = 4096;

const BEGUN: &str = "begun";
const ENDED: &str = "ended";
const UNSURE: &str = "unsure";

/// What is remembered of the evacuation of one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Where to, as printed.
    pub(crate) to: String,
    /// Whether it came to its end: the repository is there.
    pub(crate) has_ended: bool,
    partial: BTreeSet<PackNumber>,
    /// Whether packs at the target may have damage that is not noted here.
    is_unsure: bool,
    /// Whether that is so because there are too many to be noted.
    is_cut: bool,
}

impl Memory {
    /// Of an evacuation that this catalog knows nothing of. `is_unsure` if there are packs at the target all the same.
    pub(super) fn new(to: &Location, is_unsure: IsUnsure) -> Self {
        Self {
            to: to.to_string(),
            has_ended: false,
            partial: BTreeSet::new(),
            is_unsure: is_unsure == IsUnsure::Yes,
            is_cut: false,
        }
    }

    /// What the catalog remembers. A note that cannot be read is as good as none.
    pub(crate) fn load(core: &Core) -> Result<Option<Self>> {
        let note = core.store_catalog.note(core.secrets.repository(), NOTE)?;
        Ok(note.and_then(|note| Self::decode(&note)))
    }

    /// Remembers this, durably.
    pub(crate) fn keep(&self, core: &Core) -> Result<()> {
        let catalog = &core.store_catalog;
        catalog.set_note(core.secrets.repository(), NOTE, Some(self.encode().as_bytes()))?;
        Ok(catalog.persist()?)
    }

    /// How a pack is to be looked at that is at the target; none if its copy is known to be damaged.
    pub(super) fn look(&self, pack: PackNumber) -> Option<Closely> {
        match (self.partial.contains(&pack), self.is_unsure) {
            (true, _) => None,
            (false, true) => Some(Closely::Bytes),
            (false, false) => Some(Closely::Trailer),
        }
    }

    /// Notes that a pack has damage in its copy; whether that is news.
    pub(super) fn note_partial(&mut self, pack: PackNumber) -> bool {
        if self.partial.len() < PARTIAL_MAX {
            return self.partial.insert(pack);
        }
        let is_news = !self.is_cut && !self.partial.contains(&pack);
        self.is_cut |= is_news;
        self.is_unsure |= is_news;
        is_news
    }

    /// Notes that a pack was copied whole; whether that is news.
    pub(super) fn note_whole(&mut self, pack: PackNumber) -> bool {
        self.partial.remove(&pack)
    }

    /// Notes that every pack has been copied or compared.
    pub(super) fn note_end(&mut self) {
        self.has_ended = true;
        self.is_unsure = self.is_cut;
    }

    fn encode(&self) -> String {
        let mut lines = vec![if self.has_ended { ENDED } else { BEGUN }.to_owned(), self.to.clone()];
        lines.extend(self.partial.iter().map(ToString::to_string));
        if self.is_unsure {
            lines.push(UNSURE.to_owned());
        }
        lines.join("\n")
    }

    fn decode(note: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(note).ok()?.split('\n');
        let has_ended = match lines.next()? {
            ENDED => true,
            BEGUN => false,
            _ => return None,
        };
        let mut memory = Self {
            to: lines.next()?.to_owned(),
            has_ended,
            partial: BTreeSet::new(),
            is_unsure: false,
            is_cut: false,
        };
        for line in lines {
            match line {
                UNSURE => memory.is_unsure = true,
                line => drop(memory.partial.insert(parse_number(line)?)),
            }
        }
        Some(memory)
    }
}

/// Whether packs may be at the target that nobody here knows of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum IsUnsure {
    Yes,
    No,
}

/// Lets a repository be written again that was moved.
pub(crate) fn forget(catalog: &crate::catalog::Catalog, id: crate::codec::RepositoryId) -> Result<()> {
    Ok(catalog.set_note(id, NOTE, None)?)
}

/// Says that a repository was moved away if it was, to whoever is about to open it. A store that is opened with the
/// catalog of the one that it was copied from is not told that it is somewhere else.
pub(crate) fn recall(core: &Core) -> Result<()> {
    if let Some(memory) = Memory::load(core)?
        && memory.has_ended
        && memory.to != core.backend.location().to_string()
    {
        core.departures.set_moved(core.secrets.repository(), memory.to);
    }
    Ok(())
}

fn parse_number(line: &str) -> Option<PackNumber> {
    let (epoch, counter) = line.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    Some(PackNumber {
        epoch: hex(epoch)?,
        counter: hex(counter)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(counter: u64) -> PackNumber {
        PackNumber { epoch: 3, counter }
    }

    fn memory(is_unsure: IsUnsure) -> Memory {
        Memory::new(&Location::Memory("there".to_owned()), is_unsure)
    }

    #[test]
    fn what_is_remembered_comes_back() {
        let mut memory = memory(IsUnsure::No);
        assert!(memory.note_partial(pack(7)) && memory.note_partial(pack(0xfff)));
        assert!(!memory.note_partial(pack(7)), "no news");
        assert_eq!(memory.look(pack(7)), None);
        assert_eq!(memory.look(pack(8)), Some(Closely::Trailer));
        memory.note_end();
        assert_eq!(Memory::decode(memory.encode().as_bytes()), Some(memory.clone()));
        assert!(memory.note_whole(pack(7)));
        assert_eq!(memory.look(pack(7)), Some(Closely::Trailer));
        assert_eq!(Memory::decode(memory.encode().as_bytes()), Some(memory));
        for none in ["", "begun", "other\nthere", "begun\nthere\nx"] {
            assert_eq!(Memory::decode(none.as_bytes()), None, "{none:?}");
        }
    }

    #[test]
    fn what_nobody_knows_of_is_compared_until_a_run_has_ended() {
        let mut memory = memory(IsUnsure::Yes);
        let again = Memory::decode(memory.encode().as_bytes()).unwrap();
        assert_eq!(again.look(pack(1)), Some(Closely::Bytes), "also by the next run");
        memory.note_end();
        assert_eq!(memory.look(pack(1)), Some(Closely::Trailer));
    }

    #[test]
    fn of_more_packs_than_are_kept_all_are_compared() {
        let mut memory = memory(IsUnsure::No);
        for counter in 0..PARTIAL_MAX as u64 {
            memory.note_partial(pack(counter));
        }
        assert_eq!(memory.look(pack(1 << 20)), Some(Closely::Trailer));
        assert!(memory.note_partial(pack(1 << 21)), "that there are more is news");
        memory.note_end();
        let again = Memory::decode(memory.encode().as_bytes()).unwrap();
        assert_eq!(again.look(pack(1 << 20)), Some(Closely::Bytes));
    }
}
