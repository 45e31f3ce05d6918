//! Duplicates come in runs: who brings one chunk of a pack again is likely to bring its neighbours next. So a hit brings
//! in the entries of its pack, and the following lookups are answered here, without a read of the tables.
//!
//! An answer is as good as the entries inserted: they name every chunk stored in the pack, whether or not the catalog
//! still knows it there. Whoever condemns a pack, moves a chunk, quarantines it or makes it unknown says so here in the
//! same step, and does not insert that pack's entries again.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::codec::ChunkId;
use crate::format::{Birth, BlobKind, Entry, PackNumber};

use super::rows::EntriesRow;

/// Where a chunk is: its pack, and its index among the pack's entries.
pub type Place = (PackNumber, u32);

/// The entries of packs that were hit lately, within a bound of memory. The pack not hit for longest goes first.
pub struct Locality {
    packs: Mutex<Packs>,
}

impl Locality {
    /// A cache of at most this many bytes, counted roughly.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            packs: Mutex::new(Packs::new(bytes_max)),
        }
    }

    /// Where a data chunk is, if the entries of its pack are here. Counts as a hit of the pack.
    pub fn find(&self, id: &ChunkId) -> Option<Place> {
        self.packs.lock().find(id)
    }

    /// Like [`Locality::find`] for each id in order; appends to `out`.
    pub fn find_many(&self, ids: &[ChunkId], out: &mut Vec<Option<Place>>) {
        let mut packs = self.packs.lock();
        out.extend(ids.iter().map(|id| packs.find(id)));
    }

    /// Keeps the entries of a pack. Entries larger than the whole bound are not kept.
    pub fn insert(&self, number: PackNumber, entries: Arc<EntriesRow>) {
        self.packs.lock().insert(number, entries);
    }

    /// Answers no longer with this pack.
    pub fn forget_pack(&self, number: PackNumber) {
        self.packs.lock().forget_pack(number);
    }

    /// Forgets everything.
    pub fn clear(&self) {
        let mut packs = self.packs.lock();
        *packs = Packs::new(packs.bytes_max);
    }

    /// Answers no longer for this chunk, until its pack is inserted again.
    pub fn forget_chunk(&self, id: &ChunkId) {
        self.packs.lock().forget_chunk(id);
    }
}

/// Position of a pack in `Packs::slots`.
type SlotIndex = u32;

struct Packs {
    bytes_max: usize,
    bytes: usize,
    /// The first eight bytes of an id → where it is. Ids are keyed hashes, so two that share them are a curiosity; the
    /// one inserted last wins, and the other is looked up in the tables as if its pack were not here.
    chunks: HashMap<u64, ChunkPlace, BuildHasherDefault<FirstBytes>>,
    numbers: HashMap<PackNumber, SlotIndex>,
    slots: Vec<Option<Pack>>,
    free: Vec<SlotIndex>,
    /// Ends of the list of packs in order of their last hit.
    newest: Option<SlotIndex>,
    oldest: Option<SlotIndex>,
}

#[derive(Clone, Copy)]
struct ChunkPlace {
    slot: SlotIndex,
    index: u32,
}

struct Pack {
    number: PackNumber,
    entries: Arc<EntriesRow>,
    bytes: usize,
    /// The packs hit next after and next before this one.
    newer: Option<SlotIndex>,
    older: Option<SlotIndex>,
}

