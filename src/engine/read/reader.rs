//! What a caller reads an object from.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::buffers::WORTH_KEEPING;
use super::fetch::{Failed, Opened, fetch};
use super::plan::{Place, Plan, Wanted, quarantine_found};
use crate::backend::Class;
use crate::engine::budget::Paid;
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::repository::ObjectInfo;
use crate::format::ObjectVersion;

/// Plain bytes of a window, the unit of fetching and opening.
pub(crate) const WINDOW_BYTES: usize = 2 << 20;
/// What a byte of a window takes from the budget until that is open: once as it is fetched, once as it comes out.
const BYTE_COST: usize = 2;

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
/// Windows are fetched ahead within the store's budget, if there is more than one. Dropping it stops the fetching and lets go of its
/// packs.
pub struct ObjectReader {
    core: Arc<Core>,
    info: ObjectInfo,
    range: Range<u64>,
    plan: Plan,
    ahead: VecDeque<Window>,
    /// Pays for what was returned last.
    paid: Option<Paid>,
    /// Whether a `next` began and did not end, or failed: where the next bytes begin is not known then.
    is_broken: bool,
}

struct Window {
    fetching: Fetching,
    paid: Paid,
}

enum Fetching {
    Ahead(Task),
    /// The only window there is: by whoever waits for it.
    Alone(Vec<Wanted>, Vec<Place>),
}

/// A fetch that ends with its owner.
struct Task(JoinHandle<std::result::Result<Opened, Failed>>);

impl Drop for Task {
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
            is_broken: false,
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
    /// key is taken away. `Cancelled` after a call that failed, or was dropped before it ended: the reader cannot go on.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        self.core.revocation.check().map_err(|error| self.name(error))?;
        if std::mem::replace(&mut self.is_broken, true) {
            self.let_go();
            let line = "an earlier read of this reader failed or was given up; get the object again";
            return Err(self.name(Error::new(Reason::Cancelled, line)));
        }
        let core = self.core.clone();
        let next = tokio::select! {
            next = self.advance() => next,
            error = core.revocation.revoked() => Err(error),
        };
        self.is_broken = next.is_err();
        if self.is_broken {
            self.let_go();
        }
        next
    }

    /// Of what nobody will read any more.
    fn let_go(&mut self) {
        self.ahead.clear();
        self.paid = None;
    }

    async fn advance(&mut self) -> Result<Option<Bytes>> {
        self.paid = None;
        self.fetch_ahead().await.map_err(|error| self.name(error))?;
        let Some(mut window) = self.ahead.pop_front() else {
            return Ok(None);
        };
        let fetched = match window.fetching {
            Fetching::Alone(wanted, places) => fetch(self.core.clone(), wanted, places).await,
            Fetching::Ahead(mut task) => (&mut task.0)
                .await
                .map_err(|_| Error::internal("a fetch ended early; the log has the cause"))?,
        };
        let opened = match fetched {
            Ok(opened) => opened,
            Err(failed) => return Err(self.fail(failed).await),
        };
        self.core.counters.read_bytes.add(opened.bytes.len() as u64);
        window.paid.keep(opened.held_bytes);
        self.paid = Some(window.paid);
        Ok(Some(opened.bytes))
    }

    /// Starts fetches until enough are under way. Only the first waits for the budget: later ones take what is free.
    async fn fetch_ahead(&mut self) -> Result<()> {
        let windows_max = (self.core.options.read_ahead_bytes / WINDOW_BYTES)
            .min(self.core.options.read_fetches_max)
            .max(1);
        while !self.plan.is_over() && self.ahead.len() < windows_max {
            // What is not small is given whole buffers.
            let bytes = match self.plan.window_bytes_at_most(WINDOW_BYTES) {
                small if small < WORTH_KEEPING => small,
                _ => WINDOW_BYTES,
            };
            let cost = BYTE_COST * bytes;
            let paid = match self.core.budget.try_pay_read(cost) {
                Some(paid) => paid,
                None if self.ahead.is_empty() => self.core.budget.pay_read(cost).await,
                None => break,
            };
            let window = self.plan.window(WINDOW_BYTES).await?;
            let places = self.plan.places(&window)?;
            let fetching = match self.ahead.is_empty() && self.plan.is_over() {
                true => Fetching::Alone(window, places),
                false => {
                    let fetching = fetch(self.core.clone(), window, places);
                    Fetching::Ahead(Task(tokio::spawn(Class::carried(fetching))))
                }
            };
            self.ahead.push_back(Window { fetching, paid });
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
