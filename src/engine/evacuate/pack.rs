//! One pack, read as far as it can be, and compared with its hashes.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::backend::{Backend, Error as BackendError, ErrorKind};
use crate::catalog::PackRow;
use crate::engine::core::Core;
use crate::engine::error::Result;
use crate::format::pack::{BLOCK_LEN, TRAILER_LEN, damaged_blocks, parse_trailer};
use crate::format::{Hash32, Trailer};

/// Bytes read at a time of a pack that cannot be read in one go: whole blocks.
const WINDOW: u64 = 16 * BLOCK;
const BLOCK: u64 = BLOCK_LEN as u64;

/// A range of a pack that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    pub(super) range: Range<u64>,
    pub(super) problem: String,
}

/// A pack as it was read.
pub(super) struct Pack {
    /// As long as the pack should be; zeros where nothing could be read.
    pub(super) bytes: Bytes,
    /// What is wrong with it, in order.
    pub(super) flaws: Vec<Flaw>,
    /// Whether its directory can be read: else a copy is of no use to anybody.
    pub(super) is_useful: bool,
    /// Whether its blobs have nothing to be compared with but themselves.
    pub(super) lacks_sums: bool,
}

/// Reads a pack, in one go or, where that fails, in smaller ranges down to blocks; none if it is not there.
///
/// # Errors
/// What says nothing about the bytes: the backend does not answer, or refuses.
pub(super) async fn read(core: &Core, path: &str, row: &PackRow) -> Result<Option<Pack>> {
    let (mut bytes, unreadable) = match core.backend.get(path).await {
        Ok(bytes) if bytes.len() as u64 == row.size => (bytes, Vec::new()),
        Ok(bytes) => return Ok(Some(of_wrong_length(&bytes, row))),
        Err(error) => match error.kind() {
            ErrorKind::NotFound => return Ok(None),
            ErrorKind::Io | ErrorKind::Truncated => {
                tracing::warn!(path, %error, "a pack cannot be read in one go; reading it in parts");
                match read_in_parts(&core.backend, path, row.size).await? {
                    Some(parts) => parts,
                    None => return Ok(None),
                }
            }
            _ => return Err(error.into()),
        },
    };
    let mut examined = examine_on(core, &bytes, row, &unreadable).await?;
    // What was damaged on its way is whole the second time.
    let again = read_again(&core.backend, path, &bytes, &examined.flaws, &unreadable).await?;
    if let Some(again) = again {
        bytes = again;
        examined = examine_on(core, &bytes, row, &unreadable).await?;
    }
    Ok(Some(Pack { bytes, ..examined }))
}

/// Whether a pack at the target is the one of this row, by its length and trailer; with `sums`, by all of its bytes.
pub(super) async fn is_there(
    backend: &Backend,
    core: &Core,
    path: &str,
    row: &PackRow,
    closely: Closely,
) -> Result<bool> {
    let found = match closely {
        Closely::Trailer => backend.get_tail(path, TRAILER_LEN as u64).await,
        Closely::Bytes => backend.get(path).await.map(|bytes| {
            let size = bytes.len() as u64;
            (bytes, size)
        }),
    };
    let (bytes, size) = match found {
        Ok(found) => found,
        Err(error) => match error.kind() {
            // It is put once more.
            ErrorKind::NotFound | ErrorKind::Io | ErrorKind::Truncated => return Ok(false),
            _ => return Err(error.into()),
        },
    };
    if size != row.size {
        return Ok(false);
    }
    match closely {
        Closely::Trailer => {
            let trailer = parse_trailer(&bytes, size);
            Ok(trailer.is_ok_and(|trailer| trailer.hash() == row.trailer_hash))
        }
        Closely::Bytes => {
            let examined = examine_on(core, &bytes, row, &[]).await?;
            Ok(examined.flaws.is_empty())
        }
    }
}

/// How a pack at the target is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closely {
    /// Its length and trailer: for packs that were compared before they were put.
    Trailer,
    /// All of it.
    Bytes,
}

fn of_wrong_length(bytes: &Bytes, row: &PackRow) -> Pack {
    let found = bytes.len() as u64;
    Pack {
        bytes: bytes.clone(),
        flaws: vec![Flaw {
            range: 0..row.size,
            problem: format!("it has {found} bytes instead of {}", row.size),
        }],
        is_useful: false,
        lacks_sums: true,
    }
}

/// The pack with zeros where it cannot be read, and these ranges; none if it is not there.
async fn read_in_parts(backend: &Backend, path: &str, size: u64) -> Result<Option<(Bytes, Vec<Flaw>)>> {
    let mut bytes = BytesMut::zeroed(size as usize);
    let mut unreadable = Vec::new();
    let mut start = 0;
    while start < size {
        let window = start..size.min(start + WINDOW);
        start = window.end;
        match read_part(backend, path, &window).await? {
            Part::Bytes(part) => place(&mut bytes, &window, &part),
            Part::Missing => return Ok(None),
            Part::Unreadable(_) => {
                if !read_blocks(backend, path, &window, &mut bytes, &mut unreadable).await? {
                    return Ok(None);
                }
            }
        }
    }
    Ok(Some((bytes.freeze(), unreadable)))
}

