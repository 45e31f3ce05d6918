//! `cairn rebuild`: the catalog is made anew from the store.

use clap::Args;

use crate::failure::Failure;
use crate::output::fields;
use crate::progress::Progress;
use crate::session::Session;
use crate::status::RepositoryView;

/// Make the catalog of a repository anew from the store alone
///
/// With --agent the agent does it, and goes on if this command is interrupted.
#[derive(Args)]
pub(crate) struct Rebuild {}

impl Rebuild {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let repository = session.repository().await?;
        let progress = Progress::unmeasured("rebuild");
        let view = RepositoryView::from(repository.rebuild().await?);
        drop(progress);
        session.output().print(&view, |out| fields(out, &view.lines()))
    }
}
