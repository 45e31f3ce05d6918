//! Golden objects: one of every kind, made from fixed secrets and kept for ever in `tests/golden/<format>`. What is written
//! today must be these bytes, and they must open.
//!
//! A difference means the stored format changed, and stores in the field would not be read: that takes a new format number.
//! `CAIRN_BLESS_GOLDEN=1` writes objects that are missing or differ.

use std::path::PathBuf;
use std::{env, fs};

use super::fixtures::*;
use crate::format::checkpoint::{open_checkpoint_file, seal_checkpoint_file};
use crate::format::keyring::{Section, open_keyring};
use crate::format::marker::{Metadata, Owner};
use crate::format::*;

fn golden(file: &str, made: &[u8]) -> Vec<u8> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/golden/1", file].iter().collect();
    if env::var_os("CAIRN_BLESS_GOLDEN").is_some_and(|value| value == "1") {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, made).unwrap();
    }
    let kept = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(kept == made, "{file} is no longer what is written");
    kept
}

#[test]
fn keyring_is_as_ever() {
    let file = golden("keyring", &keyring());
    let opened = open_keyring(&file, &kek()).unwrap();
    let expected = secrets();
    assert_eq!(opened.parameters(), expected.parameters());
    assert_eq!(opened.repository(), REPOSITORY);
    assert_eq!(
        (opened.generation(), opened.data_epoch(), opened.directory_epoch()),
        (1, 1, 1)
    );
    for section in [Section::Data, Section::Directory] {
        let key = |secrets: &Secrets| secrets.key_for(section, 1, "pack", &[1; 32]).unwrap();
        assert_eq!(key(&opened), key(&expected));
    }
    assert_eq!(opened.id_key().unwrap().id(b"x"), expected.id_key().unwrap().id(b"x"));
    assert_eq!(opened.leaf_id_key().id(b"x"), expected.leaf_id_key().id(b"x"));
    assert_eq!(opened.root_id_key().id(b"x"), expected.root_id_key().id(b"x"));
    assert_eq!(
        opened.gear_table().unwrap().words(),
        expected.gear_table().unwrap().words()
    );
}

#[test]
fn chunk_pack_is_as_ever() {
    let pack = chunk_pack();
    let file = golden("chunk-pack", &pack.bytes);
    let plain = read_whole_pack(&secrets(), &pack.name, &file).unwrap();
    assert_eq!(plain[0], b"a raw chunk");
    assert_eq!(plain[1], ZSTD_PLAIN);
    assert_eq!(Leaf::decode(&plain[2]).unwrap().bytes(), 222);
}

#[test]
fn commit_pack_is_as_ever() {
    let pack = commit_pack();
    let file = golden("commit-pack", &pack.bytes);
    let plain = read_whole_pack(&secrets(), &pack.name, &file).unwrap();
    assert_eq!(Root::decode(&plain[0]).unwrap().size, 222);
    assert_eq!(plain[1], ZSTD_PLAIN);
    let directory = pack::verify_pack(&secrets(), &pack.name, &file).unwrap();
    assert_eq!(directory, pack.directory);
    assert_eq!(directory.commit.unwrap().records.len(), 6);
}

#[test]
fn checkpoint_is_as_ever() {
    let [objects, packs, root] = checkpoint();
    let open = |file, (name, kind, made): &(CheckpointName, CheckpointKind, Vec<u8>)| {
        let file = golden(file, made);
        (open_checkpoint_file(&secrets(), *kind, name, &file).unwrap(), file)
    };
    let (plain, objects_file) = open("checkpoint-objects", &objects);
    assert_eq!(ObjectSegment::decode(&plain).unwrap().rows.len(), 2);
    let (plain, packs_file) = open("checkpoint-packs", &packs);
    assert_eq!(PackSegment::decode(&plain).unwrap().rows.len(), 2);
    let (plain, _) = open("checkpoint-root", &root);
    let root = CheckpointRoot::decode(&plain).unwrap();
    assert_eq!((root.put_ids.len(), root.heads.len()), (2, 2));
    assert!(root.object_segments[0].matches(&objects_file));
    assert!(root.pack_segments[0].matches(&packs_file));
    assert!(!root.pack_segments[0].matches(&objects_file));
}

#[test]
fn markers_are_as_ever() {
    let owner = Owner {
        repository: REPOSITORY,
        epoch: 1,
        instance: counting(0xe0),
    };
    assert_eq!(Owner::parse(&golden("owner", &owner.encode())), Ok(owner));
    let metadata = Metadata {
        store_id: *b"store id golden.",
        created: "2026-01-01T00:00:00Z".into(),
    };
    assert_eq!(
        Metadata::parse(&golden("metadata.yaml", &metadata.encode())),
        Ok(metadata)
    );
}

#[test]
fn every_changed_byte_of_a_pack_is_detected() {
    let secrets = secrets();
    for pack in [chunk_pack(), commit_pack()] {
        assert!(read_whole_pack(&secrets, &pack.name, &pack.bytes).is_ok());
        each_flip(&pack.bytes, |index, bytes| {
            assert!(read_whole_pack(&secrets, &pack.name, bytes).is_err(), "byte {index}");
        });
        for len in 0..pack.bytes.len() {
            let cut = &pack.bytes[..len];
            assert!(read_whole_pack(&secrets, &pack.name, cut).is_err(), "cut at {len}");
        }
        let longer = [&*pack.bytes, &[0]].concat();
        assert!(read_whole_pack(&secrets, &pack.name, &longer).is_err());
    }
}

#[test]
fn every_changed_byte_of_a_keyring_is_detected_as_damage() {
    let file = keyring();
    let check = |what: String, bytes: &[u8]| {
        let refused = open_keyring(bytes, &kek()).expect_err(&what);
        assert!(
            !matches!(refused, Error::WrongKey { .. }),
            "{what}: taken for a wrong key"
        );
        assert_eq!(
            KeyringHeader::parse(bytes),
            Err(refused),
            "{what}: seen only with the key"
        );
    };
    each_flip(&file, |index, bytes| check(format!("byte {index}"), bytes));
    for len in 0..file.len() {
        check(format!("cut at {len}"), &file[..len]);
    }
}

#[test]
fn every_changed_byte_of_a_checkpoint_is_detected() {
    let secrets = secrets();
    let large = checkpoint_name(3, 0xd3);
    let plain = vec![1; checkpoint::MESSAGE_LEN + 1];
    let file = seal_checkpoint_file(&secrets, CheckpointKind::Packs, &large, plain);
    for (name, kind, file) in checkpoint() {
        each_flip(&file, |index, bytes| {
            assert!(
                open_checkpoint_file(&secrets, kind, &name, bytes).is_err(),
                "byte {index}"
            );
        });
    }
    for len in 0..file.len() {
        let cut = &file[..len];
        let opened = open_checkpoint_file(&secrets, CheckpointKind::Packs, &large, cut);
        assert!(opened.is_err(), "cut at {len}");
    }
}
