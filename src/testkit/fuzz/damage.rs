//! Golden objects, changed and then read.

use std::sync::LazyLock;

use super::golden::{CHECKPOINTS, GoldenCheckpoint, KEK, KEYRING, METADATA, OWNER, PACKS, SECRETS};
use super::input::Input;
use super::names::metadata;
use crate::codec::{Decompressor, TAG_LEN};
use crate::format::checkpoint::{CHECKPOINT_HEADER_LEN, MESSAGE_LEN, open_checkpoint_file, seal_checkpoint_file};
use crate::format::keyring::{open_keyring, open_keyring_directory};
use crate::format::marker::Owner;
use crate::format::pack::{BLOCK_LEN, HEADER_LEN, TRAILER_LEN, open_pack_directory, parse_trailer, verify_pack};
use crate::format::wire::Reader;
use crate::format::{
    Birth, BlobKind, BlobOpener, CheckpointKind, Directory, Entry, Hash32, KeyringHeader, Secrets, StoredKind,
};

/// Any change of a stored object is noticed, also by who can compute all hashes and has no key; and what is read of a
/// changed object is what was written, or nothing.
pub fn damage(data: &[u8]) {
    let mut input = Input::new(data);
    match input.choice(&StoredKind::ALL) {
        // Not sealed, for nothing depends on it: it may say anything.
        StoredKind::Metadata => metadata(&input.edited(METADATA)),
        StoredKind::Keyring => keyring(&mut input),
        StoredKind::Owner => owner(&mut input),
        StoredKind::Pack => match input.u8() % 3 {
            0 => pack(&mut input),
            1 => blobs_of_a_changed_pack(&mut input),
            _ => blob_with_another_description(&mut input),
        },
        StoredKind::Checkpoint => match input.u8() % 2 {
            0 => checkpoint(&mut input),
            _ => messages_of_a_checkpoint(&mut input),
        },
    }
}

/// Whether the hashes of a changed object are made to fit.
fn is_forged(input: &mut Input<'_>) -> bool {
    input.u8().is_multiple_of(2)
}

fn keyring(input: &mut Input<'_>) {
    let forged = is_forged(input);
    let mut bytes = input.edited(KEYRING);
    if forged {
        fix_keyring_hashes(&mut bytes);
    }
    let _ = KeyringHeader::parse(&bytes);
    let opened = open_keyring(&bytes, &KEK);
    assert_eq!(opened.is_ok(), bytes == KEYRING);
    if let Ok(opened) = open_keyring_directory(&bytes, &KEK) {
        assert_same_directory_part(&opened, &SECRETS);
    }
}

/// The data part may be damaged: nothing of it was opened.
fn assert_same_directory_part(opened: &Secrets, written: &Secrets) {
    assert_eq!(opened.repository(), written.repository());
    assert_eq!(opened.parameters(), written.parameters());
    assert_eq!(opened.generation(), written.generation());
    assert_eq!(opened.previous(), written.previous());
    assert_eq!(opened.directory_epoch(), written.directory_epoch());
    assert_eq!(opened.leaf_id_key().id(b"x"), written.leaf_id_key().id(b"x"));
    assert_eq!(opened.root_id_key().id(b"x"), written.root_id_key().id(b"x"));
}

/// Writes the hashes a keyring with the lengths of the golden one should have.
pub(super) fn fix_keyring_hashes(bytes: &mut [u8]) {
    // After 77 bytes of names and 119 of each section follow three hashes, then the sealed sections, equally long.
    const SUMS: usize = 77 + 2 * 119;
    const SEALED: usize = SUMS + 3 * 32;
    if bytes.len() != KEYRING.len() {
        return;
    }
    let (data, directory) = bytes[SEALED..].split_at((KEYRING.len() - SEALED) / 2);
    let sums = [Hash32::of(data).0, Hash32::of(directory).0];
    bytes[SUMS..SUMS + 64].copy_from_slice(sums.as_flattened());
    let header_sum = Hash32::of(&bytes[..SUMS + 64]).0;
    bytes[SUMS + 64..SEALED].copy_from_slice(&header_sum);
}

fn pack(input: &mut Input<'_>) {
    let golden = input.choice(&PACKS);
    let forged = is_forged(input);
    let mut bytes = input.edited(golden.bytes);
    if forged {
        fix_pack_hashes(&mut bytes);
    }
    let verified = verify_pack(&SECRETS, &golden.name, &bytes);
    assert_eq!(verified.is_ok(), bytes == golden.bytes);
    if let Ok(directory) = open_pack_directory(&SECRETS, &golden.name, &bytes) {
        assert_eq!(directory, directory_of(golden.name, golden.bytes));
    }
}

/// Writes the block sums and hashes a pack with these lengths should have.
pub(super) fn fix_pack_hashes(bytes: &mut [u8]) {
    let Ok(trailer) = parse_trailer(bytes, bytes.len() as u64) else {
        return;
    };
    let (body, rest) = bytes.split_at_mut(trailer.body_len as usize);
    let (directory, rest) = rest.split_at_mut(trailer.directory_len as usize);
    let (sums, trailer) = rest.split_at_mut(rest.len() - TRAILER_LEN);
    for (block, sum) in body.chunks(BLOCK_LEN).zip(sums.as_chunks_mut().0) {
        *sum = Hash32::of(block).0;
    }
    let hashes = [&body[..HEADER_LEN], directory, sums].map(|part| Hash32::of(part).0);
    trailer[24..24 + 96].copy_from_slice(hashes.as_flattened());
}

