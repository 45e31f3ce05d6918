//! Fetching a window: blobs that lie together in a pack come in one request, and are opened on the CPU pool.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;

use super::plan::{Place, Wanted};
use crate::codec::{ChunkId, Decompressor};
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason};
use crate::format::{BlobOpener, PackName, PackNumber};

/// Bytes between two blobs that are fetched along rather than leaving a gap: a request costs more than they do.
const GAP_MAX: u64 = 64 * 1024;

/// A failure to read chunks of a pack, with what is needed to quarantine them.
pub(crate) struct Failed {
    pub(crate) error: Error,
    pub(crate) damaged: Option<(PackNumber, Vec<(ChunkId, u32)>)>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, damaged: None }
    }
}

/// One request: a range of a pack that holds some of a window's blobs.
struct Request {
    pack: PackName,
    start: u64,
    end: u64,
    /// Positions in the window.
    members: Vec<usize>,
}

/// Reads the chunks of a window: the wanted part of each, authenticated, in order.
pub(crate) async fn fetch(
    core: Arc<Core>,
    window: Vec<Wanted>,
    places: Vec<Place>,
) -> std::result::Result<Vec<Bytes>, Failed> {
    let requests = group(&places);
    let reads = requests.iter().map(|request| read(&core, request, &window, &places));
    let fetched = try_join_all(reads).await?;
    let shared = core.clone();
    let work = move || {
        let mut parts = vec![Bytes::new(); window.len()];
        let mut opener = Opener::new(&shared);
        let mut copied = Vec::new();
        for (request, bytes) in requests.iter().zip(fetched) {
            let mut bytes = Vec::from(bytes);
            for (at, &member) in request.members.iter().enumerate() {
                // A chunk that occurs twice in the window is opened twice: until then its ciphertext stays as it is.
                let next = request.members.get(at + 1);
                let is_last = next.is_none_or(|&next| places[next].index != places[member].index);
                let sealed = &mut bytes[places[member].within(request)];
                let sealed = if is_last {
                    sealed
                } else {
                    copied.clear();
                    copied.extend_from_slice(sealed);
                    &mut copied
                };
                parts[member] = opener.open(&window[member], &places[member], sealed)?;
            }
        }
        Ok(parts)
    };
    core.compute.run(work).await?
}

async fn read(
    core: &Core,
    request: &Request,
    window: &[Wanted],
    places: &[Place],
) -> std::result::Result<Bytes, Failed> {
    let path = core.layout.pack(&request.pack);
    let error = match core.backend.get_range(&path, request.start..request.end).await {
        Ok(bytes) => return Ok(bytes),
        Err(error) => Error::from(error),
    };
    if error.reason() != Reason::DataLoss {
        return Err(error.into());
    }
    // Missing or cut short. Whether all of them are lost, each would tell by itself; to be put again does none harm.
    let first = request.members.iter().map(|&member| window[member].offset).min();
    let members = request.members.iter();
    let damaged = members.map(|&member| (window[member].chunk.id, places[member].index as u32));
    Err(Failed {
        error: error.within(format!(
            "offset {} (pack {path}): the pack is missing or too short",
            first.unwrap_or_default()
        )),
        damaged: Some((request.pack.number, damaged.collect())),
    })
}

/// Groups a window's blobs into requests: neighbours in one pack come together.
fn group(places: &[Place]) -> Vec<Request> {
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by_key(|&member| {
        (
            places[member].pack,
            places[member].entries.entries[places[member].index].offset,
        )
    });
    let mut requests: Vec<Request> = Vec::new();
    for member in order {
        let place = &places[member];
        let entry = &place.entries.entries[place.index];
        let start = u64::from(entry.offset);
        let end = entry.end();
        match requests.last_mut() {
            Some(last) if last.pack == place.pack && start <= last.end + GAP_MAX => {
                last.end = last.end.max(end);
                last.members.push(member);
            }
            _ => requests.push(Request {
                pack: place.pack,
                start,
                end,
                members: vec![member],
            }),
        }
    }
    requests
}

impl Place {
    /// Where the blob lies in what was read.
    fn within(&self, request: &Request) -> Range<usize> {
        let entry = &self.entries.entries[self.index];
        let from = (u64::from(entry.offset) - request.start) as usize;
        from..from + entry.stored_len as usize
    }
}

/// Opens blobs, keeping the keys of packs it has met.
struct Opener<'a> {
    core: &'a Core,
    keys: HashMap<(PackNumber, u16), BlobOpener>,
    decompressor: Decompressor,
}

impl<'a> Opener<'a> {
    fn new(core: &'a Core) -> Self {
        Self {
            core,
            keys: HashMap::new(),
            decompressor: Decompressor::new(),
        }
    }

    fn open(&mut self, wanted: &Wanted, place: &Place, sealed: &mut [u8]) -> std::result::Result<Bytes, Failed> {
        let entry = &place.entries.entries[place.index];
        let failed = |error: Error| Failed {
            error: error.within(format!(
                "offset {} (pack {})",
                wanted.offset,
                self.core.layout.pack(&place.pack)
            )),
            damaged: Some((place.pack.number, vec![(wanted.chunk.id, place.index as u32)])),
        };
        let key = (place.pack.number, entry.birth);
        if !self.keys.contains_key(&key) {
            let birth = &place.entries.births[entry.birth as usize];
            let opener = BlobOpener::new(&self.core.secrets, birth).map_err(|error| failed(error.into()))?;
            self.keys.insert(key, opener);
        }
        let compressed = self.keys[&key]
            .open(entry, sealed)
            .map_err(|error| failed(error.into()))?;
        let mut plain = Vec::with_capacity(entry.plain_len as usize);
        self.decompressor
            .decompress(entry.codec, compressed, entry.plain_len as usize, &mut plain)
            .map_err(|error| failed(Error::data_loss(error.to_string()).caused_by(error)))?;
        let id = self.core.secrets.id_key().map_err(Error::from)?.id(&plain);
        if id != wanted.chunk.id || plain.len() != wanted.chunk.len as usize {
            return Err(failed(Error::data_loss("a chunk does not match its id")));
        }
        Ok(Bytes::from(plain).slice(wanted.part.clone()))
    }
}
