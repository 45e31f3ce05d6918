//! The golden objects, and the secrets that open them.

use std::sync::LazyLock;

use crate::codec::Secret;
use crate::format::keyring::open_keyring;
use crate::format::{CheckpointId, CheckpointKind, CheckpointName, Kek, PackId, PackName, PackNumber, Secrets};

macro_rules! golden {
    ($file:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/1/", $file))
    };
}

pub(super) const KEYRING: &[u8] = golden!("keyring");
pub(super) const OWNER: &[u8] = golden!("owner");
pub(super) const METADATA: &[u8] = golden!("metadata.yaml");

pub(super) static KEK: LazyLock<Kek> = LazyLock::new(|| Kek {
    id: "file:golden".into(),
    secret: Secret::from_bytes(std::array::from_fn(|index| 0x40 + index as u8)),
});

pub(super) static SECRETS: LazyLock<Secrets> =
    LazyLock::new(|| open_keyring(KEYRING, &KEK).expect("the golden keyring opens"));

/// A pack and what it is called.
pub(super) struct GoldenPack {
    pub(super) name: PackName,
    pub(super) bytes: &'static [u8],
}

/// Chunks and a leaf; a root, a moved chunk and records.
pub(super) const PACKS: [GoldenPack; 2] = [
    GoldenPack {
        name: pack_name(1, 0xc1),
        bytes: golden!("chunk-pack"),
    },
    GoldenPack {
        name: pack_name(2, 0xc2),
        bytes: golden!("commit-pack"),
    },
];

/// A checkpoint file and what it is found as.
pub(super) struct GoldenCheckpoint {
    pub(super) kind: CheckpointKind,
    pub(super) name: CheckpointName,
    pub(super) bytes: &'static [u8],
}

pub(super) const CHECKPOINTS: [GoldenCheckpoint; 3] = [
    GoldenCheckpoint {
        kind: CheckpointKind::Root,
        name: checkpoint_name(0xd0),
        bytes: golden!("checkpoint-root"),
    },
    GoldenCheckpoint {
        kind: CheckpointKind::Objects,
        name: checkpoint_name(0xd1),
        bytes: golden!("checkpoint-objects"),
    },
    GoldenCheckpoint {
        kind: CheckpointKind::Packs,
        name: checkpoint_name(0xd2),
        bytes: golden!("checkpoint-packs"),
    },
];

const fn pack_name(counter: u64, id: u8) -> PackName {
    PackName {
        number: PackNumber { epoch: 1, counter },
        id: PackId([id; 32]),
    }
}

const fn checkpoint_name(id: u8) -> CheckpointName {
    CheckpointName {
        epoch: 1,
        log_number: 2,
        id: CheckpointId([id; 32]),
    }
}
