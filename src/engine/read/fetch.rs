//! Fetching a window: blobs that lie together in a pack come in one request, and are opened on the CPU pool.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;

use super::buffers::ReadBuffer;
use super::plan::{Place, Wanted};
use crate::codec::{ChunkId, Codec, Decompressor};
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason};
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
    /// The wanted part of each chunk, in order.
    pub(crate) parts: Vec<Bytes>,
    /// Memory that they keep.
    pub(crate) held_bytes: usize,
}

/// Reads the chunks of a window and authenticates them.
pub(crate) async fn fetch(
    core: Arc<Core>,
    window: Vec<Wanted>,
    places: Vec<Place>,
) -> std::result::Result<Opened, Failed> {
    let requests = group(&places);
    let reads = requests.iter().map(|request| read(&core, request, &window, &places));
    let fetched = try_join_all(reads).await?;
    let shared = core.clone();
    let work = move || open(&shared, &window, &places, &requests, fetched);
    core.compute.run(work).await?
}

/// Opens what was fetched. Chunks that are not compressed stay where they are, if they are most of what came with them; the
/// others go into one buffer.
fn open(
    core: &Core,
    window: &[Wanted],
    places: &[Place],
    requests: &[Request],
    fetched: Vec<ReadBuffer>,
) -> std::result::Result<Opened, Failed> {
    let stay: Vec<Vec<bool>> = requests.iter().map(|request| request.staying(places)).collect();
    let moved = requests
        .iter()
        .zip(&stay)
        .flat_map(|(request, stay)| request.moved(stay));
    let mut plain = core
        .read_buffers
        .take(moved.map(|member| places[member].plain_len()).sum());
    let mut moved = Vec::new();
    let mut at = 0;

    let mut parts = vec![Bytes::new(); window.len()];
    let mut held_bytes = plain.len();
    let mut opener = Opener::new(core);
    let mut copied = Vec::new();
    for ((request, stay), mut bytes) in requests.iter().zip(&stay).zip(fetched) {
        for (index, (&member, &stays)) in request.members.iter().zip(stay).enumerate() {
            let (wanted, place) = (&window[member], &places[member]);
            let mut sealed = &mut bytes[place.within(request)];
            if !request.is_last_use(index, places) {
                copied.clear();
                copied.extend_from_slice(sealed);
                sealed = &mut copied;
            }
            if stays {
                opener.open(wanted, place, sealed, None)?;
            } else {
                let end = at + place.plain_len();
                opener.open(wanted, place, sealed, Some(&mut plain[at..end]))?;
                moved.push((member, at));
                at = end;
            }
        }
        if stay.contains(&true) {
            held_bytes += bytes.len();
            let bytes = Bytes::from(bytes);
            for (&member, _) in request.members.iter().zip(stay).filter(|(_, stays)| **stays) {
                parts[member] = window[member].part_at(&bytes, places[member].within(request).start);
            }
        }
    }
    let plain = Bytes::from(plain);
    for (member, at) in moved {
        parts[member] = window[member].part_at(&plain, at);
    }
    Ok(Opened { parts, held_bytes })
}

async fn read(
    core: &Core,
    request: &Request,
    window: &[Wanted],
    places: &[Place],
) -> std::result::Result<ReadBuffer, Failed> {
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
    order.sort_by_key(|&member| {
        (
            places[member].pack,
            places[member].entries.entries[places[member].index].offset,
        )
    });
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

impl Request {
    /// Whether no member after the one at `index` is the same blob, which has to be sealed still when that is opened.
    fn is_last_use(&self, index: usize, places: &[Place]) -> bool {
        let place = |index: usize| places[self.members[index]].index;
        index + 1 == self.members.len() || place(index + 1) != place(index)
    }

    /// Which of its members are left where they were fetched: the raw ones, if what was fetched is raw for half of it at least.
    /// Else little would keep much.
    fn staying(&self, places: &[Place]) -> Vec<bool> {
        let members = self.members.iter().enumerate();
        let stays = |(index, &member): (usize, &usize)| {
            places[member].entry().codec == Codec::Raw && self.is_last_use(index, places)
        };
        let stay: Vec<bool> = members.map(stays).collect();
        let raw = self.members.iter().zip(&stay).filter(|(_, stays)| **stays);
        let raw_bytes: u64 = raw
            .map(|(&member, _)| u64::from(places[member].entry().stored_len))
            .sum();
        match 2 * raw_bytes >= self.end - self.start {
            true => stay,
            false => vec![false; stay.len()],
        }
    }

    /// The members that are not left there.
    fn moved<'a>(&'a self, stay: &'a [bool]) -> impl Iterator<Item = usize> + 'a {
        let members = self.members.iter().zip(stay);
        members.filter(|(_, stays)| !**stays).map(|(&member, _)| member)
    }
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
    /// The wanted part of the chunk that begins in `bytes` at `at`.
    fn part_at(&self, bytes: &Bytes, at: usize) -> Bytes {
        bytes.slice(at + self.part.start..at + self.part.end)
    }
}

/// Opens blobs, keeping the keys of packs it has met.
struct Opener<'a> {
    core: &'a Core,
    keys: HashMap<(PackNumber, u16), BlobOpener>,
    /// Made when first needed.
    decompressor: Option<Decompressor>,
}

impl<'a> Opener<'a> {
    fn new(core: &'a Core) -> Self {
        Self {
            core,
            keys: HashMap::new(),
            decompressor: None,
        }
    }

    /// Opens the wanted chunk where it is and checks it, `into` other bytes if it is to be decompressed or moved.
    fn open(
        &mut self,
        wanted: &Wanted,
        place: &Place,
        sealed: &mut [u8],
        into: Option<&mut [u8]>,
    ) -> std::result::Result<(), Failed> {
        let entry = place.entry();
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
        let stored = self.keys[&key]
            .open(entry, sealed)
            .map_err(|error| failed(error.into()))?;
        let plain = match into {
            None => stored,
            Some(plain) => {
                self.decompressor
                    .get_or_insert_default()
                    .decompress_into(entry.codec, stored, plain)
                    .map_err(|error| failed(Error::data_loss(error.to_string()).caused_by(error)))?;
                plain
            }
        };
        let id = self.core.secrets.id_key().map_err(Error::from)?.id(plain);
        if id != wanted.chunk.id || plain.len() != wanted.chunk.len as usize {
            return Err(failed(Error::data_loss("a chunk does not match its id")));
        }
        Ok(())
    }
}
