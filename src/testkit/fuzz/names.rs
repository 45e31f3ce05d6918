//! What people and listings give.

use std::fmt::Display;
use std::str::FromStr;

use crate::codec::RepositoryId;
use crate::format::marker::Metadata;
use crate::format::names::{parse_checkpoint, parse_keyring, parse_owner, parse_pack};
use crate::format::{Hash32, Layout, ObjectName, RepositoryName, StoredKind, StoredName};

const LAYOUT_OF: RepositoryId = RepositoryId([0xab; 16]);

/// A path that is taken for that of an object ends as that object's path does; a name that is taken is the text given.
pub fn names(data: &[u8]) {
    let by_bytes = ObjectName::from_bytes(data);
    let Ok(text) = std::str::from_utf8(data) else {
        assert!(by_bytes.is_err());
        return;
    };
    assert_eq!(by_bytes, ObjectName::new(text));
    check_text::<ObjectName>(text);
    check_text::<RepositoryName>(text);
    check_text::<RepositoryId>(text);
    check_text::<Hash32>(text);
    check_path(text);
}

/// There is one spelling of a name.
fn check_text<T: FromStr + Display>(text: &str) {
    if let Ok(name) = text.parse::<T>() {
        assert_eq!(name.to_string(), text);
    }
}

fn check_path(path: &str) {
    if let Some(name) = StoredName::parse(path) {
        assert_eq!(name.path(), path);
        assert!(StoredKind::ALL.contains(&name.kind()));
    }
    let layout = Layout::new(LAYOUT_OF);
    let last = |path: &str| path.rsplit('/').next().map(str::to_owned);
    if let Some(name) = parse_pack(path) {
        let stored = layout.pack(&name);
        assert_eq!(last(&stored), last(path));
        assert_eq!(parse_pack(&stored), Some(name));
    }
    if let Some(name) = parse_checkpoint(path) {
        assert_eq!(last(&layout.checkpoint(&name)), last(path));
    }
    if let Some(epoch) = parse_owner(path) {
        assert_eq!(last(&layout.owner(epoch)), last(path));
    }
    if let Some((generation, copy)) = parse_keyring(path) {
        assert_eq!(last(&layout.keyring(generation, copy)), last(path));
    }
}

/// Whatever `metadata.yaml` says, reading it ends in values or an error; values that are plain are written and read again.
pub fn metadata(data: &[u8]) {
    let Ok(metadata) = Metadata::parse(data) else {
        return;
    };
    let is_time = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | ':' | '.' | '+');
    if metadata.created.chars().all(is_time) {
        assert_eq!(Metadata::parse(&metadata.encode()).as_ref(), Ok(&metadata));
    }
}
