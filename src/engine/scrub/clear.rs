//! What can be checked without any key.

use crate::codec::RepositoryId;
use crate::engine::error::Result;
use crate::format::checkpoint::{CHECKPOINT_HEADER_LEN, CheckpointHeader, is_checkpoint_len};
use crate::format::marker::{Metadata, Owner};
use crate::format::names::{KeyringCopy, METADATA, PackName, parse_keyring};
use crate::format::{Error as FormatError, KeyringHeader, Layout, StoredName};

use super::body::check_blocks;
use super::cursor::Place;
use super::frame::Frame;
use super::report::Remedy;
use super::walk::{Read, Walk};
use crate::backend::Listed;

/// Bytes of a checkpoint file read at a time: nothing of it but its header means anything without a key.
const WINDOW: u64 = 1 << 20;

/// Every object of a repository, in the order of paths. Where it paused, if it did.
pub(super) async fn check_repository(walk: &Walk<'_>, layout: &Layout, id: RepositoryId) -> Result<Option<Place>> {
    let mut folders = vec![
        layout.checkpoints_prefix(),
        layout.keyrings_prefix(),
        layout.owners_prefix(),
    ];
    let packs = layout.packs_prefix();
    let directories = walk.backend.list_directories(&packs).await?;
    folders.extend(directories.iter().map(|directory| format!("{packs}/{directory}")));
    check_copies(walk, layout, id).await?;
    for folder in folders {
        for file in walk.backend.list(&folder, None).await? {
            if !walk.is_ahead(&file.path) {
                continue;
            }
            check_file(walk, &file, id).await?;
            let place = Place::Path(file.path);
            walk.reach(place.clone());
            if walk.is_over() {
                return Ok(Some(place));
            }
        }
    }
    Ok(None)
}

/// Keyrings, owner files and `metadata.yaml`.
pub(super) async fn check_small_files(walk: &Walk<'_>, layout: &Layout, id: RepositoryId) -> Result<()> {
    for prefix in [layout.keyrings_prefix(), layout.owners_prefix()] {
        for file in walk.backend.list(&prefix, None).await? {
            check_file(walk, &file, id).await?;
        }
    }
    check_copies(walk, layout, id).await
}

async fn check_file(walk: &Walk<'_>, file: &Listed, id: RepositoryId) -> Result<()> {
    let Some(name) = StoredName::parse(&file.path) else {
        walk.progress.unknown(&file.path);
        return Ok(());
    };
    walk.progress.update(|report| report.stored_objects += 1);
    match name {
        StoredName::Pack(_, name) => check_pack(walk, &file.path, id, &name).await,
        StoredName::Checkpoint(..) => check_checkpoint(walk, file, &name).await,
        // One for all repositories, checked with them.
        StoredName::Metadata => Ok(()),
        StoredName::Keyring(..) | StoredName::Owner(..) => {
            check_whole(walk, file, |bytes| check_small(&name, bytes)).await
        }
    }
}

async fn check_whole(
    walk: &Walk<'_>,
    file: &Listed,
    check: impl FnOnce(&[u8]) -> std::result::Result<(), FormatError>,
) -> Result<()> {
    match walk.read_all(&file.path, file.size).await? {
        Read::Missing => walk.progress.update(|report| report.vanished += 1),
        Read::Unreadable(problem) => walk.found(&file.path, 0..file.size, problem, Remedy::None),
        Read::Bytes(bytes) => {
            if let Err(error) = check(&bytes) {
                walk.found(&file.path, 0..bytes.len() as u64, error.to_string(), Remedy::None);
            }
        }
    }
    Ok(())
}

fn check_small(name: &StoredName, bytes: &[u8]) -> std::result::Result<(), FormatError> {
    let is_its_own = match name {
        StoredName::Keyring(repository, generation, _) => {
            let header = KeyringHeader::parse(bytes)?;
            (header.repository, header.generation) == (*repository, *generation)
        }
        StoredName::Owner(repository, epoch) => {
            let owner = Owner::parse(bytes)?;
            (owner.repository, owner.epoch) == (*repository, *epoch)
        }
        _ => true,
    };
    match is_its_own {
        true => Ok(()),
        false => Err(FormatError::Foreign {
            what: name.kind().as_str(),
            owner: "name",
        }),
    }
}

