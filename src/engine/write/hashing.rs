//! The chunks of a slab, found by one job and hashed by whoever has time.
//!
//! A job hashes the slab that it cut, which is in its core's cache. But cuts follow from one another: a thread that is done
//! with its chunks before another has cut the next slab, or while that one is kept from it, would wait. It takes pieces of
//! what the other has found so far instead.

use parking_lot::Mutex;

use crate::codec::IdKey;
use crate::format::ChunkRef;

/// Bytes of chunks that are hashed at once, but for the rest of a last chunk that begins within.
const PIECE_BYTES: usize = 256 << 10;

/// Chunks next to each other in a slab.
pub(super) struct Piece {
    /// How many chunks of the slab are before them.
    first: usize,
    /// Where they begin in the slab.
    at: usize,
    lengths: Vec<u32>,
}

impl Piece {
    fn hash(&self, slab: &[u8], key: &IdKey) -> Vec<ChunkRef> {
        let mut at = self.at;
        let chunks = self.lengths.iter().map(|&len| {
            let plain = &slab[at..][..len as usize];
            at += plain.len();
            ChunkRef { id: key.id(plain), len }
        });
        chunks.collect()
    }
}

/// Joins the chunks of a slab to pieces, in their order.
pub(super) struct Pieces {
    next: Piece,
    bytes: usize,
}

impl Pieces {
    /// For a slab whose first chunk begins at `at`.
    pub(super) fn new(at: usize) -> Self {
        Self {
            next: Piece {
                first: 0,
                at,
                lengths: Vec::new(),
            },
            bytes: 0,
        }
    }

    /// Adds the next chunk; returns the piece that it completes, if it does.
    pub(super) fn add(&mut self, len: u32) -> Option<Piece> {
        self.next.lengths.push(len);
        self.bytes += len as usize;
        match self.bytes >= PIECE_BYTES {
            true => self.take(),
            false => None,
        }
    }

    /// How many chunks were added.
    pub(super) fn count(&self) -> usize {
        self.next.first + self.next.lengths.len()
    }

    /// The chunks that are in no piece yet, if there are any.
    pub(super) fn take(&mut self) -> Option<Piece> {
        let behind = Piece {
            first: self.next.first + self.next.lengths.len(),
            at: self.next.at + std::mem::take(&mut self.bytes),
            lengths: Vec::new(),
        };
        let piece = std::mem::replace(&mut self.next, behind);
        (!piece.lengths.is_empty()).then_some(piece)
    }
}

/// The chunks of a slab, as its pieces are hashed in whatever order.
#[derive(Default)]
pub(super) struct Hashed(Mutex<Found>);

#[derive(Default)]
struct Found {
    /// Chunks of pieces, with how many are before them.
    pieces: Vec<(usize, Vec<ChunkRef>)>,
    /// Of all pieces, once the slab is cut.
    count: Option<usize>,
}

impl Hashed {
    /// Hashes a piece of what lies in `slab`.
    pub(super) fn add(&self, piece: &Piece, slab: &[u8], key: &IdKey) {
        let chunks = piece.hash(slab, key);
        self.0.lock().pieces.push((piece.first, chunks));
    }

    /// Says how many chunks there are in all.
    pub(super) fn expect(&self, count: usize) {
        self.0.lock().count = Some(count);
    }

    /// All chunks, in the order of the slab; `None` if any is missing.
    pub(super) fn into_chunks(self) -> Option<Vec<ChunkRef>> {
        let Found { mut pieces, count } = self.0.into_inner();
        pieces.sort_unstable_by_key(|(first, _)| *first);
        let chunks: Vec<_> = pieces.into_iter().flat_map(|(_, chunks)| chunks).collect();
        (count == Some(chunks.len())).then_some(chunks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Secret;

    #[test]
    fn pieces_are_as_long_as_they_are_to_be_and_leave_no_chunk_out() {
        let third = PIECE_BYTES as u32 / 3;
        let mut pieces = Pieces::new(7);
        let mut found = Vec::new();
        for len in [third, third, 2 * third, 1, 5 * third, 3] {
            found.extend(pieces.add(len));
        }
        found.extend(pieces.take());
        assert!(pieces.take().is_none());
        let second = 7 + 4 * third as usize;
        let third_at = second + 1 + 5 * third as usize;
        let found: Vec<_> = found
            .into_iter()
            .map(|piece| (piece.first, piece.at, piece.lengths))
            .collect();
        assert_eq!(
            found,
            [
                (0, 7, vec![third, third, 2 * third]),
                (3, second, vec![1, 5 * third]),
                (5, third_at, vec![3])
            ]
        );
    }

    #[test]
    fn chunks_are_in_order_whoever_hashed_them_first() {
        let slab: Vec<u8> = (0..3 * PIECE_BYTES).map(|at| (at % 251) as u8).collect();
        let key = IdKey::new(&Secret::from_bytes([7; 32]));
        let cuts = [1, PIECE_BYTES as u32 - 1, 5, 100, PIECE_BYTES as u32, 9];
        let mut pieces = Pieces::new(10);
        let mut taken: Vec<_> = cuts.iter().filter_map(|len| pieces.add(*len)).collect();
        taken.extend(pieces.take());
        assert_eq!((taken.len(), pieces.count()), (3, cuts.len()));
        taken.reverse();
        let hash = |pieces: &[Piece]| {
            let hashed = Hashed::default();
            pieces.iter().for_each(|piece| hashed.add(piece, &slab, &key));
            hashed
        };
        let mut at = 10;
        let expected = cuts.map(|len| {
            let id = key.id(&slab[at..][..len as usize]);
            at += len as usize;
            ChunkRef { id, len }
        });
        let hashed = hash(&taken);
        hashed.expect(cuts.len());
        assert_eq!(hashed.into_chunks().as_deref(), Some(&expected[..]));
        let hashed = hash(&taken[1..]);
        hashed.expect(cuts.len());
        assert_eq!(hashed.into_chunks(), None, "a piece is missing");
        assert_eq!(hash(&taken).into_chunks(), None, "the slab was not cut to its end");
    }
}
