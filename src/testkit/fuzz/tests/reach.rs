//! Parsers and openers that no body calls. Reads the sources as text: good enough for a formatted code base.
//!
//! What is found is a function whose name says that it reads bytes or text from outside, or an implementation of
//! `FromStr` or `TryFrom`. Each stands in [`REACHED`] with who calls it: a body, or another parser of the list. A new
//! parser fails the test until it is entered, and an entry fails when its caller does not name it any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Below `src`: what reads stored bytes, and what people and peers send.
const PLACES: [&str; 12] = [
    "format",
    "codec",
    "catalog",
    "keys",
    "config",
    "backend/location.rs",
    "engine/error.rs",
    "engine/scrub/cursor.rs",
    "engine/scrub/report.rs",
    "service/convert",
    "service/errors.rs",
    "engine/keyrings.rs",
];

/// How the names of functions begin that read something from outside.
const VERBS: [&str; 9] = [
    "parse",
    "decode",
    "open",
    "decompress",
    "verify",
    "damaged_blocks",
    "from_word",
    "from_stored",
    "kek_in",
];

/// Reads no bytes itself: what it opens is a place.
const PLACES_OPENED: [&str; 9] = [
    "catalog/embedded.rs EmbeddedTables::open",
    "catalog/embedded.rs EmbeddedTables::open_beside",
    "catalog/embedded.rs Inner::open_anew",
    "catalog/embedded.rs open_database",
    "catalog/embedded.rs open_tables",
    "catalog/mod.rs Catalog::open",
    "catalog/mod.rs Catalog::open_beside",
    "engine/keyrings.rs open_keyring",
    "config/place.rs Place::opened_with",
];