/// The newest keyring generation has two copies, which are the same.
async fn check_copies(walk: &Walk<'_>, layout: &Layout, id: RepositoryId) -> Result<()> {
    let files = walk.backend.list(&layout.keyrings_prefix(), None).await?;
    let newest = files.iter().filter_map(|file| parse_keyring(&file.path)).max();
    let Some((newest, _)) = newest else { return Ok(()) };
    let mut whole = Vec::new();
    for copy in [KeyringCopy::First, KeyringCopy::Second] {
        let path = layout.keyring(newest, copy);
        match files.iter().find(|file| file.path == path) {
            None => walk.found(&path, 0..0, "it is missing; its other copy is there", Remedy::None),
            Some(file) => {
                if let Read::Bytes(bytes) = walk.read_all(&path, file.size).await?
                    && check_small(&StoredName::Keyring(id, newest, copy), &bytes).is_ok()
                {
                    whole.push((path, bytes));
                }
            }
        }
    }
    if let [(_, first), (path, second)] = &whole[..]
        && first != second
    {
        let line = "it differs from its other copy, and both are whole";
        walk.found(path, 0..second.len() as u64, line, Remedy::None);
    }
    Ok(())
}

/// `metadata.yaml` of the store with one of these ids, or any if there are none.
pub(super) async fn check_metadata(walk: &Walk<'_>, store_ids: &[[u8; 16]]) -> Result<()> {
    walk.progress.update(|report| report.stored_objects += 1);
    match walk.read_all(METADATA, 0).await? {
        Read::Missing => walk.found(METADATA, 0..0, "it is missing", Remedy::None),
        Read::Unreadable(problem) => walk.found(METADATA, 0..0, problem, Remedy::None),
        Read::Bytes(bytes) => {
            walk.spend(bytes.len() as u64).await;
            let problem = match Metadata::parse(&bytes) {
                Err(error) => error.to_string(),
                Ok(metadata) if store_ids.is_empty() || store_ids.contains(&metadata.store_id) => return Ok(()),
                Ok(_) => "it belongs to another store".to_owned(),
            };
            walk.found(METADATA, 0..bytes.len() as u64, problem, Remedy::None);
        }
    }
    Ok(())
}

async fn check_checkpoint(walk: &Walk<'_>, file: &Listed, name: &StoredName) -> Result<()> {
    let mut start = 0;
    while start < file.size {
        let end = file.size.min(start + WINDOW);
        match walk.read(&file.path, start..end).await? {
            Read::Bytes(bytes) if start == 0 => check_checkpoint_header(walk, file, name, &bytes),
            Read::Bytes(_) => {}
            Read::Missing => {
                walk.progress.update(|report| report.vanished += 1);
                return Ok(());
            }
            Read::Unreadable(problem) => walk.found(&file.path, start..end, problem, Remedy::None),
        }
        start = end;
    }
    if !is_checkpoint_len(file.size) {
        let line = "its length is not one a checkpoint file has";
        walk.found(&file.path, 0..file.size, line, Remedy::None);
    }
    Ok(())
}

fn check_checkpoint_header(walk: &Walk<'_>, file: &Listed, name: &StoredName, bytes: &[u8]) {
    let header = 0..file.size.min(CHECKPOINT_HEADER_LEN as u64);
    match CheckpointHeader::parse(bytes) {
        Err(error) => walk.found(&file.path, header, error.to_string(), Remedy::None),
        Ok(found) if StoredName::Checkpoint(found.repository, found.name) != *name => {
            walk.found(&file.path, header, "it belongs to another checkpoint", Remedy::None);
        }
        Ok(_) => {}
    }
}

async fn check_pack(walk: &Walk<'_>, path: &str, id: RepositoryId, name: &PackName) -> Result<()> {
    let Some(frame) = Frame::read(walk, path, id, name).await? else {
        walk.progress.update(|report| report.vanished += 1);
        return Ok(());
    };
    walk.progress.update(|report| report.packs += 1);
    let blocks = check_blocks(walk, path, &frame).await?;
    for flaw in frame.flaws.into_iter().chain(blocks) {
        walk.found(path, flaw.range, flaw.problem, Remedy::None);
    }
    Ok(())
}
