//! Fetching a window: blobs that lie together in a pack come in one request, and are opened on the CPU pool, if they are not short.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;

use super::plan::{Place, Wanted};
use crate::codec::{ChunkId, Codec, Decompressor, TAG_LEN};
use crate::engine::compute::{SHORT_BYTES, caught};
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason, Result};
use crate::format::{BlobOpener, Entry, PackName, PackNumber};

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

/// A window that was read.
pub(crate) struct Opened {
    /// What is wanted of it.
    pub(crate) bytes: Bytes,
    /// Memory that these keep.
    pub(crate) held_bytes: usize,
}

/// Reads the chunks of a window and authenticates them.
pub(crate) async fn fetch(
    core: Arc<Core>,
    window: Vec<Wanted>,
    places: Vec<Place>,
) -> std::result::Result<Opened, Failed> {
    for (wanted, place) in window.iter().zip(&places) {
        wanted.check_len(place, &core)?;
    }
    let requests = group(&places);
    let reads = requests.iter().map(|request| read(&core, request, &window, &places));
    let fetched = try_join_all(reads).await?;
    let is_short = places.iter().map(Place::plain_len).sum::<usize>() <= SHORT_BYTES;
    let shared = core.clone();
    let work = move || open(&shared, &window, &places, &requests, fetched);
    match is_short {
        true => caught(work)?,
        false => core.compute.run(work).await?,
    }
}

/// Opens the chunks of a window, each to where it belongs.
fn open(
    core: &Core,
    window: &[Wanted],
    places: &[Place],
    requests: &[Request],
    fetched: Vec<Bytes>,
) -> std::result::Result<Opened, Failed> {
    let mut len = 0;
    let mut begins = Vec::with_capacity(places.len());
    for place in places {
        begins.push(len);
        len += place.plain_len();
    }
    let mut plain = core.read_buffers.take(len);
    let held_bytes = plain.memory_bytes();
    let mut opener = Opener::new(core);
    for (request, sealed) in requests.iter().zip(fetched) {
        for &member in &request.members {
            let (wanted, place) = (&window[member], &places[member]);
            let chunk = &mut plain[begins[member]..][..place.plain_len()];
            opener.open(wanted, place, &sealed[place.within(request)], chunk)?;
        }
    }
    // Each chunk has the length that is wanted, so only the ends of the first and the last may be too much.
    let before = window.first().map_or(0, |first| first.part.start);
    let behind = window.last().map_or(0, |last| last.chunk.len as usize - last.part.end);
    Ok(Opened {
        bytes: Bytes::from(plain).slice(before..len - behind),
        held_bytes,
    })
}

async fn read(
    core: &Core,
    request: &Request,
    window: &[Wanted],
    places: &[Place],
) -> std::result::Result<Bytes, Failed> {
    let path = core.layout.pack(&request.pack);
    let buffers = core.read_buffers.clone();
    let take = move |len| buffers.take(len);
    let error = match core
        .backend
        .get_range_into(&path, request.start..request.end, take)
        .await
    {
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
    order.sort_by_key(|&member| (places[member].pack, places[member].entry().offset));
    let mut requests: Vec<Request> = Vec::new();
    for member in order {
        let place = &places[member];
        let start = u64::from(place.entry().offset);
        let end = place.entry().end();
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
    fn entry(&self) -> &Entry {
        &self.entries.entries[self.index]
    }

    fn plain_len(&self) -> usize {
        self.entry().plain_len as usize
    }

    /// Where the blob lies in what was read.
    fn within(&self, request: &Request) -> Range<usize> {
        let from = (u64::from(self.entry().offset) - request.start) as usize;
        from..from + self.entry().stored_len as usize
    }
}

impl Wanted {
    /// Before memory is taken for it: the entry may be of another chunk, or lie.
    fn check_len(&self, place: &Place, core: &Core) -> std::result::Result<(), Failed> {
        match place.plain_len() == self.chunk.len as usize {
            true => Ok(()),
            false => Err(self.failed(
                place,
                core,
                Error::data_loss("a chunk does not have the length of its entry"),
            )),
        }
    }

    fn failed(&self, place: &Place, core: &Core, error: Error) -> Failed {
        let pack = core.layout.pack(&place.pack);
        Failed {
            error: error.within(format!("offset {} (pack {pack})", self.offset)),
            damaged: Some((place.pack.number, vec![(self.chunk.id, place.index as u32)])),
        }
    }
}

/// Opens blobs, keeping the keys of packs it has met.
struct Opener<'a> {
    core: &'a Core,
    keys: HashMap<(PackNumber, u16), BlobOpener>,
    /// Made when first needed.
    decompressor: Option<Decompressor>,
    compressed: Vec<u8>,
}

impl<'a> Opener<'a> {
    fn new(core: &'a Core) -> Self {
        Self {
            core,
            keys: HashMap::new(),
            decompressor: None,
            compressed: Vec::new(),
        }
    }

    /// Fills `chunk` with the chunk that is wanted, and checks it.
    fn open(
        &mut self,
        wanted: &Wanted,
        place: &Place,
        sealed: &[u8],
        chunk: &mut [u8],
    ) -> std::result::Result<(), Failed> {
        self.try_open(wanted, place, sealed, chunk)
            .map_err(|error| wanted.failed(place, self.core, error))
    }

    fn try_open(&mut self, wanted: &Wanted, place: &Place, sealed: &[u8], chunk: &mut [u8]) -> Result<()> {
        let entry = place.entry();
        let key = (place.pack.number, entry.birth);
        if !self.keys.contains_key(&key) {
            let birth = &place.entries.births[entry.birth as usize];
            self.keys.insert(key, BlobOpener::new(&self.core.secrets, birth)?);
        }
        let opener = &self.keys[&key];
        match entry.codec {
            Codec::Raw => opener.open_into(entry, sealed, chunk)?,
            Codec::Zstd => {
                self.compressed.resize(sealed.len().saturating_sub(TAG_LEN), 0);
                opener.open_into(entry, sealed, &mut self.compressed)?;
                self.decompressor
                    .get_or_insert_default()
                    .decompress_into(entry.codec, &self.compressed, chunk)
                    .map_err(|error| Error::data_loss(error.to_string()).caused_by(error))?;
            }
        }
        let id = self.core.secrets.id_key()?.id(chunk);
        if id != wanted.chunk.id {
            return Err(Error::data_loss("a chunk does not match its id"));
        }
        Ok(())
    }
}
