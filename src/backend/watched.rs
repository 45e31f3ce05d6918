//! How a backend is doing: every request is watched in one place, the place is looked at, and a storage that failed is
//! tried out.

use bytes::Bytes;
use object_store::path::Path as ObjectPath;

use super::counters::{Counters, Operation};
use super::error::{Cause, Error, ErrorKind};
use super::health::{Health, Trouble};
use super::shaping::Shaper;
use super::volume::{Look, Volume};
use super::{Backend, Room};

impl Backend {
    /// Looks at the place without writing there: three system calls on a volume, nothing elsewhere. Blocks while a network
    /// file system does not answer.
    pub fn look(&self) -> Look {
        self.inner.volume.as_ref().map_or_else(Look::endless, Volume::look)
    }

    /// What was asked of the storage, and how it answered.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// How fast it may be asked, and what passed.
    pub fn shaper(&self) -> &Shaper {
        &self.inner.shaper
    }

    /// What failed lately.
    pub fn health(&self) -> &Health {
        &self.inner.health
    }

    /// Writes, reads and deletes a small object that no listing shows, and remembers in [`health`](Self::health) that the
    /// storage answers, or how it fails.
    pub async fn try_out(&self) -> Result<(), Error> {
        let object = ObjectPath::from(self.inner.trial.as_str());
        let tried = async {
            let contents = Bytes::from(self.inner.trial.clone());
            self.put_object(&object, contents.clone(), Room::Free).await?;
            let found = self.watched(Operation::Get, 0, self.get_object(&object, None)).await?.0;
            self.delete_object(&object).await?;
            Ok::<_, Error>(found == contents)
        };
        match tried.await {
            Ok(true) => self.inner.health.answer(&[]),
            Ok(false) => {
                let cause = Cause::text("a trial object reads back different from what was written");
                let path = self.place(&self.inner.trial);
                let error = Error::Io { path, cause };
                self.remember(&error, 0);
                return Err(error);
            }
            // It answers, and says so in time.
            Err(error) if matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::ReadOnly) => {
                self.inner.health.answer(&[Trouble::NoSpace, Trouble::ReadOnly]);
                return Err(error);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Where every request waits until it may be made, is counted, and is remembered if it fails: with the bytes that it is
    /// known to store or read.
    pub(super) async fn watched<T>(
        &self,
        operation: Operation,
        bytes: u64,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.inner.shaper.pass(bytes).await;
        let result = self.inner.counters.watch(operation, work).await;
        if let Err(error) = &result {
            self.remember(error, bytes);
        }
        result
    }

    fn remember(&self, error: &Error, bytes: u64) {
        if let Some(trouble) = Trouble::of(error) {
            if self.is_seen(trouble, bytes) {
                self.inner.health.wake();
            } else {
                self.inner.health.record(trouble, error);
            }
        }
    }

    /// Whether a look at the volume shows this trouble by itself. It then shows its end as well, so nothing need be
    /// remembered of it.
    fn is_seen(&self, trouble: Trouble, bytes: u64) -> bool {
        if !self.is_volume() {
            return false;
        }
        match trouble {
            Trouble::Gone => true,
            Trouble::NoSpace => self.is_full(bytes),
            Trouble::ReadOnly => self.look().is_read_only,
            Trouble::Permission => self.look().refused.is_some(),
            Trouble::Io | Trouble::Fsync | Trouble::Unreachable | Trouble::Credentials => false,
        }
    }

    /// Whether the numbers of the volume say themselves that there is no room for so many bytes.
    fn is_full(&self, bytes: u64) -> bool {
        // Blocks, directories and what is written elsewhere at the same time.
        const SLACK_BYTES: u64 = 1 << 20;
        const SLACK_INODES: u64 = 8;
        match self.inner.volume.as_ref().map(Volume::left) {
            Some(Ok(space)) => {
                let inodes_full = space.inodes_total > 0 && space.inodes_free < SLACK_INODES;
                inodes_full || space.available < bytes.saturating_add(SLACK_BYTES)
            }
            _ => false,
        }
    }
}

/// What names of trial objects start with. They stand beside the store's files, for an instant.
pub(super) const TRIAL_PREFIX: &str = ".probe-";

/// A name that two agents do not share, unless the operating system has nothing random to give: then they may disturb
/// each other's trials, and nothing else.
pub(super) fn trial_name() -> String {
    let id = getrandom::u64().unwrap_or(0);
    format!("{TRIAL_PREFIX}{id:016x}")
}
