use proptest::prelude::*;

use super::*;
use crate::format::tests::fixtures::*;

fn wrap_seed() -> WrapSeed {
    WrapSeed::from_bytes(counting(0x80))
}

#[test]
fn the_clear_part_needs_no_key() {
    let header = KeyringHeader::parse(&keyring()).unwrap();
    assert_eq!(header.repository, REPOSITORY);
    assert_eq!(header.name.as_str(), "golden");
    assert_eq!(header.kek_id, "file:golden");
    assert_eq!((header.generation, header.store_id), (1, *b"store id golden."));
}

#[test]
fn a_wrong_key_is_told_from_damage() {
    let wrong = open_keyring(&keyring(), &other_kek()).unwrap_err();
    assert_eq!(
        wrong,
        Error::WrongKey {
            expected: "file:golden".into()
        }
    );
    let renamed = Kek {
        id: "another id".into(),
        ..kek()
    };
    assert!(
        open_keyring(&keyring(), &renamed).is_ok(),
        "the id is a hint, the secret decides"
    );
}

#[test]
fn a_maintenance_role_has_no_data_keys() {
    let full = open_keyring(&keyring(), &kek()).unwrap();
    let role = open_keyring_directory(&keyring(), &kek()).unwrap();
    let missing = Error::KeyMissing {
        section: Section::Data,
        epoch: 0,
    };
    assert_eq!(role.id_key().unwrap_err(), missing);
    assert_eq!(role.gear_table().unwrap_err(), missing);
    assert_eq!(role.key_for(Section::Data, 1, "pack", &[0; 32]).unwrap_err(), missing);
    assert_eq!(
        (role.has_data(), role.data_epoch(), role.directory_epoch()),
        (false, 0, 1)
    );
    assert_eq!(role.leaf_id_key().id(b"x"), full.leaf_id_key().id(b"x"));
    assert_eq!(role.catalog_keys().row, full.catalog_keys().row);
}

#[test]
fn rotation_keeps_old_epochs_and_all_ids() {
    let first = secrets();
    let second = first
        .with_data_epoch(Secret::from_bytes([1; 32]))
        .with_directory_epoch(Secret::from_bytes([2; 32]))
        .with_data_epoch(Secret::from_bytes([3; 32]));
    let previous = Hash32::of(&keyring());
    let file = seal_keyring(&second, &other_kek(), 2, previous, wrap_seed());
    let opened = open_keyring(&file, &other_kek()).unwrap();
    assert_eq!((opened.generation(), opened.previous()), (2, previous));
    assert_eq!((opened.data_epoch(), opened.directory_epoch()), (3, 2));
    assert_eq!(opened.id_key().unwrap().id(b"x"), first.id_key().unwrap().id(b"x"));
    let key = |secrets: &Secrets, epoch| secrets.key_for(Section::Data, epoch, "pack", &[9; 32]);
    assert_eq!(key(&opened, 1), key(&first, 1));
    assert_ne!(key(&opened, 1), key(&opened, 2));
    assert_eq!(
        key(&first, 2),
        Err(Error::KeyMissing {
            section: Section::Data,
            epoch: 2
        })
    );
}

#[test]
fn a_keyring_for_another_store_holds_the_same_secrets() {
    let here = secrets();
    let there = here.for_store([9; 16]);
    let previous = Hash32::of(&keyring());
    let opened = open_keyring(&seal_keyring(&there, &kek(), 2, previous, wrap_seed()), &kek()).unwrap();
    assert_eq!((opened.generation(), opened.previous()), (2, previous));
    let expected = RepositoryParameters {
        store_id: [9; 16],
        ..here.parameters().clone()
    };
    assert_eq!(opened.parameters(), &expected);
    assert_eq!(opened.repository(), here.repository());
    assert_eq!(opened.id_key().unwrap().id(b"x"), here.id_key().unwrap().id(b"x"));
    assert_eq!(opened.catalog_keys().row, here.catalog_keys().row);
}

#[test]
fn sections_of_two_generations_do_not_mix() {
    let (first, second) = (
        keyring(),
        seal_keyring(&secrets(), &kek(), 2, Hash32::of(&keyring()), wrap_seed()),
    );
    let header = KeyringHeader::parse(&first).unwrap();
    // A forger without keys can make all hashes right; what the sections authenticate still differs.
    let sealed_start = header.sections[0].sealed.start;
    let mut forged = first[..header.bound.end].to_vec();
    let sections: Vec<&[u8]> = header
        .sections
        .iter()
        .map(|section| &second[section.sealed.clone()])
        .collect();
    sections
        .iter()
        .for_each(|section| forged.put_slice(&Hash32::of(section).0));
    let sum = Hash32::of(&forged);
    forged.put_slice(&sum.0);
    assert_eq!(forged.len(), sealed_start);
    sections.iter().for_each(|section| forged.put_slice(section));
    assert!(KeyringHeader::parse(&forged).is_ok());
    assert!(matches!(open_keyring(&forged, &kek()), Err(Error::Damaged { .. })));
}

#[test]
fn secrets_print_nothing() {
    let printed = format!("{:?} {:?}", secrets(), kek());
    assert!(!printed.contains(&hex::encode([0x40, 0x41, 0x42])), "{printed}");
    assert!(printed.contains("Secret(..)"), "{printed}");
}

proptest! {
    #[test]
    fn every_keyring_reads_back(
        seed: [u8; 32],
        kek_id in "\\PC{0,40}",
        level in 0i32..=19,
        epochs in 1u8..20,
        generation in 1u64..,
        avg in 14u32..=22,
    ) {
        let parameters = RepositoryParameters {
            level: Level::new(level).unwrap(),
            chunk_sizes: ChunkSizes::with_average(1 << avg).unwrap(),
            ..secrets().parameters().clone()
        };
        let mut random = [0; 128];
        random[..32].copy_from_slice(&seed);
        let mut made = Secrets::create(parameters, REPOSITORY, KeyringSeed::from_bytes(random));
        for epoch in 1..epochs {
            made = made.with_data_epoch(Secret::from_bytes([epoch; 32]));
        }
        let kek = Kek { id: kek_id, secret: Secret::from_bytes(seed) };
        let file = seal_keyring(&made, &kek, generation, Hash32(seed), wrap_seed());
        let opened = open_keyring(&file, &kek).unwrap();
        prop_assert_eq!(opened.parameters(), made.parameters());
        prop_assert_eq!(opened.data_epoch(), u64::from(epochs));
        prop_assert_eq!(opened.generation(), generation);
        prop_assert_eq!(KeyringHeader::parse(&file).unwrap().kek_id, kek.id);
    }
}
