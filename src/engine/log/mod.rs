//! The log of a repository: who may write it, how a record becomes durable, and how the catalog follows it.
//!
//! # Order of durable steps
//!
//! 1. chunk packs that records rely on,
//! 2. the commit pack, which names the one before by its hash,
//! 3. a listing of owners that shows no newer epoch,
//! 4. the catalog,
//! 5. the acknowledgement.
//!
//! Deleting a pack takes the same road: a record condemns it, a checkpoint covers that record, the catalog is made
//! durable, the owners are listed again, and only then the pack goes.

pub(crate) mod apply;
pub(crate) mod checkpoint;
mod checkpoints;
pub(crate) mod commit;
mod decide;
mod group;
pub(crate) mod ownership;
pub(crate) mod rebuild;
pub(crate) mod replay;
pub(crate) mod requests;
pub(crate) mod salvage;