impl Packs {
    fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            chunks: HashMap::default(),
            numbers: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            newest: None,
            oldest: None,
        }
    }

    fn find(&mut self, id: &ChunkId) -> Option<Place> {
        let place = *self.chunks.get(&first_bytes(id))?;
        let pack = self.pack(place.slot);
        if pack.entries.entries[place.index as usize].id != *id {
            return None;
        }
        let number = pack.number;
        if self.newest != Some(place.slot) {
            self.unlink(place.slot);
            self.link_newest(place.slot);
        }
        Some((number, place.index))
    }

    fn insert(&mut self, number: PackNumber, entries: Arc<EntriesRow>) {
        self.forget_pack(number);
        let bytes = cost(&entries);
        if bytes > self.bytes_max {
            return;
        }
        while self.bytes + bytes > self.bytes_max {
            let oldest = self.oldest.expect("what takes memory is in the list");
            self.forget_pack(self.pack(oldest).number);
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as SlotIndex
        });
        for (index, entry) in data_entries(&entries) {
            self.chunks.insert(first_bytes(&entry.id), ChunkPlace { slot, index });
        }
        self.bytes += bytes;
        self.numbers.insert(number, slot);
        self.slots[slot as usize] = Some(Pack {
            number,
            entries,
            bytes,
            newer: None,
            older: None,
        });
        self.link_newest(slot);
    }

    fn forget_pack(&mut self, number: PackNumber) {
        let Some(slot) = self.numbers.remove(&number) else {
            return;
        };
        self.unlink(slot);
        let pack = self.slots[slot as usize].take().expect("a numbered slot is in use");
        for (_, entry) in data_entries(&pack.entries) {
            // The place may be another pack's by now.
            if let Slot::Occupied(place) = self.chunks.entry(first_bytes(&entry.id))
                && place.get().slot == slot
            {
                place.remove();
            }
        }
        self.bytes -= pack.bytes;
        self.free.push(slot);
    }

    fn forget_chunk(&mut self, id: &ChunkId) {
        if self.find(id).is_some() {
            self.chunks.remove(&first_bytes(id));
        }
    }

    fn pack(&self, slot: SlotIndex) -> &Pack {
        self.slots[slot as usize]
            .as_ref()
            .expect("only slots in use are linked and named")
    }

    fn pack_mut(&mut self, slot: SlotIndex) -> &mut Pack {
        self.slots[slot as usize]
            .as_mut()
            .expect("only slots in use are linked and named")
    }

    fn link_newest(&mut self, slot: SlotIndex) {
        let older = self.newest.replace(slot);
        match older {
            Some(older) => self.pack_mut(older).newer = Some(slot),
            None => self.oldest = Some(slot),
        }
        let pack = self.pack_mut(slot);
        (pack.newer, pack.older) = (None, older);
    }

    fn unlink(&mut self, slot: SlotIndex) {
        let Pack { newer, older, .. } = *self.pack(slot);
        match newer {
            Some(newer) => self.pack_mut(newer).older = older,
            None => self.newest = older,
        }
        match older {
            Some(older) => self.pack_mut(older).newer = newer,
            None => self.oldest = newer,
        }
    }
}

fn data_entries(row: &EntriesRow) -> impl Iterator<Item = (u32, &Entry)> {
    (0u32..)
        .zip(&row.entries)
        .filter(|(_, entry)| entry.kind == BlobKind::Data)
}

/// Roughly what a pack takes here: its entries, and at most two slots of the map for each, since maps double.
fn cost(row: &EntriesRow) -> usize {
    const MAP_SLOT: usize = 2 * (size_of::<(u64, ChunkPlace)>() + 1);
    const PACK: usize = 256;
    PACK + row.births.len() * size_of::<Birth>() + row.entries.len() * (size_of::<Entry>() + MAP_SLOT)
}

fn first_bytes(id: &ChunkId) -> u64 {
    u64::from_le_bytes(*id.0.first_chunk().expect("an id has 32 bytes"))
}

