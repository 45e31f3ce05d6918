//! The write path: a stream of bytes becomes chunks in packs, and a record in the log.
//!
//! ```text
//! source ─► slabs ─► ingest (cut · id · look up · compress) ─► packer (seal) ─► upload ─► ledger
//!                                └─► manifest (leaves, root) ───────┘                        │
//!                                             record ─────────────────────► committer ◄──────┘
//! ```

mod hashing;
mod ingest;
mod join;
mod ledger;
mod lookup;
mod manifest;
mod packer;
mod slabs;
mod source;
mod stream;
mod turns;
pub(crate) mod upload;

pub(crate) use join::{CrcJoin, crc32c};
pub(crate) use ledger::{Ledger, NewPack};
pub(crate) use lookup::look_up;
pub(crate) use manifest::ManifestBuilder;
pub(crate) use packer::{OpenPack, Packer};
pub(crate) use slabs::{Compressors, Slabs};
pub use source::{Blocking, Part, Source, WholeBytes, WholeFile};
pub use stream::PutProgress;
pub(crate) use stream::{Draft, ingest_stream};
