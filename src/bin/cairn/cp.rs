//! `cairn cp`: a second name for the same content.

use std::ffi::OsString;

use clap::Args;

use crate::failure::Failure;
use crate::session::{Session, object_name};
use crate::stat::print_object;

/// Copy an object within its repository, without moving its data
#[derive(Args)]
pub(crate) struct Cp {
    /// The object to copy
    from: OsString,
    /// The name of the copy; an object of this name is replaced
    to: OsString,
}

impl Cp {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let (from, to) = (object_name(&self.from)?, object_name(&self.to)?);
        let repository = session.repository().await?;
        let copy = repository.copy(from, to).await?;
        print_object(session, &copy)
    }
}