/// Takes ids as they are: they are keyed hashes already.
#[derive(Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only the first bytes of ids are hashed, as one number");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(counter: u64) -> PackNumber {
        PackNumber { epoch: 1, counter }
    }

    fn id(of: u16) -> ChunkId {
        let mut id = [7; 32];
        id[..2].copy_from_slice(&of.to_le_bytes());
        ChunkId(id)
    }

    fn row(ids: impl IntoIterator<Item = u16>) -> Arc<EntriesRow> {
        let entries = ids
            .into_iter()
            .map(|of| Entry::of_one_byte(id(of), BlobKind::Data))
            .collect();
        Arc::new(EntriesRow {
            births: Vec::new(),
            entries,
        })
    }

    /// Room for so many packs of one chunk.
    fn of_packs(packs: usize) -> Locality {
        Locality::new(packs * cost(&row([0])))
    }

    #[test]
    fn data_is_found_and_manifests_are_not() {
        let locality = Locality::new(1 << 20);
        let entries = vec![
            Entry::of_one_byte(id(1), BlobKind::Leaf),
            Entry::of_one_byte(id(2), BlobKind::Data),
            Entry::of_one_byte(id(3), BlobKind::Root),
        ];
        locality.insert(
            number(1),
            Arc::new(EntriesRow {
                births: Vec::new(),
                entries,
            }),
        );
        let mut found = vec![None];
        locality.find_many(&[id(1), id(2), id(3), id(4)], &mut found);
        assert_eq!(found, [None, None, Some((number(1), 1)), None, None]);
        assert_eq!(locality.find(&id(2)), Some((number(1), 1)));
    }

    #[test]
    fn ids_with_the_same_first_bytes_are_told_apart() {
        let locality = Locality::new(1 << 20);
        locality.insert(number(1), row([1]));
        let mut similar = id(1);
        similar.0[31] ^= 1;
        assert_eq!(locality.find(&similar), None);
    }

    #[test]
    fn the_pack_not_hit_for_longest_goes_first() {
        let locality = of_packs(3);
        for of in [1, 2, 3] {
            locality.insert(number(of.into()), row([of]));
        }
        assert!(locality.find(&id(1)).is_some());
        locality.insert(number(4), row([4]));
        assert_eq!(locality.find(&id(2)), None);
        for of in [1, 3, 4] {
            assert_eq!(locality.find(&id(of)), Some((number(of.into()), 0)), "{of}");
        }
    }

    #[test]
    fn what_is_larger_than_the_bound_is_not_kept() {
        let locality = of_packs(1);
        locality.insert(number(1), row([1]));
        locality.insert(number(2), row(0..50));
        assert_eq!(locality.find(&id(2)), None);
        assert!(locality.find(&id(1)).is_some());
    }

    #[test]
    fn a_chunk_of_two_packs_survives_the_end_of_the_older() {
        let locality = Locality::new(1 << 20);
        locality.insert(number(1), row([1, 2]));
        locality.insert(number(2), row([9, 1]));
        assert_eq!(locality.find(&id(1)), Some((number(2), 1)));
        locality.forget_pack(number(1));
        assert_eq!(locality.find(&id(1)), Some((number(2), 1)));
        assert_eq!(locality.find(&id(2)), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u64, Vec<u16>),
        ForgetPack(u64),
        ForgetChunk(u16),
        Find(u16),
    }

    fn some_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u64..8, prop::collection::vec(0u16..24, 0..6)).prop_map(|(pack, ids)| Step::Insert(pack, ids)),
            (0u64..8).prop_map(Step::ForgetPack),
            (0u16..24).prop_map(Step::ForgetChunk),
            (0u16..24).prop_map(Step::Find),
        ]
    }

    proptest! {
        #[test]
        fn an_answer_is_true_and_memory_stays_within_the_bound(
            packs in 0usize..6,
            steps in prop::collection::vec(some_step(), 0..60),
        ) {
            let locality = of_packs(packs);
            let mut inserted: HashMap<u64, Vec<u16>> = HashMap::new();
            let mut forgotten = std::collections::HashSet::new();
            for step in steps {
                match step {
                    Step::Insert(pack, ids) => {
                        locality.insert(number(pack), row(ids.iter().copied()));
                        ids.iter().for_each(|of| { forgotten.remove(of); });
                        inserted.insert(pack, ids);
                    }
                    Step::ForgetPack(pack) => {
                        locality.forget_pack(number(pack));
                        inserted.remove(&pack);
                    }
                    Step::ForgetChunk(of) => {
                        locality.forget_chunk(&id(of));
                        forgotten.insert(of);
                    }
                    Step::Find(of) => {
                        if let Some((pack, index)) = locality.find(&id(of)) {
                            prop_assert_eq!(inserted[&pack.counter][index as usize], of);
                            prop_assert!(!forgotten.contains(&of));
                        }
                    }
                }
                let state = locality.packs.lock();
                let in_use: Vec<&Pack> = state.slots.iter().flatten().collect();
                let entries = in_use.iter().map(|pack| pack.entries.entries.len()).sum::<usize>();
                prop_assert!(state.bytes <= state.bytes_max);
                prop_assert_eq!(state.bytes, in_use.iter().map(|pack| pack.bytes).sum::<usize>());
                prop_assert_eq!(in_use.len(), state.numbers.len());
                prop_assert!(state.chunks.len() <= entries);
                prop_assert!(state.chunks.values().all(|place| state.slots[place.slot as usize].is_some()));
            }
        }
    }
}
