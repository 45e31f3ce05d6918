//! Start: what the catalog has not seen of the log is applied to it.
//!
//! The log is the chain of previous-hashes that ends in the commit pack of the highest owner epoch and, within it, the
//! highest log number. Packs that came after the catalog's tip are listed; those that are commit packs are walked back
//! from that end to the tip. If the walk does not reach it, the catalog belongs to another history and is made anew.

use std::cmp::Reverse;
use std::collections::HashMap;

use futures::stream::{self, StreamExt};

use super::apply::{Committed, apply};
use crate::catalog::{EntriesRow, TipRow};
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::packs::{PackHead, read_children, read_directory, read_head};
use crate::engine::write::NewPack;
use crate::format::names::parse_pack;
use crate::format::{CommitSection, Directory, Entry, Hash32, PackKind, PackName, PackNumber, PackRef, Record, Tip};

/// Headers or directories read at once. A bucket answers each after tens of milliseconds, and a start may read
/// thousands; a directory may take 7 MiB.
pub(super) const READS_MAX: usize = 8;

/// A commit pack as read from the store.
#[derive(Clone)]
pub(crate) struct LogEntry {
    pub(crate) pack: PackRef,
    pub(crate) directory: Directory,
}

impl LogEntry {
    pub(crate) fn section(&self) -> &CommitSection {
        self.directory
            .commit
            .as_ref()
            .expect("only commit packs become log entries")
    }

    pub(crate) fn tip(&self) -> Tip {
        Tip {
            pack: self.pack.name,
            log_number: self.section().log_number,
            trailer_hash: self.pack.trailer_hash,
        }
    }

    pub(super) fn log_bytes(&self) -> u64 {
        log_bytes(&self.pack, &self.directory.entries)
    }
}

/// What a commit pack adds to the log: all of it but its blobs, which are no more to read for whoever follows the log than those of
/// other packs.
pub(super) fn log_bytes(pack: &PackRef, entries: &[Entry]) -> u64 {
    let blobs: u64 = entries.iter().map(|entry| u64::from(entry.stored_len)).sum();
    pack.size.saturating_sub(blobs)
}

/// What the store holds beyond a tip.
pub(crate) struct Beyond {
    /// The continuation of the log, oldest first.
    pub(crate) entries: Vec<LogEntry>,
    /// Packs that are neither on it nor introduced by it.
    pub(crate) strays: Vec<PackName>,
}

/// How the store relates to a tip.
pub(crate) enum Continuation {
    Unbroken(Beyond),
    /// The log of the store does not contain the tip.
    Elsewhere,
}

impl Survey {
    /// Without those that a salvage goes on without.
    pub(super) fn but_given_up(mut self, core: &Core) -> Self {
        self.unreadable.retain(|(name, _)| !core.is_given_up(name));
        self
    }
}

/// The packs that were created after a tip.
#[derive(Default)]
pub(crate) struct Survey {
    pub(super) heads: Vec<PackHead>,
    /// The commit packs among them, by the hash that names them in the next.
    pub(crate) commits: HashMap<Hash32, LogEntry>,
    /// Those that may be commit packs and cannot be read.
    pub(crate) unreadable: Vec<(PackName, Error)>,
}

/// Finds what follows `tip` in the store.
///
/// # Errors
/// `DataLoss` if a commit pack on the log is missing or unreadable.
pub(crate) async fn find_beyond(core: &Core, tip: Option<&Tip>) -> Result<Continuation> {
    continuation(survey(core, tip).await?.but_given_up(core), tip)
}

/// How the packs of the store that were created after `tip` continue it.
///
/// # Errors
/// `DataLoss` if a commit pack on the log is missing or unreadable.
pub(super) fn continuation(survey: Survey, tip: Option<&Tip>) -> Result<Continuation> {
    let Survey {
        heads,
        mut commits,
        unreadable,
    } = survey;
    let Some(newest) = take_newest(&mut commits) else {
        if let Some((_, error)) = unreadable.into_iter().next() {
            return Err(lacking(&error));
        }
        let strays = heads.into_iter().map(|head| head.name).collect();
        return Ok(Continuation::Unbroken(Beyond {
            entries: Vec::new(),
            strays,
        }));
    };
    let end = newest.pack.name.number;
    let walked = walk_back(commits, newest, tip);
    // What is said of a pack that is there says more than that a commit is missing.
    let hidden = unreadable.iter().find(|(name, _)| name.number < end);
    let Some(entries) = walked.map_err(|missing| lacking(hidden.map_or(&missing, |(_, error)| error)))? else {
        return Ok(Continuation::Elsewhere);
    };
    refuse_hidden_commits(unreadable, end, &entries)?;
    let strays = strays(heads, &entries);
    Ok(Continuation::Unbroken(Beyond { entries, strays }))
}

