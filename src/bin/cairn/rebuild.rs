//! `cairn rebuild`: the catalog is made anew from the store.

use std::sync::Arc;

use cairn_agent::engine::{RebuildPhase, RebuildProgress, Salvage};
use clap::Args;
use serde::Serialize;

use crate::failure::{Failure, note};
use crate::output::fields;
use crate::progress::{Progress, Step};
use crate::session::Session;
use crate::status::RepositoryView;
use crate::target::Store;

/// Make the catalog of a repository anew from the store alone
///
/// What an interrupted rebuild has read is not read again. With --agent the agent does it, and goes on if this command is
/// interrupted.
#[derive(Args)]
pub(crate) struct Rebuild {
    /// Go on without commits that are missing or cannot be read: what they recorded is lost, all else comes back
    #[arg(long)]
    salvage: bool,
}

/// What a salvage brought back, and what not.
#[derive(Serialize)]
struct SalvageView {
    #[serde(flatten)]
    repository: RepositoryView,
    salvage: Lost,
}

#[derive(Serialize)]
struct Lost {
    /// First and last number of each run.
    lost_commits: Vec<[u64; 2]>,
    given_up: Vec<String>,
    kept_packs: u64,
}

impl From<Salvage> for Lost {
    fn from(salvage: Salvage) -> Self {
        let runs = salvage.lost_commits.iter();
        Self {
            lost_commits: runs.map(|run| [*run.start(), *run.end()]).collect(),
            given_up: salvage.given_up,
            kept_packs: salvage.kept_packs,
        }
    }
}

impl Rebuild {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        if self.salvage {
            return salvage(session).await;
        }
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

async fn salvage(session: &Session) -> Result<(), Failure> {
    let Store::Local(store) = session.store().await? else {
        let line = "--salvage opens the store itself: stop the agent, and run this where the store is, without --agent";
        return Err(Failure::usage(line));
    };
    let progress = Progress::unmeasured("rebuild");
    let (status, salvage) = store.salvage(session.repository_name()).await?;
    drop(progress);
    if salvage.is_nothing() {
        note("the log lacks nothing; without --salvage the catalog is made anew");
    }
    let view = SalvageView {
        repository: RepositoryView::from(status),
        salvage: salvage.into(),
    };
    session.output().print(&view, |out| {
        fields(out, &view.repository.lines())?;
        for [first, last] in &view.salvage.lost_commits {
            writeln!(out, "lost commits     {first} to {last}")?;
        }
        view.salvage
            .given_up
            .iter()
            .try_for_each(|path| writeln!(out, "given up         {path}"))
    })
}

fn step(progress: &RebuildProgress) -> Step {
    let (doing, done, of) = match progress.phase() {
        RebuildPhase::Log => ("reading the log", 0, 0),
        RebuildPhase::Packs => ("packs", progress.packs(), progress.packs_expected()),
        RebuildPhase::Objects | RebuildPhase::Done => ("objects", progress.objects(), progress.objects_expected()),
    };
    Step { doing, done, of }
}
