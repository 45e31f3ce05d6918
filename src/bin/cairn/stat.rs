//! `cairn stat`: what is known about one object.

use std::ffi::OsString;

use clap::Args;

use cairn_agent::engine::ObjectInfo;

use crate::failure::Failure;
use crate::output::{ObjectView, fields, printable, size, time};
use crate::session::{Session, object_name};

/// Show one object
#[derive(Args)]
pub(crate) struct Stat {
    /// The object's name
    name: OsString,
}

impl Stat {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let name = object_name(&self.name)?;
        let repository = session.repository().await?;
        let object = repository.stat(name).await?;
        print_object(session, &object)
    }
}

/// Prints one object with everything that is known about it.
pub(crate) fn print_object(session: &Session, object: &ObjectInfo) -> Result<(), Failure> {
    session.output().print(&ObjectView::from(object), |out| {
        let lines = [
            ("name", printable(&object.name)),
            ("version", object.version.to_string()),
            ("bytes", format!("{} ({})", object.bytes, size(object.bytes))),
            ("created", time(object.created_ms)),
            ("chunks", object.chunks.to_string()),
            ("crc32c", format!("{:08x}", object.crc32c)),
        ];
        fields(out, &lines)
    })
}
