//! The checkpoints that a writer writes, one after the other, beside the log.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::checkpoint;
use crate::engine::core::Core;
use crate::engine::error::{Error, Result};

type Reply = oneshot::Sender<Result<()>>;

/// The checkpoint under way, and who waits for it or for the next.
#[derive(Default)]
pub(crate) struct Checkpoints {
    /// At most one task; it ends with whoever drops this.
    under_way: JoinSet<Result<u64>>,
    /// Bytes that the last one took; 0 before the first.
    last_bytes: u64,
    waiting: Vec<Reply>,
    /// For them the one under way began too early.
    waiting_for_next: Vec<Reply>,
}

impl Checkpoints {
    /// Asks for one of everything that is committed by now.
    pub(super) fn ask(&mut self, reply: Reply) {
        self.waiting_for_next.push(reply);
    }

    /// Bytes of log after which one is written: eight times what the last one took, so that checkpoints add at most an eighth to
    /// what the log itself writes; but `least`, and 16 times that at most, since a rebuild reads all of it.
    pub(super) fn due_after(&self, least: u64) -> u64 {
        (8 * self.last_bytes).clamp(least, least.saturating_mul(16))
    }

    /// Begins one if it is asked for or `is_due`, unless one is under way.
    pub(super) fn begin(&mut self, core: &Arc<Core>, epoch: u64, is_due: bool) {
        let is_wanted = is_due || !self.waiting_for_next.is_empty();
        if !is_wanted || !self.under_way.is_empty() {
            return;
        }
        self.waiting = std::mem::take(&mut self.waiting_for_next);
        let core = core.clone();
        self.under_way
            .spawn(async move { checkpoint::write(&core, epoch).await });
    }

    /// Waits until the one under way ends, for ever if there is none. May be dropped and called again.
    pub(super) async fn ended(&mut self) -> Result<()> {
        let Some(ended) = self.under_way.join_next().await else {
            return std::future::pending().await;
        };
        let written = ended.unwrap_or_else(|_| Err(Error::internal("writing a checkpoint panicked")));
        self.last_bytes = written?;
        Ok(())
    }

    /// Tells those who waited for the one that ended.
    pub(super) fn answer(&mut self, core: &Core, written: Result<()>) {
        match &written {
            Ok(()) => core.counters.checkpoints.add(1),
            Err(error) => {
                tracing::error!(%error, "a checkpoint could not be written; the log stays longer");
                core.gate.poke();
            }
        }
        for reply in self.waiting.drain(..) {
            let _ = reply.send(written.clone());
        }
    }

    /// Whether none is under way and nobody waits for one.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty() && self.waiting_for_next.is_empty()
    }

    /// Gives up what is under way and asked for: the writer has failed, and the next one writes its own.
    pub(super) async fn give_up(&mut self, error: &Error) {
        self.under_way.shutdown().await;
        for reply in self.waiting.drain(..).chain(self.waiting_for_next.drain(..)) {
            let _ = reply.send(Err(error.clone()));
        }
    }
}
