//! `cairn gc`: the space of removed objects comes back.

use clap::Args;
use serde::Serialize;

use cairn_agent::engine::{ReclaimOptions, Reclaimed};

use crate::failure::Failure;
use crate::output::{fields, size};
use crate::progress::Progress;
use crate::session::Session;

/// Give back the space of removed objects
///
/// With --agent the agent does it, and goes on if this command is interrupted.
#[derive(Args)]
pub(crate) struct Gc {
    /// Only tell what would be given back now
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct View {
    packs_dropped: u64,
    packs_rewritten: u64,
    freed_bytes: u64,
}

impl From<Reclaimed> for View {
    fn from(reclaimed: Reclaimed) -> Self {
        Self {
            packs_dropped: reclaimed.packs_dropped,
            packs_rewritten: reclaimed.packs_rewritten,
            freed_bytes: reclaimed.freed_bytes,
        }
    }
}

impl Gc {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let repository = session.repository().await?;
        let progress = Progress::unmeasured("gc");
        let options = ReclaimOptions { dry_run: self.dry_run };
        let view = View::from(repository.reclaim(options).await?);
        drop(progress);
        session.output().print(&view, |out| {
            let lines = [
                ("packs dropped", view.packs_dropped.to_string()),
                ("packs rewritten", view.packs_rewritten.to_string()),
                ("freed", size(view.freed_bytes)),
            ];
            fields(out, &lines)
        })
    }
}
