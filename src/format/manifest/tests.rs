use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::format::tests::fixtures::*;

/// A chunk whose id starts with `first`.
fn chunk_with(first: u8) -> ChunkRef {
    let mut id = [7; 32];
    id[0] = first;
    ChunkRef {
        id: ChunkId(id),
        len: 1,
    }
}

fn cut(chunks: impl IntoIterator<Item = ChunkRef>) -> Vec<Leaf> {
    let mut cutter = LeafCutter::new();
    let mut leaves: Vec<Leaf> = chunks.into_iter().filter_map(|chunk| cutter.push(chunk)).collect();
    leaves.extend(cutter.finish());
    leaves
}

fn lengths(leaves: &[Leaf]) -> Vec<usize> {
    leaves.iter().map(|leaf| leaf.chunks.len()).collect()
}

#[test]
fn a_leaf_ends_at_a_zero_from_the_256th_chunk_on_or_at_the_1024th() {
    let ones = |len| std::iter::repeat_n(chunk_with(1), len);
    let zero = || std::iter::once(chunk_with(0));
    assert_eq!(lengths(&cut(ones(2049))), [1024, 1024, 1]);
    assert_eq!(
        lengths(&cut(ones(254).chain(zero()).chain(zero()).chain(ones(3)))),
        [256, 3]
    );
    assert_eq!(lengths(&cut(ones(254).chain(zero()).chain(ones(3)))), [258]);
    assert_eq!(lengths(&cut(ones(1023).chain(zero()).chain(ones(1)))), [1024, 1]);
    assert!(cut(ones(0)).is_empty());
}

#[test]
fn leaves_agree_again_soon_after_a_difference() {
    let chunk = |index: u32| ChunkRef {
        id: ChunkId(blake3::hash(&index.to_le_bytes()).into()),
        len: 1,
    };
    let before = cut((0..60_000).map(chunk));
    for inserted in [1, 10, 300] {
        let after = cut((100_000..100_000 + inserted).chain(0..60_000).map(chunk));
        let shared = after.iter().filter(|leaf| before.contains(leaf)).count();
        assert!(shared * 10 >= before.len() * 8, "{shared} of {}", before.len());
    }
}

#[test]
fn leaves_and_roots_have_at_least_one_row() {
    assert!(Leaf::decode(&Leaf { chunks: vec![] }.encode()).is_err());
    assert!(
        Leaf::decode(
            &Leaf {
                chunks: vec![chunk_with(1); 1025]
            }
            .encode()
        )
        .is_err()
    );
    assert!(
        Root::decode(
            &Root {
                name: name("x"),
                size: 0,
                leaves: vec![]
            }
            .encode()
        )
        .is_err()
    );
}

#[test]
fn a_root_has_the_size_of_its_leaves() {
    let leaf = |bytes| LeafRef {
        id: ChunkId([1; 32]),
        bytes,
        chunks: 1,
    };
    let root = |size, leaves| {
        Root {
            name: name("x"),
            size,
            leaves,
        }
        .encode()
    };
    assert!(Root::decode(&root(5, vec![leaf(2), leaf(3)])).is_ok());
    assert!(Root::decode(&root(6, vec![leaf(2), leaf(3)])).is_err());
    assert!(Root::decode(&root(1, vec![leaf(u64::MAX), leaf(2)])).is_err());
}

#[test]
fn the_longest_root_fits_a_pack() {
    let len = 2 + ObjectName::LEN_MAX + 8 + 4 + LEAVES_MAX * LeafRef::LEN;
    let room = super::super::pack::BODY_LEN_MAX - super::super::pack::HEADER_LEN - crate::codec::TAG_LEN;
    assert!(len <= room);
}

proptest! {
    #[test]
    fn every_leaf_reads_back(chunks in vec(any_chunk(), 1..40)) {
        let leaf = Leaf { chunks };
        prop_assert_eq!(Leaf::decode(&leaf.encode()), Ok(leaf));
    }

    #[test]
    fn every_root_reads_back(
        name in any_object_name(),
        leaves in vec((any::<[u8; 32]>(), 1024u64..1 << 40, 1u32..=1024), 1..20),
    ) {
        let leaves: Vec<LeafRef> = leaves
            .into_iter()
            .map(|(id, bytes, chunks)| LeafRef { id: ChunkId(id), bytes, chunks })
            .collect();
        let size = leaves.iter().map(|leaf| leaf.bytes).sum();
        let root = Root { name, size, leaves };
        prop_assert_eq!(Root::decode(&root.encode()), Ok(root));
    }
}
