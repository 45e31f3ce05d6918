//! `cairn status`: room, mode and totals.

use std::io::{self, IsTerminal, Write};
use std::str::FromStr;

use clap::Args;
use serde::Serialize;

use cairn_agent::engine;
use cairn_agent::format::Hash32;

use crate::failure::Failure;
use crate::output::{Field, fields, size, table, time};
use crate::session::Session;

/// Puts the cursor at the top left of a terminal and clears what is below.
const REDRAW: &str = "\x1b[H\x1b[J";

/// Show mode, room and totals
#[derive(Args)]
pub(crate) struct Status {
    /// Go on showing it: once a second, or as the agent tells of changes
    #[arg(long)]
    watch: bool,
    /// Fail with code 65 unless the log of the repository (--repo) contains this state: a commit number and the head after it,
    /// as an earlier status printed them
    #[arg(long, value_name = "N:HEX")]
    expect_head: Option<ExpectedHead>,
}

#[derive(Clone)]
struct ExpectedHead {
    log_number: u64,
    head: Hash32,
}

impl FromStr for ExpectedHead {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(':').and_then(|(number, head)| {
            Some(Self {
                log_number: number.parse().ok()?,
                head: head.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| "a head is a commit number, a colon and 64 hexadecimal digits".to_owned())
    }
}

impl Status {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let store = session.store().await?;
        if let Some(expected) = &self.expect_head {
            expected.check(session).await?;
        }
        if !self.watch {
            let view = View::from(store.status().await?);
            return session.output().print(&view, |out| view.table(out));
        }
        let mut watch = store.watch_status().await?;
        loop {
            let view = View::from(watch.next().await?);
            session.output().print_next(&view, |out| {
                if io::stdout().is_terminal() {
                    out.write_all(REDRAW.as_bytes())?;
                }
                view.table(out)
            })?;
        }
    }
}

impl ExpectedHead {
    async fn check(&self, session: &Session) -> Result<(), Failure> {
        let repository = session.repository().await?;
        if repository.check_head(self.log_number, self.head).await? {
            return Ok(());
        }
        let line = format!(
            "commit {} of repository {} is older than the heads that are kept, so it cannot be compared; expect a newer one",
            self.log_number,
            session.repository_name()
        );
        Err(Failure::failed(line))
    }
}

/// The status as programs get it.
#[derive(Serialize)]
struct View {
    mode: &'static str,
    since: String,
    sequence: u64,
    causes: Vec<CauseView>,
    capacity: CapacityView,
    repositories: Vec<RepositoryView>,
}

#[derive(Serialize)]
struct CauseView {
    code: String,
    message: String,
    value: u64,
    threshold: u64,
}

#[derive(Serialize)]
struct CapacityView {
    total_bytes: Option<u64>,
    free_bytes: Option<u64>,
    used_bytes: u64,
    reserved_bytes: u64,
    used_other_bytes: Option<u64>,
    limit_bytes: Option<u64>,
    inodes_total: Option<u64>,
    inodes_free: Option<u64>,
}

/// The totals of a repository as programs get them.
#[derive(Serialize)]
pub(crate) struct RepositoryView {
    name: String,
    id: String,
    objects: u64,
    chunks: u64,
    logical_bytes: u64,
    unique_bytes: u64,
    stored_bytes: u64,
    garbage_bytes: u64,
    log_number: u64,
    head: String,
    quota: QuotaView,
    in_flight: InFlightView,
}

#[derive(Serialize)]
struct QuotaView {
    logical_bytes: Option<u64>,
    stored_bytes: Option<u64>,
}

#[derive(Serialize)]
struct InFlightView {
    logical_bytes: u64,
    stored_bytes: u64,
}

impl From<engine::Status> for View {
    fn from(status: engine::Status) -> Self {
        let capacity = status.capacity;
        Self {
            mode: status.mode.as_str(),
            since: time(status.since_ms),
            sequence: status.sequence,
            causes: status.causes.into_iter().map(CauseView::from).collect(),
            capacity: CapacityView {
                total_bytes: capacity.total_bytes,
                free_bytes: capacity.free_bytes,
                used_bytes: capacity.used_bytes,
                reserved_bytes: capacity.reserved_bytes,
                used_other_bytes: capacity.used_other_bytes,
                limit_bytes: capacity.limit_bytes,
                inodes_total: capacity.inodes_total,
                inodes_free: capacity.inodes_free,
            },
            repositories: status.repositories.into_iter().map(RepositoryView::from).collect(),
        }
    }
}

impl From<engine::Cause> for CauseView {
    fn from(cause: engine::Cause) -> Self {
        Self {
            code: cause.code.to_string(),
            message: cause.message,
            value: cause.value,
            threshold: cause.threshold,
        }
    }
}

impl From<engine::RepositoryStatus> for RepositoryView {
    fn from(status: engine::RepositoryStatus) -> Self {
        Self {
            name: status.name,
            id: status.id.to_string(),
            objects: status.objects,
            chunks: status.chunks,
            logical_bytes: status.logical_bytes,
            unique_bytes: status.unique_bytes,
            stored_bytes: status.stored_bytes,
            garbage_bytes: status.garbage_bytes,
            log_number: status.log_number,
            head: status.head.to_string(),
            quota: QuotaView {
                logical_bytes: status.quota.logical_bytes,
                stored_bytes: status.quota.stored_bytes,
            },
            in_flight: InFlightView {
                logical_bytes: status.in_flight.logical,
                stored_bytes: status.in_flight.stored,
            },
        }
    }
}

impl View {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut lines = vec![("mode", self.mode.to_owned())];
        for cause in &self.causes {
            lines.push(("cause", cause.line()));
        }
        lines.extend(self.capacity.lines());
        fields(out, &lines)?;
        writeln!(out)?;
        let rows: Vec<_> = self.repositories.iter().map(RepositoryView::cells).collect();
        let headings = [
            "REPOSITORY",
            ">OBJECTS",
            ">CHUNKS",
            ">LOGICAL",
            ">UNIQUE",
            ">STORED",
            ">GARBAGE",
            "HEAD",
        ];
        table(out, headings, &rows)
    }
}