/// A parser; the file that calls it, below `src`; and how it does.
const REACHED: &[(&str, &str, &str)] = &[
    (
        "backend/location.rs FromStr for Location",
        "testkit/fuzz/texts.rs",
        "reads_back::<Location>(text)",
    ),
    (
        "backend/location.rs parse_file",
        "backend/location.rs",
        "=> parse_file(",
    ),
    (
        "backend/location.rs parse_memory",
        "backend/location.rs",
        "=> parse_memory(",
    ),
    ("backend/location.rs parse_s3", "backend/location.rs", "=> parse_s3("),
    (
        "catalog/mod.rs ModeRow::decode",
        "catalog/mod.rs",
        "ModeRow::decode(&bytes)",
    ),
    (
        "catalog/repository.rs open_page",
        "catalog/repository.rs",
        "open_page(&self.sealer",
    ),
    (
        "catalog/sealed.rs RowKey::from_stored",
        "catalog/repository.rs",
        "RowKey::from_stored(table",
    ),
    (
        "catalog/sealed.rs RowSealer::open",
        "catalog/repository.rs",
        "sealer.open(table",
    ),
    (
        "codec/compression.rs Decompressor::decompress",
        "testkit/fuzz/compression.rs",
        "decompressor.decompress(",
    ),
    (
        "codec/compression.rs Decompressor::decompress_into",
        "testkit/fuzz/compression.rs",
        "decompressor.decompress_into(",
    ),
    (
        "codec/compression.rs TryFrom<u8> for Codec",
        "format/directory.rs",
        "Codec::try_from(",
    ),
    (
        "codec/derivation.rs FromStr for RepositoryId",
        "testkit/fuzz/names.rs",
        "check_text::<RepositoryId>(text)",
    ),
    ("codec/sealing.rs SealingKey::open", "format/pack.rs", ".open("),
    (
        "codec/sealing.rs SealingKey::open_into",
        "format/pack.rs",
        "key.open_into(",
    ),
    (
        "codec/sealing/siv.rs SivKey::open",
        "catalog/sealed.rs",
        ".open(key.nonce()",
    ),
    (
        "config/serve/address.rs FromStr for Address",
        "testkit/fuzz/service.rs",
        "reads_back::<Address>(text)",
    ),
    (
        "config/serve/address.rs FromStr for HostPort",
        "testkit/fuzz/service.rs",
        "reads_back::<HostPort>(text)",
    ),
    (
        "config/serve/address.rs HostPort::parse",
        "config/serve/address.rs",
        "Self::parse(text, None)",
    ),
    (
        "config/serve/read.rs parsed",
        "config/serve/mod.rs",
        "parsed(GRPC_DEFAULT)",
    ),
    (
        "config/size.rs FromStr for Size",
        "testkit/fuzz/texts.rs",
        "parse::<Size>()",
    ),
    ("config/size.rs parse", "config/size.rs", "parse(text).map(Self)"),
    (
        "engine/error.rs Reason::from_word",
        "testkit/fuzz/texts.rs",
        "Reason::from_word(text)",
    ),
    (
        "engine/scrub/cursor.rs FromStr for ScrubCursor",
        "testkit/fuzz/texts.rs",
        "reads_back::<ScrubCursor>(text)",
    ),
    (
        "engine/scrub/cursor.rs parse",
        "engine/scrub/cursor.rs",
        "parse(text).ok_or_else",
    ),
    (
        "engine/scrub/report.rs FromStr for Depth",
        "testkit/fuzz/texts.rs",
        "one_spelling::<Depth>(text)",
    ),
    (
        "format/checkpoint.rs CheckpointHeader::parse",
        "testkit/fuzz/structures.rs",
        "CheckpointHeader::parse(bytes)",
    ),
    (
        "format/checkpoint.rs CheckpointRoot::decode",
        "testkit/fuzz/structures.rs",
        "CheckpointRoot::decode(bytes)",
    ),
    (
        "format/checkpoint.rs ObjectSegment::decode",
        "testkit/fuzz/structures.rs",
        "ObjectSegment::decode(bytes)",
    ),
    (
        "format/checkpoint.rs PackSegment::decode",
        "testkit/fuzz/structures.rs",
        "PackSegment::decode(bytes)",
    ),
    (
        "format/checkpoint.rs TryFrom<u8> for CheckpointKind",
        "format/checkpoint.rs",
        "CheckpointKind::try_from(",
    ),
    (
        "format/checkpoint.rs open_checkpoint_file",
        "testkit/fuzz/damage.rs",
        "open_checkpoint_file(&SECRETS",
    ),
    (
        "format/directory.rs Birth::decode",
        "testkit/fuzz/damage.rs",
        "Birth::decode(&mut",
    ),
    (
        "format/directory.rs Directory::decode",
        "testkit/fuzz/structures.rs",
        "Directory::decode(bytes",
    ),
    (
        "format/directory.rs Entry::decode",
        "testkit/fuzz/damage.rs",
        "Entry::decode(&mut",
    ),
    (
        "format/directory.rs TryFrom<u8> for BlobKind",
        "format/directory.rs",
        "BlobKind::try_from(",
    ),
    (
        "format/keyring.rs KeyringHeader::open_section",
        "format/keyring.rs",
        "header.open_section(bytes",
    ),
    (
        "format/keyring.rs KeyringHeader::parse",
        "testkit/fuzz/damage.rs",
        "KeyringHeader::parse(&bytes)",
    ),
    (
        "format/keyring.rs SectionSecrets::decode",
        "format/keyring.rs",
        "SectionSecrets::decode(&mut reader)",
    ),
    (
        "format/keyring.rs Shared::decode_section",
        "format/keyring.rs",
        "Shared::decode_section(plain)",
    ),
    (
        "format/keyring.rs WrappedSection::parse",
        "format/keyring.rs",
        "WrappedSection::parse(Section::Data",
    ),
    (
        "format/keyring.rs decode_level",
        "format/keyring.rs",
        "decode_level(&mut reader)",
    ),
    (
        "format/keyring.rs open_keyring",
        "testkit/fuzz/damage.rs",
        "open_keyring(&bytes, &KEK)",
    ),
    (
        "format/keyring.rs open_keyring_directory",
        "testkit/fuzz/damage.rs",
        "open_keyring_directory(&bytes, &KEK)",
    ),
    (
        "format/manifest.rs Leaf::decode",
        "testkit/fuzz/structures.rs",
        "Leaf::decode(bytes)",
    ),
    (
        "format/manifest.rs LeafRef::decode",
        "format/manifest.rs",
        "LeafRef::decode)",
    ),
    (
        "format/manifest.rs Root::decode",
        "testkit/fuzz/structures.rs",
        "Root::decode(bytes)",
    ),
    (
        "format/marker.rs Metadata::parse",
        "testkit/fuzz/names.rs",
        "Metadata::parse(data)",
    ),
    (
        "format/marker.rs Owner::parse",
        "testkit/fuzz/structures.rs",
        "Owner::parse(&bytes)",
    ),
    (
        "format/names.rs CheckpointName::decode",
        "format/checkpoint.rs",
        "CheckpointName::decode(",
    ),
    (
        "format/names.rs FromStr for $name",
        "testkit/fuzz/names.rs",
        "check_text::<ObjectName>(text)",
    ),
    (
        "format/names.rs FromStr for Hash32",
        "testkit/fuzz/names.rs",
        "check_text::<Hash32>(text)",
    ),
    (
        "format/names.rs PackName::decode",
        "format/record.rs",
        "PackName::decode",
    ),
    (
        "format/names.rs StoredName::parse",
        "testkit/fuzz/names.rs",
        "StoredName::parse(path)",
    ),
    (
        "format/names.rs parse_checkpoint",
        "testkit/fuzz/names.rs",
        "parse_checkpoint(path)",
    ),
    ("format/names.rs parse_hex32", "format/names.rs", "parse_hex32(id)"),
    ("format/names.rs parse_hex64", "format/names.rs", "parse_hex64(first)"),
    (
        "format/names.rs parse_keyring",
        "testkit/fuzz/names.rs",
        "parse_keyring(path)",
    ),
    (
        "format/names.rs parse_numbered",
        "format/names.rs",
        "parse_numbered(segment)",
    ),
    (
        "format/names.rs parse_owner",
        "testkit/fuzz/names.rs",
        "parse_owner(path)",
    ),
    (
        "format/names.rs parse_pack",
        "testkit/fuzz/names.rs",
        "parse_pack(path)",
    ),
    (
        "format/pack.rs BlobOpener::open",
        "testkit/fuzz/damage.rs",
        "opener.open(entry",
    ),
    (
        "format/pack.rs BlobOpener::open_into",
        "testkit/fuzz/damage.rs",
        "opener.open_into(entry",
    ),
    (
        "format/pack.rs TryFrom<u8> for PackKind",
        "format/pack.rs",
        "PackKind::try_from(",
    ),
    (
        "format/pack.rs damaged_blocks",
        "testkit/fuzz/structures.rs",
        "damaged_blocks(sums",
    ),
    (
        "format/pack.rs open_directory",
        "format/pack.rs",
        "open_directory(secrets",
    ),
    (
        "format/pack.rs open_pack_directory",
        "testkit/fuzz/damage.rs",
        "open_pack_directory(&SECRETS",
    ),
    (
        "format/pack.rs parse_header",
        "testkit/fuzz/structures.rs",
        "parse_header(bytes)",
    ),
    (
        "format/pack.rs parse_trailer",
        "testkit/fuzz/structures.rs",
        "parse_trailer(bytes",
    ),
    (
        "format/pack.rs verify_block_sums",
        "testkit/fuzz/structures.rs",
        "verify_block_sums(sums",
    ),
    (
        "format/pack.rs verify_pack",
        "testkit/fuzz/damage.rs",
        "verify_pack(&SECRETS",
    ),
    ("keys/file.rs kek_in", "testkit/fuzz/texts.rs", "kek_in(&contents)"),
    ("keys/file.rs parse", "keys/file.rs", "parse(Path::new"),
    (
        "format/checkpoint.rs KeyRange::decode",
        "format/checkpoint.rs",
        "KeyRange::decode(",
    ),
    (
        "format/checkpoint.rs PackTableRow::decode",
        "format/checkpoint.rs",
        "PackTableRow::decode)",
    ),
    (
        "format/checkpoint.rs PutIdEntry::decode",
        "format/checkpoint.rs",
        "PutIdEntry::decode)",
    ),
    (
        "format/checkpoint.rs SegmentRef::decode",
        "format/checkpoint.rs",
        "SegmentRef::decode)",
    ),
    (
        "format/directory.rs CommitSection::decode",
        "format/directory.rs",
        "CommitSection::decode(",
    ),
    (
        "format/record.rs ChunkRef::decode",
        "format/manifest.rs",
        "ChunkRef::decode)",
    ),
    (
        "format/record.rs ObjectVersion::decode",
        "format/checkpoint.rs",
        "ObjectVersion::decode)",
    ),
    (
        "format/record.rs PackRef::decode",
        "format/record.rs",
        "PackRef::decode)",
    ),
    (
        "format/record.rs Record::decode",
        "testkit/fuzz/structures.rs",
        "Record::decode(&mut reader)",
    ),
    (
        "format/record.rs Record::decode_body",
        "format/record.rs",
        "Self::decode_body(",
    ),
    ("format/record.rs Tip::decode", "format/record.rs", "Tip::decode("),
    (
        "format/record.rs decode_content",
        "format/record.rs",
        "decode_content(reader)?",
    ),
    (
        "format/record.rs decode_metadata",
        "format/record.rs",
        "decode_metadata(reader)?",
    ),
    ("codec/sealing.rs open", "codec/sealing.rs", "aws_lc::open(key"),
    (
        "codec/sealing.rs open_into",
        "codec/sealing.rs",
        "aws_lc::open_into(key",
    ),
    (
        "service/convert/decommission.rs TryFrom<proto::EvacuateLost> for Lost",
        "service/convert/decommission.rs",
        "map(Lost::try_from)",
    ),
    (
        "service/convert/decommission.rs TryFrom<proto::EvacuateReport> for EvacuateReport",
        "testkit/fuzz/service.rs",
        "EvacuateReport::try_from",
    ),
    (
        "service/convert/object.rs TryFrom<proto::PutResult> for PutOutcome",
        "testkit/fuzz/service.rs",
        "PutOutcome::try_from",
    ),
    (
        "service/convert/repository.rs TryFrom<proto::CreateRequest> for NewRepository",
        "testkit/fuzz/service.rs",
        "NewRepository::try_from",
    ),
    (
        "service/convert/scrub.rs TryFrom<&proto::ScrubWork> for ScrubOptions",
        "testkit/fuzz/service.rs",
        "ScrubOptions::try_from",
    ),
    (
        "service/convert/scrub.rs TryFrom<proto::ScrubDamage> for Damage",
        "service/convert/scrub.rs",
        "map(Damage::try_from)",
    ),
    (
        "service/convert/scrub.rs TryFrom<proto::ScrubReport> for ScrubReport",
        "testkit/fuzz/service.rs",
        "ScrubReport::try_from",
    ),
    (
        "service/convert/status.rs TryFrom<proto::Status> for Status",
        "testkit/fuzz/service.rs",
        "Status::try_from",
    ),
];

