//! `cairn wipe`: a repository goes, for ever.

use clap::Args;
use serde::Serialize;

use cairn_agent::engine::Removed;

use crate::failure::Failure;
use crate::output::size;
use crate::progress::Progress;
use crate::session::Session;

/// Remove the repository with everything in it, for ever: its keys first
///
/// The same command goes on with a removal that was interrupted, with the id as --repo.
#[derive(Args)]
pub(crate) struct Wipe {
    /// The repository's id, as `cairn repo ls` shows it
    #[arg(long, value_name = "ID")]
    confirm: String,
}

impl Wipe {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let store = session.store_to_remove().await?;
        let bar = Progress::bytes("wipe", None);
        let removed = store
            .wipe(session.repository_name(), &self.confirm, &bar.counter())
            .await;
        drop(bar);
        let view = View::new(self.confirm, &removed?);
        session.output().print(&view, |out| {
            writeln!(
                out,
                "removed repository {}: {} stored objects, {}",
                view.id,
                view.objects_removed,
                size(view.bytes_removed)
            )
        })
    }
}

#[derive(Serialize)]
struct View {
    id: String,
    objects_removed: u64,
    bytes_removed: u64,
}

impl View {
    fn new(id: String, removed: &Removed) -> Self {
        Self {
            id,
            objects_removed: removed.objects,
            bytes_removed: removed.bytes,
        }
    }
}