impl CauseView {
    /// With its numbers, where there are any.
    fn line(&self) -> String {
        let numbers = match (self.value, self.threshold) {
            (0, 0) => String::new(),
            (value, 0) => format!(" ({value})"),
            (value, threshold) => format!(" ({value} against {threshold})"),
        };
        format!("{}: {}{numbers}", self.code, self.message)
    }
}

impl CapacityView {
    fn lines(&self) -> Vec<Field> {
        let unknown = || "unlimited".to_owned();
        let free = match (self.free_bytes, self.total_bytes) {
            (Some(free), Some(total)) => format!("{} of {}", size(free), size(total)),
            (Some(free), None) => size(free),
            _ => unknown(),
        };
        let mut lines = vec![
            ("free", free),
            ("used", size(self.used_bytes)),
            ("reserved", size(self.reserved_bytes)),
        ];
        if let Some(other) = self.used_other_bytes {
            lines.push(("used by others", size(other)));
        }
        if let Some(limit) = self.limit_bytes {
            lines.push(("limit", size(limit)));
        }
        if let (Some(free), Some(total)) = (self.inodes_free, self.inodes_total) {
            lines.push(("inodes free", format!("{free} of {total}")));
        }
        lines
    }
}

impl RepositoryView {
    fn cells(&self) -> [String; 8] {
        [
            self.name.clone(),
            self.objects.to_string(),
            self.chunks.to_string(),
            of_quota(self.logical_bytes, self.quota.logical_bytes),
            size(self.unique_bytes),
            of_quota(self.stored_bytes, self.quota.stored_bytes),
            size(self.garbage_bytes),
            // As `--expect-head` takes it.
            format!("{}:{}", self.log_number, self.head),
        ]
    }

    /// One total a line.
    pub(crate) fn lines(&self) -> Vec<Field> {
        vec![
            ("name", self.name.clone()),
            ("id", self.id.clone()),
            ("objects", self.objects.to_string()),
            ("chunks", self.chunks.to_string()),
            ("logical", of_quota(self.logical_bytes, self.quota.logical_bytes)),
            ("unique", size(self.unique_bytes)),
            ("stored", of_quota(self.stored_bytes, self.quota.stored_bytes)),
            ("garbage", size(self.garbage_bytes)),
            ("head", format!("{}:{}", self.log_number, self.head)),
        ]
    }
}

/// A total, and what it may come to.
fn of_quota(bytes: u64, most: Option<u64>) -> String {
    match most {
        Some(most) => format!("{} of {}", size(bytes), size(most)),
        None => size(bytes),
    }
}
