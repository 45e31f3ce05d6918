//! `cairn evacuate`: a repository, or the whole store, moves to another place.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use cairn_agent::backend::Location;
use cairn_agent::engine::{EvacuateOptions, Evacuees, Lost, Verdict};

use crate::failure::{DAMAGED, Failure, note};
use crate::output::{fields, printable, size};
use crate::progress::Progress;
use crate::scrub::DamagedView;
use crate::session::Session;
use crate::target::Evacuated;

/// Move a repository, or the whole store, to another place, as it is
///
/// Reads go on; writes are refused from the beginning on, and stay refused once it is there. The source is not removed:
/// `cairn wipe` does that. The same command goes on with a move that was interrupted.
#[derive(Args)]
pub(crate) struct Evacuate {
    /// The other place: a directory or s3://bucket/prefix; with --agent as the agent sees it
    #[arg(long, value_name = "DIR|URL")]
    to: String,
    /// All repositories of the store, not only the one of --repo
    #[arg(long)]
    all_repositories: bool,
}

impl Evacuate {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let to: Location = self
            .to
            .parse()
            .map_err(|error| Failure::usage(format!("--to {:?}: {error}", self.to)))?;
        let which = match self.all_repositories {
            true => Evacuees::All,
            false => Evacuees::One(session.repository_name().to_owned()),
        };
        let store = session.store().await?;
        let started = Instant::now();
        let bar = Progress::bytes("evacuate", None);
        let interrupted = Interrupted;
        let evacuated = store.evacuate(EvacuateOptions { to, which }, &bar.counter()).await;
        std::mem::forget(interrupted);
        drop(bar);
        let view = View::new(evacuated?, started.elapsed());
        session.output().print(&view, |out| view.table(out))?;
        if view.lists_truncated {
            note("more was found than is listed here; the counts are right");
        }
        view.complain()
    }
}

/// Says what an interruption leaves, where the command is dropped.
struct Interrupted;

impl Drop for Interrupted {
    fn drop(&mut self) {
        note(
            "the move has not come to its end: the store is as it was and can be written; the same command goes on with what \
             was copied",
        );
    }
}

#[derive(Serialize)]
struct View {
    verdict: &'static str,
    to: String,
    repositories: Vec<String>,
    packs_copied: u64,
    bytes_copied: u64,
    packs_present: u64,
    bytes_present: u64,
    seconds: f64,
    lost_count: u64,
    lost_bytes: u64,
    lost: Vec<LostView>,
    objects_count: u64,
    objects: Vec<DamagedView>,
    lists_truncated: bool,
}

#[derive(Serialize)]
struct LostView {
    repository: String,
    path: String,
    offset: u64,
    length: u64,
    problem: String,
    copied: bool,
}

impl From<&Lost> for LostView {
    fn from(lost: &Lost) -> Self {
        Self {
            repository: lost.repository.to_string(),
            path: lost.path.clone(),
            offset: lost.offset,
            length: lost.length,
            problem: lost.problem.clone(),
            copied: lost.copied,
        }
    }
}

impl View {
    fn new(evacuated: Evacuated, took: Duration) -> Self {
        let Evacuated {
            report,
            lists_truncated,
        } = evacuated;
        Self {
            verdict: report.verdict().as_str(),
            to: report.to.clone(),
            repositories: report.repositories.iter().map(ToString::to_string).collect(),
            packs_copied: report.packs_copied,
            bytes_copied: report.bytes_copied,
            packs_present: report.packs_present,
            bytes_present: report.bytes_present,
            seconds: took.as_secs_f64(),
            lost_count: report.lost_count,
            lost_bytes: report.lost_bytes,
            lost: report.lost.iter().map(LostView::from).collect(),
            objects_count: report.objects_count,
            objects: report.objects.iter().map(DamagedView::from).collect(),
            lists_truncated,
        }
    }

    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        for lost in &self.lost {
            let how = match lost.copied {
                true => "the rest of it is there",
                false => "not copied",
            };
            writeln!(
                out,
                "lost {}: {} bytes at {}: {} ({how})",
                printable(&lost.path),
                lost.length,
                lost.offset,
                lost.problem
            )?;
        }
        if !self.objects.is_empty() {
            DamagedView::table(out, &self.objects)?;
        }
        let packs = |packs: u64, bytes: u64| format!("{packs} packs, {}", size(bytes));
        fields(
            out,
            &[
                ("verdict", self.verdict.to_owned()),
                ("to", self.to.clone()),
                ("repositories", self.repositories.len().to_string()),
                ("copied", packs(self.packs_copied, self.bytes_copied)),
                ("there before", packs(self.packs_present, self.bytes_present)),
                ("lost", format!("{} ranges, {}", self.lost_count, size(self.lost_bytes))),
                ("objects that lack something", self.objects_count.to_string()),
            ],
        )
    }

    fn complain(&self) -> Result<(), Failure> {
        if self.verdict == Verdict::Complete.as_str() {
            return Ok(());
        }
        let line = format!(
            "{} objects lack something at {}; restore what is listed at the source and run this again, or decide to do without",
            self.objects_count, self.to
        );
        Err(Failure::new(DAMAGED, line))
    }
}
