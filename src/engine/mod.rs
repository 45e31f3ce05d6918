//! The engine: objects in, objects out. A library to use in-process; the command line and the network service are two
//! callers of it.

mod budget;
mod compute;
mod core;
mod error;
mod in_flight;
mod log;
pub mod measure;
mod options;
mod packs;
mod read;
mod reclaim;
mod recover;
mod repository;
mod status;
mod store;
mod write;

#[cfg(test)]
mod tests;

pub use self::error::{Error, ErrorKind, Reason, Result};
pub use self::log::commit::Precondition;
pub use self::options::Options;
pub use self::read::{ByteRange, ObjectReader};
pub use self::reclaim::{ReclaimOptions, Reclaimed};
pub use self::repository::{Metadata, ObjectInfo, Page, PutOptions, PutOutcome, Repository, RepositoryStatus};
pub use self::status::{Capacity, Cause, Mode, Status};
pub use self::store::{NewRepository, RepositoryHeader, Store, StoreOptions};
pub use self::write::{Blocking, Source};

/// Fresh bytes from the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|source| Error::internal("the operating system gives no random bytes").caused_by(source))?;
    Ok(bytes)
}
