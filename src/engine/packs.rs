//! Reading the structure of packs: headers, directories, manifests. No data key is needed here.

use std::collections::HashMap;

use bytes::Bytes;

use super::core::Core;
use super::error::{Error, Result};
use crate::backend::ErrorKind;
use crate::codec::{ChunkId, Decompressor};
use crate::format::pack::{HEADER_LEN, PACK_TAIL_GUESS, open_directory, parse_header, parse_trailer, restore_header};
use crate::format::{Birth, BlobKind, BlobOpener, Directory, Entry, Leaf, PackKind, PackName, PackRef, Root};

/// What a pack's header says.
pub(crate) struct PackHead {
    pub(crate) name: PackName,
    pub(crate) kind: PackKind,
}

/// Reads the header of a pack of `size` bytes. None if it has gone since it was listed: its owner reclaimed it, and
/// whoever needs it for the log finds it missing there.
///
/// # Errors
/// `DataLoss` if it is not the header of this pack.
pub(crate) async fn read_head(core: &Core, name: PackName, size: u64) -> Result<Option<PackHead>> {
    let path = core.layout.pack(&name);
    let len = size.min(HEADER_LEN as u64);
    let bytes = match core.backend.get_range(&path, 0..len).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::from(error).within("reading the log")),
    };
    let header = parse_header(&bytes).map_err(|error| damaged(&path, error))?;
    if header.id != name.id {
        return Err(Error::data_loss(format!(
            "{path}: its header belongs to another pack; the file was moved or replaced"
        )));
    }
    Ok(Some(PackHead {
        name,
        kind: header.kind,
    }))
}

/// A pack as its last bytes show it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) pack: PackRef,
    pub(crate) kind: PackKind,
    pub(crate) directory: Directory,
    /// Its block sums, which its directory vouches for.
    pub(crate) sums: Bytes,
    /// Bytes at its end that were needed to know it.
    pub(crate) tail_len: u64,
}

/// Reads and opens the directory of a pack: its tail, in one request if that suffices.
pub(crate) async fn read_directory(core: &Core, name: &PackName) -> Result<(PackRef, Directory)> {
    let known = read_known(core, name).await?;
    Ok((known.pack, known.directory))
}

/// What a pack of unknown length is.
pub(crate) async fn read_known(core: &Core, name: &PackName) -> Result<Known> {
    core.revocation.check()?;
    let (tail, size) = core.backend.get_tail(&core.layout.pack(name), PACK_TAIL_GUESS).await?;
    open_tail(core, name, size, tail).await
}

/// As [`read_known`], of a pack of `size` bytes, by reading about `guess` bytes first.
pub(crate) async fn read_known_of(core: &Core, name: &PackName, size: u64, guess: u64) -> Result<Known> {
    core.revocation.check()?;
    let start = size.saturating_sub(guess);
    let tail = core.backend.get_range(&core.layout.pack(name), start..size).await?;
    open_tail(core, name, size, tail).await
}

/// Opens a pack whose last bytes are `tail`. What these bytes do not have is read.
async fn open_tail(core: &Core, name: &PackName, size: u64, mut tail: Bytes) -> Result<Known> {
    let path = core.layout.pack(name);
    let trailer = parse_trailer(&tail, size).map_err(|error| damaged(&path, error))?;
    if trailer.tail_len() > tail.len() as u64 {
        let start = size - trailer.tail_len();
        tail = core.backend.get_range(&path, start..size).await?;
    }
    let header = match tail.len() as u64 == size {
        true => tail.slice(..HEADER_LEN),
        false => match restore_header(&core.secrets, name, &trailer) {
            Some(header) => Bytes::copy_from_slice(&header),
            None => core.backend.get_range(&path, 0..HEADER_LEN as u64).await?,
        },
    };
    let (secrets, name) = (core.secrets.clone(), *name);
    let open = move || {
        let (sealed, sums) = trailer.split_tail(&tail).expect("as long as the trailer says");
        let sums = Bytes::copy_from_slice(sums);
        let kind = parse_header(&header)?.kind;
        Ok(Known {
            pack: PackRef {
                name,
                size,
                trailer_hash: trailer.hash(),
            },
            kind,
            directory: open_directory(&secrets, &name, &header, &trailer, sealed, &sums)?,
            sums,
            tail_len: trailer.tail_len(),
        })
    };
    let opened: std::result::Result<_, crate::format::Error> = core.compute.run(open).await?;
    opened.map_err(|error| damaged(&path, error))
}

/// The children of every leaf and root stored in a pack.
pub(crate) async fn read_children(
    core: &Core,
    name: &PackName,
    directory: &Directory,
) -> Result<HashMap<ChunkId, Vec<ChunkId>>> {
    let mut children = HashMap::new();
    for entry in directory.entries.iter().filter(|entry| entry.kind != BlobKind::Data) {
        let birth = &directory.births[entry.birth as usize];
        let plain = read_manifest(core, name, entry, birth).await?;
        children.insert(
            entry.id,
            children_of(entry.kind, &plain).map_err(|error| damaged(&core.layout.pack(name), error))?,
        );
    }
    Ok(children)
}

/// Reads one leaf or root and checks that it is the one its id names.
pub(crate) async fn read_manifest(core: &Core, pack: &PackName, entry: &Entry, birth: &Birth) -> Result<Vec<u8>> {
    core.revocation.check()?;
    let path = core.layout.pack(pack);
    let start = u64::from(entry.offset);
    let sealed = core
        .backend
        .get_range(&path, start..start + u64::from(entry.stored_len))
        .await?;
    open_manifest(core, &path, entry, birth, sealed)
}

/// Opens one leaf or root and checks that it is the one its id names.
pub(crate) fn open_manifest(core: &Core, path: &str, entry: &Entry, birth: &Birth, sealed: Bytes) -> Result<Vec<u8>> {
    let opener = BlobOpener::new(&core.secrets, birth).map_err(|error| damaged(path, error))?;
    let mut sealed = Vec::from(sealed);
    let compressed = opener.open(entry, &mut sealed).map_err(|error| damaged(path, error))?;
    let mut plain = Vec::new();
    Decompressor::new()
        .decompress(entry.codec, compressed, entry.plain_len as usize, &mut plain)
        .map_err(|error| damaged(path, error))?;
    let key = match entry.kind {
        BlobKind::Root => core.secrets.root_id_key(),
        _ => core.secrets.leaf_id_key(),
    };
    if key.id(&plain) != entry.id {
        return Err(Error::data_loss(format!(
            "{path}: a manifest at offset {} does not match its id",
            entry.offset
        )));
    }
    Ok(plain)
}

/// What a leaf or root refers to.
pub(crate) fn children_of(kind: BlobKind, plain: &[u8]) -> std::result::Result<Vec<ChunkId>, crate::format::Error> {
    Ok(match kind {
        BlobKind::Root => Root::decode(plain)?.leaves.iter().map(|leaf| leaf.id).collect(),
        _ => Leaf::decode(plain)?.chunks.iter().map(|chunk| chunk.id).collect(),
    })
}

/// Damage found in the stored object at `path`.
pub(crate) fn damaged(path: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::data_loss(format!("{path}: {error}")).caused_by(error)
}
