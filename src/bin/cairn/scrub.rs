//! `cairn scrub`: everything stored is read and checked before somebody needs it.

use std::io::{self, Write};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::Serialize;

use cairn_agent::config::Size;
use cairn_agent::engine::{self, DamagedObject, Remedy, ScrubCursor, ScrubOptions};

use crate::failure::{DAMAGED, Failure, note};
use crate::output::{fields, printable, size, table};
use crate::progress::{Counter, Progress};
use crate::session::Session;
use crate::target::{Scrubbed, local};

/// Read and check what is stored; what can be repaired is, the rest is named
///
/// With --agent the agent does it; interrupting this command cancels it there.
#[derive(Args)]
pub(crate) struct Scrub {
    /// How deep: `bytes` needs no key, looks at all repositories and works beside a running agent; `structure` leaves the
    /// chunks out; `full` reads everything
    #[arg(long, value_enum, default_value_t = Depth::Full)]
    depth: Depth,
    /// Most bytes read in a second, such as 50MiB
    #[arg(long, value_name = "SIZE")]
    rate: Option<Size>,
    /// Go on where an earlier scrub of the same depth ended: the text it printed as its cursor
    #[arg(long, value_name = "CURSOR")]
    from: Option<ScrubCursor>,
    /// End, with a cursor, once about this much was read
    #[arg(long, value_name = "SIZE")]
    limit: Option<Size>,
    /// Only look: write nothing anew
    #[arg(long)]
    no_repair: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Depth {
    Bytes,
    Structure,
    Full,
}

impl From<Depth> for engine::Depth {
    fn from(depth: Depth) -> Self {
        match depth {
            Depth::Bytes => Self::Bytes,
            Depth::Structure => Self::Structure,
            Depth::Full => Self::Full,
        }
    }
}

impl Scrub {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let rate_bytes = match self.rate {
            None => None,
            Some(rate) => {
                Some(NonZeroU64::new(rate.0).ok_or_else(|| Failure::usage("a rate of 0 bytes would never end"))?)
            }
        };
        let options = ScrubOptions {
            depth: self.depth.into(),
            rate_bytes,
            from: self.from,
            bytes_max: self.limit.map(|limit| limit.0),
            repair: !self.no_repair,
        };
        let started = Instant::now();
        let bar = Progress::bytes("scrub", None);
        let scrubbed = scrub(session, options, &bar.counter()).await;
        drop(bar);
        let view = View::new(&scrubbed?, started.elapsed());
        session.output().print(&view, |out| view.table(out))?;
        if view.lists_truncated {
            note("more was found than is listed here; the counts are right");
        }
        view.complain()
    }
}

async fn scrub(session: &Session, options: ScrubOptions, counter: &Counter) -> Result<Scrubbed, Failure> {
    if options.depth == engine::Depth::Bytes && !session.is_remote()? {
        return Ok(local::scrub_bytes_at(&session.place().location, options, counter).await?);
    }
    Ok(session.repository().await?.scrub(options, counter).await?)
}

#[derive(Serialize)]
struct View {
    depth: String,
    sound: bool,
    stored_objects: u64,
    packs: u64,
    blobs: u64,
    bytes: u64,
    seconds: f64,
    damage_count: u64,
    damage: Vec<DamageView>,
    objects_count: u64,
    objects: Vec<DamagedView>,
    contradictions_count: u64,
    contradictions: Vec<String>,
    strays: u64,
    unknown: Vec<String>,
    vanished: u64,
    released: u64,
    cursor: Option<String>,
    lists_truncated: bool,
}

#[derive(Serialize)]
struct DamageView {
    path: String,
    kind: &'static str,
    offset: u64,
    length: u64,
    problem: String,
    remedy: &'static str,
}

/// An object with damage, as `scrub` and `ls --damaged` show it.
#[derive(Serialize)]
pub(crate) struct DamagedView {
    pub(crate) name: String,
    version: u64,
    ranges: Vec<RangeView>,
}

#[derive(Serialize)]
struct RangeView {
    offset: u64,
    length: u64,
    pack: Option<String>,
    problem: String,
}