/// A pack whose header cannot be read may be a commit. Not if it comes before the end of an unbroken log, nor if the log
/// introduces it: then it is a chunk pack, which the rest can be read without.
fn refuse_hidden_commits(unreadable: Vec<(PackName, Error)>, end: PackNumber, entries: &[LogEntry]) -> Result<()> {
    let is_introduced = |name: &PackName| {
        let mut packs = entries.iter().flat_map(|entry| introduced(entry.section()));
        packs.any(|pack| pack.name == *name)
    };
    for (name, error) in unreadable {
        if name.number > end && !is_introduced(&name) {
            return Err(lacking(&error));
        }
        tracing::warn!(%error, "a pack cannot be read");
    }
    Ok(())
}

/// A log that cannot be followed, and what can be done.
pub(super) fn lacking(problem: &Error) -> Error {
    Error::data_loss(format!(
        "{problem}; bring the pack back from a copy of the store, or go on without what it recorded: `cairn rebuild --salvage`"
    ))
}

/// The packs that were created after `tip`, with their sizes.
pub(super) async fn list_packs(core: &Core, tip: Option<&Tip>) -> Result<Vec<(PackName, u64)>> {
    let after = tip.map(|tip| core.layout.pack(&tip.pack));
    let listed = core.backend.list(&core.layout.packs_prefix(), after.as_deref()).await?;
    let packs = listed.iter();
    Ok(packs
        .filter_map(|file| parse_pack(&file.path).map(|name| (name, file.size)))
        .collect())
}

/// Reads the headers of all packs that were created after `tip`, and the commit packs among them.
pub(crate) async fn survey(core: &Core, tip: Option<&Tip>) -> Result<Survey> {
    let packs = list_packs(core, tip).await?;
    let reads = stream::iter(packs).map(async |(name, size)| (name, read_head(core, name, size).await));
    let mut reads = reads.buffered(READS_MAX);
    let mut survey = Survey::default();
    while let Some((name, head)) = reads.next().await {
        match head {
            Ok(head) => survey.heads.extend(head),
            Err(error) if error.reason() == Reason::DataLoss => survey.unreadable.push((name, error)),
            Err(error) => return Err(error),
        }
    }
    for head in survey.heads.iter().filter(|head| head.kind == PackKind::Commit) {
        match read_entry(core, head).await {
            Ok(entry) => drop(survey.commits.insert(entry.pack.trailer_hash, entry)),
            Err(error) if error.reason() == Reason::DataLoss => survey.unreadable.push((head.name, error)),
            Err(error) => return Err(error),
        }
    }
    Ok(survey)
}

/// Takes out the end of the log: the highest log number of the highest owner epoch.
fn take_newest(commits: &mut HashMap<Hash32, LogEntry>) -> Option<LogEntry> {
    let rank = |entry: &LogEntry| {
        let number = entry.pack.name.number;
        (number.epoch, entry.section().log_number, Reverse(number.counter))
    };
    let newest = *commits.iter().max_by_key(|(_, entry)| rank(entry))?.0;
    commits.remove(&newest)
}

/// The entries from just above `tip` to `newest`, or none if the chain passes it by.
fn walk_back(
    mut commits: HashMap<Hash32, LogEntry>,
    newest: LogEntry,
    tip: Option<&Tip>,
) -> Result<Option<Vec<LogEntry>>> {
    let (base, base_hash) = tip.map_or((0, Hash32::ZERO), |tip| (tip.log_number, tip.trailer_hash));
    let mut chain = vec![newest];
    loop {
        let section = chain.last().expect("starts with one").section();
        let (number, previous) = (section.log_number, section.previous);
        if number == base + 1 {
            if previous != base_hash {
                return Ok(None);
            }
            break;
        }
        if number <= base {
            return Ok(None);
        }
        match commits.remove(&previous) {
            Some(entry) if entry.section().log_number + 1 == number => chain.push(entry),
            _ if tip.is_some() => return Ok(None),
            _ => return Err(missing_commit(number - 1)),
        }
    }
    chain.reverse();
    Ok(Some(chain))
}

