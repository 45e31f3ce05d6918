//! `cairn rebuild`: the catalog is made anew from the store.

use std::sync::Arc;

use cairn_agent::engine::{RebuildPhase, RebuildProgress};
use clap::Args;

use crate::failure::Failure;
use crate::output::fields;
use crate::progress::{Progress, Step};
use crate::session::Session;
use crate::status::RepositoryView;

/// Make the catalog of a repository anew from the store alone
///
/// What an interrupted rebuild has read is not read again. With --agent the agent does it, and goes on if this command is
/// interrupted.
#[derive(Args)]
pub(crate) struct Rebuild {}

impl Rebuild {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let watched = Arc::new(RebuildProgress::default());
        let progress = match session.is_remote()? {
            true => Progress::unmeasured("rebuild"),
            false => Progress::steps("rebuild", {
                let watched = watched.clone();
                move || step(&watched)
            }),
        };
        let repository = session.repository().await?;
        let view = RepositoryView::from(repository.rebuild(&watched).await?);
        drop(progress);
        session.output().print(&view, |out| fields(out, &view.lines()))
    }
}

fn step(progress: &RebuildProgress) -> Step {
    let (doing, done, of) = match progress.phase() {
        RebuildPhase::Log => ("reading the log", 0, 0),
        RebuildPhase::Packs => ("packs", progress.packs(), progress.packs_expected()),
        RebuildPhase::Objects | RebuildPhase::Done => ("objects", progress.objects(), progress.objects_expected()),
    };
    Step { doing, done, of }
}
