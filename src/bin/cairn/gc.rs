//! `cairn gc`: the space of removed objects comes back.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use cairn_agent::engine::{ReclaimOptions, ReclaimPhase, ReclaimProgress, Reclaimed};

use crate::failure::Failure;
use crate::output::{fields, size};
use crate::progress::{Progress, Step};
use crate::session::Session;

/// Give back the space of removed objects
///
/// With --agent the agent does it, and goes on if this command is interrupted.
#[derive(Args)]
pub(crate) struct Gc {
    /// Only tell what would be given back now
    #[arg(long)]
    dry_run: bool,
    /// Garbage that may stay, in percent of what is stored: 0 gives back whatever can be given back, at any cost
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=100))]
    max_garbage: u8,
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

fn step(progress: &ReclaimProgress) -> Step {
    let (doing, done, of) = match progress.phase() {
        ReclaimPhase::Releasing => ("releasing", 0, 0),
        ReclaimPhase::Dropping => ("dropping packs", 0, 0),
        ReclaimPhase::Moving | ReclaimPhase::Done => ("moving bytes", progress.bytes(), progress.bytes_expected()),
    };
    Step { doing, done, of }
}

impl Gc {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let repository = session.repository().await?;
        let watched = Arc::new(ReclaimProgress::default());
        let progress = Progress::steps("gc", {
            let watched = watched.clone();
            move || step(&watched)
        });
        let options = ReclaimOptions {
            dry_run: self.dry_run,
            ..ReclaimOptions::leaving(self.max_garbage)?
        };
        let view = View::from(repository.reclaim(options, &watched).await?);
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