fn strays(heads: Vec<PackHead>, entries: &[LogEntry]) -> Vec<PackName> {
    let mut known: std::collections::HashSet<PackName> = entries.iter().map(|entry| entry.pack.name).collect();
    for entry in entries {
        known.extend(introduced(entry.section()).iter().map(|pack| pack.name));
    }
    heads
        .into_iter()
        .map(|head| head.name)
        .filter(|name| !known.contains(name))
        .collect()
}

/// The packs that a log entry introduces, itself excepted.
pub(crate) fn introduced(section: &CommitSection) -> Vec<PackRef> {
    let lists = section.records.iter().filter_map(|record| match record {
        Record::Introduce(packs) => Some(packs),
        Record::Open { taken_over, .. } => Some(taken_over),
        _ => None,
    });
    lists.flatten().copied().collect()
}

async fn read_entry(core: &Core, head: &PackHead) -> Result<LogEntry> {
    let (pack, directory) = read_directory(core, &head.name).await?;
    if directory.commit.is_none() {
        return Err(no_records(&core.layout.pack(&head.name)));
    }
    Ok(LogEntry { pack, directory })
}

pub(super) fn no_records(path: &str) -> Error {
    Error::data_loss(format!(
        "pack {path} says that it is a commit pack but carries no records; the store is damaged"
    ))
}

/// Applies `entries` to the catalog. Packs that are missing because a later entry condemns them make the replay fall
/// back: `None` says that the catalog has to be made anew.
pub(crate) async fn apply_entries(
    core: &std::sync::Arc<Core>,
    mut tip: TipRow,
    entries: Vec<LogEntry>,
) -> Result<Option<TipRow>> {
    for entry in entries {
        let (commit, packs) = match load_entry(core, &entry).await {
            Ok(loaded) => loaded,
            Err(error) if error.reason() == Reason::DataLoss => {
                tracing::warn!(%error, "the log cannot be replayed into the catalog; making it anew");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut next = tip.clone();
        next.advance(entry.tip(), entry.log_bytes());
        next.sequence = last_sequence(entry.section()).unwrap_or(tip.sequence);
        let committed = Committed {
            commit,
            introduced: packs,
            section: entry.section().clone(),
            tip: next,
        };
        let shared = core.clone();
        let applied = tokio::task::spawn_blocking(move || apply(&shared, &committed));
        tip = match applied
            .await
            .map_err(|_| Error::internal("replaying a commit into the catalog panicked"))?
        {
            Ok(tip) => {
                core.counters.commits_replayed.add(1);
                tip
            }
            // Releases are not on the log. Where this catalog is behind with them, as after another owner's reclaim or
            // a power cut, packs still look used that were rightly condemned.
            Err(error) if error.reason() == Reason::DataLoss => {
                tracing::warn!(%error, "the log cannot be replayed into the catalog; making it anew");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
    }
    Ok(Some(tip))
}

pub(crate) fn last_sequence(section: &CommitSection) -> Option<u64> {
    let sequences = section.records.iter().filter_map(|record| match record {
        Record::Put(object) => Some(object.sequence),
        Record::Delete { sequence, .. } => Some(*sequence),
        _ => None,
    });
    sequences.max()
}

/// The commit pack of an entry and the packs that it introduces, with all that the catalog wants to know of them.
async fn load_entry(core: &Core, entry: &LogEntry) -> Result<(NewPack, Vec<NewPack>)> {
    let mut packs = Vec::new();
    for pack in introduced(entry.section()) {
        let (pack, directory) = read_directory(core, &pack.name).await?;
        packs.push(with_children(core, pack, PackKind::Chunk, &directory).await?);
    }
    let commit = with_children(core, entry.pack, PackKind::Commit, &entry.directory).await?;
    Ok((commit, packs))
}

async fn with_children(core: &Core, pack: PackRef, kind: PackKind, directory: &Directory) -> Result<NewPack> {
    let children = read_children(core, &pack.name, directory).await?;
    let entries = EntriesRow {
        births: directory.births.clone(),
        entries: directory.entries.clone(),
    };
    Ok(NewPack::of(pack, kind, entries, children))
}

fn missing_commit(number: u64) -> Error {
    Error::data_loss(format!("commit {number} of the log is missing"))
}
