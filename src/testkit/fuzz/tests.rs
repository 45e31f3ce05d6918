mod corpus;
mod reach;
mod seeds;

use super::damage::{fix_keyring_hashes, fix_pack_hashes};
use super::golden::{KEYRING, PACKS};
use super::input::seeded;
use super::structures::STRUCTURES;
use super::*;

/// Inputs of all lengths, half of them with small numbers only: decisions that take one branch of each match often.
fn run(body: fn(&[u8]), inputs: u64) {
    for seed in 0..inputs {
        let len = seeded(seed, 2);
        let mut input = seeded(!seed, usize::from(u16::from_le_bytes([len[0], len[1] % 2])));
        if seed % 2 == 0 {
            input.iter_mut().skip(1).step_by(2).for_each(|byte| *byte %= 8);
        }
        body(&input);
    }
}

#[test]
fn cuts_are_those_of_fastcdc() {
    run(chunker, 1000);
}

#[test]
fn lanes_find_what_a_scan_by_bytes_finds() {
    run(lanes, 3000);
}

#[test]
fn stored_bytes_decompress_as_promised_or_not_at_all() {
    run(decompression, 10_000);
}

#[test]
fn no_structure_has_two_spellings() {
    run(structures, 20_000);
}

#[test]
fn no_catalog_row_has_two_spellings() {
    run(catalog_rows, 20_000);
}

#[test]
fn every_change_of_a_stored_object_is_noticed() {
    run(damage, 10_000);
}

#[test]
fn a_path_taken_for_an_object_s_is_that_object_s() {
    run(names, 20_000);
    let hex = |digits| "0123456789abcdef".repeat(4)[..digits].to_owned();
    let (short, long) = (hex(16), hex(64));
    let numbered = format!("{short}-{short}-{long}");
    for name in [
        short.clone(),
        format!("{short}.copy"),
        long.clone(),
        numbered.clone(),
        format!("r/packs/{short}-{}/{numbered}", &short[..13]),
    ] {
        names(name.as_bytes());
        for (at, _) in name.char_indices() {
            for with in ["", "0", "A", "-", "/", ".copy"] {
                names([&name[..at], with, &name[at + 1..]].concat().as_bytes());
            }
        }
    }
}

#[test]
fn metadata_may_say_anything() {
    run(metadata, 2000);
    let golden = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/1/metadata.yaml"));
    for seed in 0..2000 {
        metadata(&input::Input::new(&seeded(seed, 20)).edited(golden));
    }
}

/// Else the fuzzer would start from what is refused at once.
#[test]
fn every_sample_is_taken() {
    for (index, structure) in STRUCTURES.iter().enumerate() {
        // Block sums are read from the bytes as from decisions.
        let is_taken = (structure.check)(&structure.sample);
        assert!(is_taken || index == 2, "sample {index}");
    }
}

/// Else forgeries would be refused for their hashes.
#[test]
fn hashes_of_what_is_intact_need_no_fixing() {
    let mut keyring = KEYRING.to_vec();
    fix_keyring_hashes(&mut keyring);
    assert!(keyring == KEYRING);
    for golden in &PACKS {
        let mut pack = golden.bytes.to_vec();
        fix_pack_hashes(&mut pack);
        assert!(pack == golden.bytes);
    }
}

#[test]
fn a_store_holds_what_the_model_does() {
    run(operations, 60);
    run(reclaims, 30);
}

#[test]
fn a_changed_catalog_says_nothing_new() {
    run(catalog_files, 500);
}

#[test]
fn a_key_file_has_one_of_two_forms() {
    run(key_files, 2000);
}

/// The texts of the corpus, each changed in many ways.
fn run_edited(body: fn(&[u8]), samples: impl Iterator<Item = Vec<u8>>, inputs: u64) {
    for sample in samples {
        body(&sample);
        (0..inputs).for_each(|seed| body(&input::Input::new(&seeded(seed, 12)).edited(&sample)));
    }
}

fn samples(target: &'static str) -> impl Iterator<Item = Vec<u8>> {
    let of_target = seeds::seeds().into_iter().filter(move |seed| seed.target == target);
    of_target.map(|seed| seed.bytes)
}

#[test]
fn texts_that_are_taken_are_printed_as_the_same() {
    run(texts, 2000);
    run_edited(texts, samples("texts"), 500);
}

#[test]
fn messages_arrive_as_they_were_sent() {
    run(messages, 2000);
    run_edited(messages, samples("messages"), 500);
}

#[test]
fn a_configuration_is_taken_or_refused_in_one_line() {
    run_edited(settings, samples("settings"), 100);
}