#[test]
fn every_parser_is_called_by_a_body() {
    let found = parsers();
    let entered: BTreeSet<_> = REACHED.iter().map(|(parser, ..)| (*parser).to_owned()).collect();
    assert_eq!(entered.len(), REACHED.len(), "a parser is entered twice");
    let missing: Vec<_> = found.difference(&entered).collect();
    assert!(missing.is_empty(), "no body is known to call {missing:#?}");
    let gone: Vec<_> = entered.difference(&found).collect();
    assert!(gone.is_empty(), "there is no {gone:#?}");
}

#[test]
fn the_callers_call() {
    let mut read = BTreeMap::new();
    for (parser, caller, call) in REACHED {
        let code = read.entry(*caller).or_insert_with(|| code(&src().join(caller)));
        assert!(code.contains(call), "{caller} does not call {parser} as {call}");
    }
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// A file up to its tests, if they are in it: they stand last.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let not_tests = entries.filter(|path| !path.ends_with("tests") && !path.ends_with("tests.rs"));
    not_tests.flat_map(|path| files(&path)).collect()
}

/// As `format/record.rs Record::decode`.
fn parsers() -> BTreeSet<String> {
    let mut parsers = BTreeSet::new();
    for path in PLACES.iter().flat_map(|place| files(&src().join(place))) {
        let file = path.strip_prefix(src()).unwrap().display().to_string();
        let mut of = None;
        for line in code(&path).lines() {
            if let Some(found) = line.trim_start().strip_prefix("impl") {
                let subject = subject(found);
                let is_reader = ["FromStr for ", "TryFrom<"].iter().any(|of| subject.starts_with(of));
                parsers.extend(is_reader.then(|| format!("{file} {subject}")));
                of = Some(subject).filter(|subject| !subject.contains(" for "));
            } else if line == "}" {
                of = None;
            }
            let is_method = line.starts_with(' ');
            let Some(name) = function(line).filter(|name| VERBS.iter().any(|verb| name.starts_with(verb))) else {
                continue;
            };
            parsers.insert(match &of {
                Some(of) if is_method => format!("{file} {of}::{name}"),
                _ => format!("{file} {name}"),
            });
        }
    }
    parsers.retain(|parser| !PLACES_OPENED.contains(&parser.as_str()));
    parsers
}

/// What an `impl` is about, without generics of the `impl` itself.
fn subject(rest: &str) -> String {
    let rest = match rest.strip_prefix('<') {
        Some(generics) => generics.split_once('>').map_or("", |(_, rest)| rest),
        None => rest,
    };
    let subject = rest.trim().trim_end_matches('{').trim();
    subject
        .replace("std::str::", "")
        .replace("<'_>", "")
        .replace("<'a>", "")
}

/// The name of the function that a line begins.
fn function(line: &str) -> Option<&str> {
    let (before, rest) = line.split_once("fn ")?;
    let is_definition = before
        .trim()
        .split(' ')
        .all(|word| word.is_empty() || word == "async" || word == "const" || word.starts_with("pub"));
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_'))?;
    is_definition.then(|| &rest[..end])
}