/// Block by block; false if the pack is gone.
async fn read_blocks(
    backend: &Backend,
    path: &str,
    window: &Range<u64>,
    bytes: &mut BytesMut,
    unreadable: &mut Vec<Flaw>,
) -> Result<bool> {
    let mut start = window.start;
    while start < window.end {
        let block = start..window.end.min(start + BLOCK);
        start = block.end;
        match read_part(backend, path, &block).await? {
            Part::Bytes(part) => place(bytes, &block, &part),
            Part::Missing => return Ok(false),
            Part::Unreadable(problem) => add(unreadable, block, &format!("it cannot be read: {problem}")),
        }
    }
    Ok(true)
}

enum Part {
    Bytes(Bytes),
    Missing,
    Unreadable(String),
}

async fn read_part(backend: &Backend, path: &str, range: &Range<u64>) -> Result<Part> {
    match backend.get_range(path, range.clone()).await {
        Ok(part) => Ok(Part::Bytes(part)),
        Err(error) => match error.kind() {
            ErrorKind::NotFound => Ok(Part::Missing),
            ErrorKind::Io | ErrorKind::Truncated => Ok(Part::Unreadable(short(&error))),
            _ => Err(error.into()),
        },
    }
}

/// The same words for each range, so that neighbours can be told in one line.
fn short(error: &BackendError) -> String {
    match error.kind() {
        ErrorKind::Truncated => "the pack ends before it".to_owned(),
        _ => "the storage fails".to_owned(),
    }
}

fn place(bytes: &mut BytesMut, range: &Range<u64>, part: &[u8]) {
    bytes[range.start as usize..range.end as usize].copy_from_slice(part);
}

/// Reads once more what did not match. None if nothing changed.
async fn read_again(
    backend: &Backend,
    path: &str,
    bytes: &Bytes,
    flaws: &[Flaw],
    unreadable: &[Flaw],
) -> Result<Option<Bytes>> {
    let mut changed: Option<BytesMut> = None;
    let mismatched = flaws
        .iter()
        .filter(|flaw| !unreadable.iter().any(|other| overlap(&flaw.range, &other.range)));
    for flaw in mismatched {
        let range = flaw.range.start..flaw.range.end.min(bytes.len() as u64);
        if let Part::Bytes(part) = read_part(backend, path, &range).await?
            && part != bytes[range.start as usize..range.end as usize]
        {
            place(changed.get_or_insert_with(|| BytesMut::from(&bytes[..])), &range, &part);
        }
    }
    Ok(changed.map(BytesMut::freeze))
}

async fn examine_on(core: &Core, bytes: &Bytes, row: &PackRow, unreadable: &[Flaw]) -> Result<Pack> {
    let (bytes, row, unreadable) = (bytes.clone(), row.clone(), unreadable.to_vec());
    core.compute.run(move || examine(&bytes, &row, unreadable)).await
}

/// Compares a pack with what the log says of it, and with its own hashes.
fn examine(bytes: &Bytes, row: &PackRow, unreadable: Vec<Flaw>) -> Pack {
    let size = bytes.len() as u64;
    let useless = |range: Range<u64>, problem: String| {
        let mut flaws = unreadable.clone();
        if flaws.is_empty() {
            flaws.push(Flaw { range, problem });
        }
        Pack {
            bytes: bytes.clone(),
            flaws,
            is_useful: false,
            lacks_sums: true,
        }
    };
    let trailer = match parse_trailer(bytes, size) {
        Ok(trailer) => trailer,
        Err(error) => return useless(size.saturating_sub(TRAILER_LEN as u64)..size, error.to_string()),
    };
    if trailer.hash() != row.trailer_hash {
        return useless(0..size, "it is not the pack that the log introduced".to_owned());
    }
    let Some((directory, sums)) = trailer.split_tail(bytes) else {
        return useless(0..size, "its parts are longer than it is".to_owned());
    };
    if Hash32::of(directory) != trailer.directory_hash {
        return useless(
            trailer.directory_range(),
            "the directory does not match its hash".to_owned(),
        );
    }
    let mut pack = Pack {
        bytes: bytes.clone(),
        flaws: Vec::new(),
        is_useful: true,
        lacks_sums: Hash32::of(sums) != trailer.sums_hash,
    };
    if pack.lacks_sums {
        pack.flaws = unreadable;
        add(
            &mut pack.flaws,
            trailer.sums_range(),
            "the block sums do not match their hash",
        );
    } else {
        pack.flaws = body_flaws(bytes, sums, &trailer, &unreadable);
    }
    pack
}

fn body_flaws(bytes: &[u8], sums: &[u8], trailer: &Trailer, unreadable: &[Flaw]) -> Vec<Flaw> {
    let body = &bytes[..trailer.body_len as usize];
    let mut flaws = Vec::new();
    for block in damaged_blocks(sums, 0, body) {
        let range = block * BLOCK..trailer.body_len.min((block + 1) * BLOCK);
        let reason = unreadable.iter().find(|flaw| overlap(&flaw.range, &range));
        match reason {
            Some(flaw) => add(&mut flaws, range, &flaw.problem),
            None => add(&mut flaws, range, "it does not match its block sum"),
        }
    }
    flaws
}

/// Adds a range, joined to its neighbour before if they share the problem.
fn add(flaws: &mut Vec<Flaw>, range: Range<u64>, problem: &str) {
    match flaws.last_mut() {
        Some(last) if last.range.end == range.start && last.problem == problem => last.range.end = range.end,
        _ => flaws.push(Flaw {
            range,
            problem: problem.to_owned(),
        }),
    }
}

pub(super) fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}
