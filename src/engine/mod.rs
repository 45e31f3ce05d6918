//! The engine: objects in, objects out. A library to use in-process; the command line and the network service are two
//! callers of it.
//!
//! # What happens while something else runs
//!
//! | | put | get | delete | reclaim | rebuild |
//! |---|---|---|---|---|---|
//! | **put** | share packs, fsyncs and commits; the later record wins a name | sees the version it opened | log order decides | a hit holds its pack; only packs that nobody holds are condemned | waits for the writer to close |
//! | **get** | | independent | goes on: it holds its packs | its packs stay until it ends | its packs stay |
//! | **reclaim** | | | what is deleted meanwhile may wait for the next run, or move as garbage | one at a time | one at a time |
//!
//! An evacuation waits for the writes that are under way and refuses all that come after them; reads go on, reclaim and
//! rebuild are refused until it has ended. A removal ends everything, and waits for reclaim and rebuild.
//!
//! # Order of durable steps
//!
//! See the modules `log` (a commit) and `reclaim` (a pack that goes). What is acknowledged is in a commit pack that is
//! durable, whose predecessor and chunk packs are durable, and after which no newer owner was seen.
//!
//! # Why not ...
//!
//! - *One lock for the whole writer?* Streams meet in three places only: the table of claims and pins, the open pack,
//!   and the committer. None is held across an await or a system call.
//! - *Fsync the catalog with every commit?* The log replays it. It is made durable only before a pack is deleted.
//! - *Move a failed pack's blobs to another pack?* A writer whose pack could not be put gives up whole, and the next
//!   write takes a new owner epoch: one way to end covers every failure, at the price that streams in flight at that
//!   moment are put again by their callers. What they had stored is found by the retry if it was introduced.

mod allowance;
mod budget;
mod compute;
mod core;
mod counters;
mod departures;
mod error;
mod evacuate;
mod gate;
mod in_flight;
mod key_chain;
mod keyrings;
mod limits;
mod log;
pub mod measure;
mod monitor;
mod options;
mod pace;
mod packs;
mod read;
mod reclaim;
mod recover;
mod removal;
mod repository;
mod revocation;
mod scrub;
mod status;
mod store;
mod write;

#[cfg(test)]
mod tests;

pub use self::allowance::InFlightBytes;
pub use self::counters::Counters;
pub use self::error::{Code, Error, ErrorKind, Reason, Result};
pub use self::evacuate::{EvacuateOptions, EvacuateProgress, EvacuateReport, Evacuees, Lost, Verdict};
pub use self::key_chain::KeyState;
pub use self::keyrings::RepositoryHeader;
pub use self::limits::{QUOTAS_MAX, Quota};
pub use self::log::rebuild::{RebuildPhase, RebuildProgress};
pub use self::log::requests::Precondition;
pub use self::log::salvage::Salvage;
pub use self::options::Options;
pub use self::read::{ByteRange, ObjectReader};
pub use self::reclaim::{ReclaimOptions, ReclaimPhase, ReclaimProgress, ReclaimSchedule, Reclaimed};
pub use self::removal::{DeletionPolicy, RemovalProgress, Removed};
pub use self::repository::{Metadata, ObjectInfo, Page, PutOptions, PutOutcome, Repository, RepositoryStatus, Upload};
pub use self::scrub::{
    Damage, DamagedObject, DamagedPage, DamagedRange, Depth, Remedy, ScrubCursor, ScrubHistory, ScrubOptions,
    ScrubProgress, ScrubReport,
};
pub use self::status::{
    BackingStoreView, Capacity, CapacityPolicy, Cause, Condition, Mode, Status, code as cause_code,
};
pub use self::store::{NewRepository, Store, StoreOptions, StreamShare};
pub use self::write::{Blocking, Part, PutProgress, Source, WholeBytes, WholeFile};

/// Fresh bytes from the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|source| Error::internal("the operating system gives no random bytes").caused_by(source))?;
    Ok(bytes)
}
