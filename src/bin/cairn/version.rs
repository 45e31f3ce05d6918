//! `cairn version`.

use clap::Args;
use serde::Serialize;

use crate::failure::Failure;
use crate::session::Session;

/// Show the version
#[derive(Args)]
pub(crate) struct Version {}

#[derive(Serialize)]
struct View {
    version: &'static str,
}

impl Version {
    pub(crate) fn run(self, session: &Session) -> Result<(), Failure> {
        let view = View {
            version: env!("CARGO_PKG_VERSION"),
        };
        session
            .output()
            .print(&view, |out| writeln!(out, "cairn {}", view.version))
    }
}