fn directory_of(name: crate::format::PackName, bytes: &[u8]) -> Directory {
    verify_pack(&SECRETS, &name, bytes).expect("golden packs are intact")
}

/// As a get reads: the directory is known, and a blob's bytes come from a pack that changed since.
fn blobs_of_a_changed_pack(input: &mut Input<'_>) {
    let golden = input.choice(&PACKS);
    let directory = directory_of(golden.name, golden.bytes);
    let bytes = input.edited(golden.bytes);
    for entry in &directory.entries {
        let birth = &directory.births[usize::from(entry.birth)];
        let range = entry.offset as usize..entry.end() as usize;
        let written = &golden.bytes[range.clone()];
        let Some(found) = bytes.get(range) else {
            continue;
        };
        assert_eq!(read_blob(entry, birth, found).is_some(), found == written);
    }
}

/// As it is for who finds an entry or a birth in a damaged table.
fn blob_with_another_description(input: &mut Input<'_>) {
    let golden = input.choice(&PACKS);
    let directory = directory_of(golden.name, golden.bytes);
    let entry = input.choice(&directory.entries);
    let birth = &directory.births[usize::from(entry.birth)];
    let sealed = &golden.bytes[entry.offset as usize..entry.end() as usize];
    let written = read_blob(entry, birth, sealed);
    assert!(written.is_some());

    let (mut entry_bytes, mut birth_bytes) = (Vec::new(), Vec::new());
    entry.encode(&mut entry_bytes);
    birth.encode(&mut birth_bytes);
    if input.u8().is_multiple_of(2) {
        entry_bytes = input.edited(&entry_bytes);
    } else {
        birth_bytes = input.edited(&birth_bytes);
    }
    let entry = Entry::decode(&mut Reader::new("entry", &entry_bytes));
    let birth = Birth::decode(&mut Reader::new("birth", &birth_bytes));
    if let (Ok(entry), Ok(birth)) = (entry, birth) {
        let read = read_blob(&entry, &birth, sealed);
        assert!(read.is_none() || read == written, "another plaintext came back");
    }
}

/// Opens, decompresses and identifies a blob.
fn read_blob(entry: &Entry, birth: &Birth, sealed: &[u8]) -> Option<Vec<u8>> {
    let (mut sealed, mut out) = (sealed.to_vec(), vec![0; sealed.len().saturating_sub(TAG_LEN)]);
    let opener = BlobOpener::new(&SECRETS, birth).ok()?;
    let into = opener.open_into(entry, &sealed, &mut out).map(|()| &*out);
    let compressed = opener.open(entry, &mut sealed).map(|compressed| &*compressed);
    assert_eq!(into, compressed, "opened in place and into other bytes");
    let compressed = compressed.ok()?;
    let mut plain = Vec::new();
    Decompressor::new()
        .decompress(entry.codec, compressed, entry.plain_len as usize, &mut plain)
        .ok()?;
    let key = match entry.kind {
        BlobKind::Data => SECRETS.id_key().ok()?,
        BlobKind::Leaf => SECRETS.leaf_id_key(),
        BlobKind::Root => SECRETS.root_id_key(),
    };
    (key.id(&plain) == entry.id).then_some(plain)
}

/// Changed, or found under the name and as the kind of another.
fn checkpoint(input: &mut Input<'_>) {
    let golden = input.choice(&CHECKPOINTS);
    let (name, kind) = (input.choice(&CHECKPOINTS).name, input.choice(&CHECKPOINTS).kind);
    let bytes = input.edited(golden.bytes);
    let opened = open_checkpoint_file(&SECRETS, kind, &name, &bytes);
    let unchanged = bytes == golden.bytes && name == golden.name && kind == golden.kind;
    assert_eq!(opened.is_ok(), unchanged);
}

/// Three messages, the last one short.
static LARGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let GoldenCheckpoint { kind, name, .. } = CHECKPOINTS[2];
    seal_checkpoint_file(&SECRETS, kind, &name, vec![7; 2 * MESSAGE_LEN + 1])
});

/// Messages in another order, repeated, left out, cut.
fn messages_of_a_checkpoint(input: &mut Input<'_>) {
    let (header, sealed) = LARGE.split_at(CHECKPOINT_HEADER_LEN);
    let messages: Vec<_> = sealed.chunks(MESSAGE_LEN + TAG_LEN).collect();
    let mut file = header.to_vec();
    let count = input.u8() % 6;
    (0..count).for_each(|_| file.extend_from_slice(input.choice::<&[u8]>(&messages)));
    file.truncate(file.len() - input.below(file.len()));
    let opened = open_checkpoint_file(&SECRETS, CheckpointKind::Packs, &CHECKPOINTS[2].name, &file);
    assert_eq!(opened.is_ok(), file == *LARGE);
}

fn owner(input: &mut Input<'_>) {
    let bytes = input.edited(OWNER);
    assert_eq!(Owner::parse(&bytes).is_ok(), bytes == OWNER);
}
