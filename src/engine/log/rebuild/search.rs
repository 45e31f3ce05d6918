//! Where a rebuild begins: a checkpoint, and the log after it.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::directories::Directories;
use super::progress::RebuildProgress;
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::log::checkpoint::read_root;
use crate::engine::log::replay::{Beyond, Continuation, LogEntry, continuation, lacking};
use crate::engine::log::salvage::{Readable, follow_gaps, not_condemned};
use crate::format::{CheckpointName, CheckpointRoot, PackName, Tip};

pub(super) type Base = (CheckpointName, CheckpointRoot);

/// The search for a checkpoint to begin with.
pub(super) struct Search<'a> {
    pub(super) core: &'a Arc<Core>,
    pub(super) directories: &'a Arc<Directories>,
    pub(super) progress: &'a RebuildProgress,
    /// Those that were not tried in vain, newest first.
    pub(super) roots: Vec<CheckpointName>,
    pub(super) newest_failed: bool,
    /// Whether a log that lacks commits is followed all the same.
    pub(super) salvages: bool,
    /// What such a log leaves.
    pub(super) left: Option<Left>,
}

/// What is left of a log that lacks commits, beside those that can be read.
pub(super) struct Left {
    pub(super) lost: Vec<RangeInclusive<u64>>,
    /// Packs that may be commits.
    pub(super) unreadable: Vec<PackName>,
    /// The commit pack that the checkpoint was written at, if it cannot be read.
    pub(super) tip: Option<PackName>,
    pub(super) chunk_packs: Vec<PackName>,
}

impl Search<'_> {
    /// The newest usable checkpoint whose tip is on the log, and the log after it.
    async fn base(&mut self) -> Result<(Option<Base>, Beyond)> {
        let mut newest: Option<Tip> = None;
        for name in self.roots.clone() {
            let root = match read_root(self.core, &name).await {
                Ok(root) => root,
                Err(error) if error.reason() == Reason::DataLoss => {
                    tracing::warn!(%error, "a checkpoint cannot be used; trying an older one");
                    self.newest_failed = true;
                    continue;
                }
                Err(error) => return Err(error),
            };
            newest.get_or_insert(root.tip);
            if !self.directories.has_tip(&root.tip).await? {
                continue;
            }
            if let Continuation::Unbroken(beyond) = self.beyond(Some(&root.tip)).await? {
                check_reaches(Some(&root.tip), &beyond, newest)?;
                return Ok((Some((name, root)), beyond));
            }
        }
        match self.beyond(None).await? {
            Continuation::Unbroken(beyond) => {
                check_reaches(None, &beyond, newest)?;
                Ok((None, beyond))
            }
            Continuation::Elsewhere => Err(lacking(&Error::data_loss(
                "the log does not begin with its first commit and no checkpoint covers the gap",
            ))),
        }
    }

    async fn beyond(&self, tip: Option<&Tip>) -> Result<Continuation> {
        continuation(self.directories.survey(tip, self.progress).await?, tip)
    }

    pub(super) async fn base_or_what_is_left(&mut self) -> Result<(Option<Base>, Beyond)> {
        self.left = None;
        match self.base().await {
            Err(error) if self.salvages && error.reason() == Reason::DataLoss => {
                tracing::error!(%error, "the log lacks commits; going on with what is left");
                self.what_is_left().await
            }
            found => found,
        }
    }

    /// The newest checkpoint that can be read, and what can be read of the log after it.
    async fn what_is_left(&mut self) -> Result<(Option<Base>, Beyond)> {
        let mut base = None;
        for name in &self.roots {
            match read_root(self.core, name).await {
                Ok(root) => {
                    base = Some((*name, root));
                    break;
                }
                Err(error) if error.reason() == Reason::DataLoss => {}
                Err(error) => return Err(error),
            }
        }
        let tip = base.as_ref().map(|(_, root)| root.tip);
        let survey = self.directories.survey(None, self.progress).await?;
        let has_tip = match &tip {
            Some(tip) => self.directories.has_tip(tip).await?,
            None => true,
        };
        let Readable { entries, lost } = follow_gaps(survey.commits, tip.as_ref());
        if base.is_none() && entries.is_empty() {
            return Err(Error::data_loss(
                "no commit and no checkpoint can be read; restore the store from a copy",
            ));
        }
        self.left = Some(Left {
            lost,
            chunk_packs: not_condemned(&survey.heads, &entries),
            unreadable: survey.unreadable.into_iter().map(|(name, _)| name).collect(),
            tip: tip.filter(|_| !has_tip).map(|tip| tip.pack),
        });
        let strays = Vec::new();
        Ok((base, Beyond { entries, strays }))
    }
}

/// A checkpoint is written at a commit that was acknowledged. A log that ends before the newest one lacks its end; without
/// this nothing would tell that anything is missing.
fn check_reaches(base: Option<&Tip>, beyond: &Beyond, checkpoint: Option<Tip>) -> Result<()> {
    let rank = |tip: &Tip| (tip.pack.number.epoch, tip.log_number);
    let end = beyond.entries.last().map(LogEntry::tip).or(base.copied());
    match checkpoint {
        Some(checkpoint) if end.is_none_or(|end| rank(&end) < rank(&checkpoint)) => {
            let number = checkpoint.log_number;
            let line = format!("commit {number} of the log, at which a checkpoint was written, is missing");
            Err(lacking(&Error::data_loss(line)))
        }
        _ => Ok(()),
    }
}