impl From<&DamagedObject> for DamagedView {
    fn from(object: &DamagedObject) -> Self {
        let ranges = object.ranges.iter().map(|range| RangeView {
            offset: range.offset,
            length: range.length,
            pack: range.pack.clone(),
            problem: range.problem.to_string(),
        });
        Self {
            name: object.name.clone(),
            version: object.version,
            ranges: ranges.collect(),
        }
    }
}

impl DamagedView {
    /// A row a range.
    pub(crate) fn table(out: &mut dyn Write, views: &[Self]) -> io::Result<()> {
        let mut rows = Vec::new();
        for view in views {
            for range in &view.ranges {
                rows.push([
                    printable(&view.name),
                    range.offset.to_string(),
                    range.length.to_string(),
                    range.problem.clone(),
                    range.pack.clone().unwrap_or_else(|| "-".to_owned()),
                ]);
            }
        }
        table(out, ["NAME", ">OFFSET", ">LENGTH", "PROBLEM", "PACK"], &rows)
    }
}

impl View {
    fn new(scrubbed: &Scrubbed, took: Duration) -> Self {
        let report = &scrubbed.report;
        let damage = report.damage.iter().map(|damage| DamageView {
            path: damage.path.clone(),
            kind: damage.kind.as_str(),
            offset: damage.offset,
            length: damage.length,
            problem: damage.problem.clone(),
            remedy: match damage.remedy {
                Remedy::None => "none",
                Remedy::Quarantined(_) => "quarantined",
                Remedy::Repaired => "repaired",
            },
        });
        Self {
            depth: report.depth.to_string(),
            sound: scrubbed.sound,
            stored_objects: report.stored_objects,
            packs: report.packs,
            blobs: report.blobs,
            bytes: report.bytes,
            seconds: took.as_secs_f64(),
            damage_count: report.damage_count,
            damage: damage.collect(),
            objects_count: report.objects_count,
            objects: report.objects.iter().map(DamagedView::from).collect(),
            contradictions_count: report.contradictions_count,
            contradictions: report.contradictions.clone(),
            strays: report.strays,
            unknown: report.unknown.clone(),
            vanished: report.vanished,
            released: report.released,
            cursor: report.next.as_ref().map(ToString::to_string),
            lists_truncated: scrubbed.lists_truncated,
        }
    }

    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        for damage in &self.damage {
            writeln!(
                out,
                "damaged {}: {} bytes at {}: {} ({})",
                printable(&damage.path),
                damage.length,
                damage.offset,
                damage.problem,
                damage.remedy
            )?;
        }
        if !self.objects.is_empty() {
            DamagedView::table(out, &self.objects)?;
        }
        for line in &self.contradictions {
            writeln!(out, "catalog: {line}")?;
        }
        for path in &self.unknown {
            writeln!(out, "not ours: {}", printable(path))?;
        }
        let mut lines = vec![
            ("depth", self.depth.clone()),
            ("stored objects", self.stored_objects.to_string()),
            ("packs", self.packs.to_string()),
            ("blobs opened", self.blobs.to_string()),
            ("read", size(self.bytes)),
            ("damage", self.damage_count.to_string()),
            ("objects damaged", self.objects_count.to_string()),
        ];
        if let Some(cursor) = &self.cursor {
            lines.push(("go on with --from", format!("'{cursor}'")));
        }
        fields(out, &lines)
    }

    fn complain(&self) -> Result<(), Failure> {
        if self.sound {
            return Ok(());
        }
        let line = match (self.damage_count, self.objects_count, self.contradictions_count) {
            (0, 0, _) => "the catalog contradicts the store; `cairn rebuild` makes it anew".to_owned(),
            (damage, 0, _) => format!("{damage} damaged in the store; no object is known to be concerned"),
            (_, objects, _) => {
                format!(
                    "{objects} objects are damaged; restore what is named from a copy of the store, or put them again"
                )
            }
        };
        Err(Failure::new(DAMAGED, line))
    }
}
