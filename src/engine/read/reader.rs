//! What a caller reads an object from.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::fetch::{Failed, Opened, fetch};
use super::plan::{Plan, quarantine_found};
use crate::backend::Class;
use crate::engine::budget::Paid;
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::repository::ObjectInfo;
use crate::format::ObjectVersion;

/// Plain bytes of a window, the unit of fetching and opening.
pub(crate) const WINDOW_BYTES: usize = 2 << 20;
/// What a window takes from the budget until it is open: what is fetched, and what comes out of it.
const WINDOW_COST: usize = 2 * WINDOW_BYTES;

/// A part of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ByteRange {
    /// All of it.
    #[default]
    All,
    /// From the first to the last byte, both included.
    Inclusive {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte.
        last: u64,
    },
    /// From an offset to the end.
    From(u64),
    /// So many bytes before the end.
    Last(u64),
}

impl ByteRange {
    /// The half-open range in an object of `size` bytes.
    fn resolve(self, size: u64) -> Result<Range<u64>> {
        let outside = || {
            let line = format!("the range lies outside the object, which has {size} bytes");
            Error::new(Reason::InvalidRange, line)
        };
        match self {
            ByteRange::All => Ok(0..size),
            ByteRange::Inclusive { first, last } if first <= last && last < size => Ok(first..last + 1),
            ByteRange::From(first) if first < size => Ok(first..size),
            ByteRange::Last(len) if len > 0 && len <= size => Ok(size - len..size),
            _ => Err(outside()),
        }
    }
}

/// An open object: verified bytes, in order. Its version is fixed, whatever is written meanwhile.
///
/// Windows are fetched ahead within the store's budget. Dropping it stops the fetching and lets go of its packs.
pub struct ObjectReader {
    core: Arc<Core>,
    info: ObjectInfo,
    range: Range<u64>,
    plan: Plan,
    ahead: VecDeque<Window>,
    /// Pays for what was returned last.
    paid: Option<Paid>,
    planned: bool,
}

struct Window {
    task: Fetching,
    paid: Paid,
}

/// A fetch that ends with its owner.
struct Fetching(JoinHandle<std::result::Result<Opened, Failed>>);

impl Drop for Fetching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ObjectReader {
    pub(crate) async fn open(core: Arc<Core>, object: ObjectVersion, range: ByteRange) -> Result<Self> {
        let range = range.resolve(object.size)?;
        let holder = Arc::new(core.in_flight.holder());
        let plan = Plan::new(core.clone(), holder, &object, range.clone())
            .await
            .map_err(|error| error.within(format!("object {:?}", object.name.as_str())))?;
        Ok(Self {
            core,
            info: ObjectInfo::from(object),
            range,
            plan,
            ahead: VecDeque::new(),
            paid: None,
            planned: false,
        })
    }

    /// The object that is being read.
    pub fn info(&self) -> &ObjectInfo {
        &self.info
    }

    /// How many bytes this reader returns in all.
    pub fn range_bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// The next bytes, about 2 MiB; `None` at the end.
    ///
    /// They lie in one buffer, which is used again once all of them are dropped: who keeps a few for long should copy them.
    ///
    /// # Errors
    /// `DataLoss` with the object, the offset and the pack; everything before it was right. `KeysUnavailable` once the
    /// key is taken away.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        self.core.revocation.check().map_err(|error| self.name(error))?;
        let core = self.core.clone();
        tokio::select! {
            next = self.advance() => next,
            error = core.revocation.revoked() => Err(error),
        }
    }

    async fn advance(&mut self) -> Result<Option<Bytes>> {
        self.paid = None;
        self.fetch_ahead().await.map_err(|error| self.name(error))?;
        let Some(mut window) = self.ahead.pop_front() else {
            return Ok(None);
        };
        let opened = match (&mut window.task.0).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(failed)) => return Err(self.fail(failed).await),
            Err(_) => return Err(Error::internal("a fetch ended early; the log has the cause")),
        };
        self.core.counters.read_bytes.add(opened.bytes.len() as u64);
        drop(window.paid.split(WINDOW_COST.saturating_sub(opened.held_bytes)));
        self.paid = Some(window.paid);
        Ok(Some(opened.bytes))
    }

    /// Starts fetches until enough are under way. Only the first waits for the budget: later ones take what is free.
    async fn fetch_ahead(&mut self) -> Result<()> {
        let windows_max = (self.core.options.read_ahead_bytes / WINDOW_BYTES)
            .min(self.core.options.read_fetches_max)
            .max(1);
        while !self.planned && self.ahead.len() < windows_max {
            let paid = match self.core.budget.try_pay_read(WINDOW_COST) {
                Some(paid) => paid,
                None if self.ahead.is_empty() => self.core.budget.pay_read(WINDOW_COST).await,
                None => break,
            };
            let window = self.plan.window(WINDOW_BYTES).await?;
            if window.is_empty() {
                self.planned = true;
                break;
            }
            let places = self.plan.places(&window)?;
            let task = Fetching(tokio::spawn(Class::carried(fetch(self.core.clone(), window, places))));
            self.ahead.push_back(Window { task, paid });
        }
        Ok(())
    }

    async fn fail(&self, failed: Failed) -> Error {
        if failed.error.reason() == Reason::DataLoss
            && let Some((pack, blobs)) = failed.damaged
        {
            quarantine_found(&self.core, pack, &blobs).await;
        }
        self.name(failed.error)
    }

    fn name(&self, error: Error) -> Error {
        error.within(format!("object {:?}", self.info.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_lie_in_the_object_or_are_refused() {
        let inclusive = |first, last| ByteRange::Inclusive { first, last };
        assert_eq!(inclusive(0, 9).resolve(10).unwrap(), 0..10);
        assert_eq!(ByteRange::From(4).resolve(10).unwrap(), 4..10);
        assert_eq!(ByteRange::Last(3).resolve(10).unwrap(), 7..10);
        assert_eq!(ByteRange::All.resolve(0).unwrap(), 0..0);
        for outside in [
            inclusive(0, 10),
            inclusive(5, 4),
            ByteRange::From(10),
            ByteRange::Last(11),
            ByteRange::Last(0),
        ] {
            assert_eq!(outside.resolve(10).unwrap_err().reason(), Reason::InvalidRange);
        }
    }
}
