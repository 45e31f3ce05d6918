//! From a location to a backend that answers: one file per provider that needs code.

mod directory;
mod memory;
#[cfg(feature = "s3")]
mod s3;

use super::Backend;
use super::error::Error;
use super::location::Location;

#[cfg(feature = "s3")]
pub use s3::S3Access;

/// What to do about a directory that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attach {
    /// Refuse: [`Error::NotFound`].
    Existing,
    /// Create it and its parents durably. Buckets are never created.
    CreateDirectory,
}

pub(super) async fn attach(location: &Location, attach: Attach) -> Result<Backend, Error> {
    match location {
        Location::Directory(path) => directory::attach(path.clone(), attach).await,
        Location::Memory(name) => Ok(memory::attach(name)),
        #[cfg(feature = "s3")]
        Location::S3 { bucket, prefix } => s3::attach(bucket, prefix, S3Access::Environment).await,
        #[cfg(not(feature = "s3"))]
        Location::S3 { .. } => Err(Error::invalid(
            location.to_string(),
            "this build has no S3 support; build with the feature \"s3\"",
        )),
    }
}

#[cfg(feature = "s3")]
pub(super) use s3::attach as attach_s3;
