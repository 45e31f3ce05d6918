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
    /// Bytes of commit packs since the last one began that was written.
    commit_bytes: u64,
    /// Those of them from before the one under way.
    commit_bytes_before: u64,
    waiting: Vec<Reply>,
    /// For them the one under way began too early.
    waiting_for_next: Vec<Reply>,
}

impl Checkpoints {
    /// Asks for one of everything that is committed by now.
    pub(super) fn ask(&mut self, reply: Reply) {
        self.waiting_for_next.push(reply);
    }

    /// Another commit pack of so many bytes is on the log.
    pub(super) fn follow(&mut self, pack_bytes: u64) {
        self.commit_bytes += pack_bytes;
    }

    /// Whether one is to be written when the log has grown by so many bytes, blobs not counted. It has to have grown by `least`. Then
    /// commit packs have to come to 16 times what the last one took, so that checkpoints add at most a sixteenth to what commits
    /// write; unless the log has grown by 16 times `least`, since a rebuild reads all of it.
    pub(super) fn is_due(&self, log_bytes: u64, least: u64) -> bool {
        log_bytes >= least
            && (self.commit_bytes >= self.last_bytes.saturating_mul(16) || log_bytes >= least.saturating_mul(16))
    }

    /// Begins one if it is asked for or `is_due`, unless one is under way.
    pub(super) fn begin(&mut self, core: &Arc<Core>, epoch: u64, is_due: bool) {
        let is_wanted = is_due || !self.waiting_for_next.is_empty();
        if !is_wanted || !self.under_way.is_empty() {
            return;
        }
        let core = core.clone();
        self.start(async move { checkpoint::write(&core, epoch).await });
    }

    fn start(&mut self, writing: impl Future<Output = Result<u64>> + Send + 'static) {
        self.waiting = std::mem::take(&mut self.waiting_for_next);
        self.commit_bytes_before = self.commit_bytes;
        self.under_way.spawn(writing);
    }

    /// Waits until the one under way ends, for ever if there is none. May be dropped and called again.
    pub(super) async fn ended(&mut self) -> Result<()> {
        let Some(ended) = self.under_way.join_next().await else {
            return std::future::pending().await;
        };
        let written = ended.unwrap_or_else(|_| Err(Error::internal("writing a checkpoint panicked")));
        self.last_bytes = written?;
        self.commit_bytes -= self.commit_bytes_before;
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

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: u64 = 1000;

    /// One that is begun at this moment ends so.
    async fn end(checkpoints: &mut Checkpoints, ended: Result<u64>) {
        let is_written = ended.is_ok();
        checkpoints.start(async { ended });
        assert_eq!(checkpoints.ended().await.is_ok(), is_written);
    }

    #[tokio::test]
    async fn they_add_a_sixteenth_to_commits_unless_the_log_gets_long() {
        let mut checkpoints = Checkpoints::default();
        assert!(!checkpoints.is_due(LEAST - 1, LEAST));
        assert!(checkpoints.is_due(LEAST, LEAST), "the first one");
        checkpoints.follow(5000);
        end(&mut checkpoints, Ok(300)).await;
        checkpoints.follow(16 * 300 - 1);
        assert!(!checkpoints.is_due(LEAST, LEAST));
        assert!(!checkpoints.is_due(16 * LEAST - 1, LEAST));
        assert!(checkpoints.is_due(16 * LEAST, LEAST), "a rebuild reads all of it");
        checkpoints.follow(1);
        assert!(
            !checkpoints.is_due(LEAST - 1, LEAST),
            "commits had blobs, and few records"
        );
        assert!(checkpoints.is_due(LEAST, LEAST));
    }

    #[tokio::test]
    async fn one_that_failed_stays_due() {
        let mut checkpoints = Checkpoints::default();
        checkpoints.follow(1);
        end(&mut checkpoints, Ok(10)).await;
        checkpoints.follow(160);
        assert!(checkpoints.is_due(LEAST, LEAST));
        end(&mut checkpoints, Err(Error::internal("as it may"))).await;
        assert!(checkpoints.is_due(LEAST, LEAST));
        end(&mut checkpoints, Ok(10)).await;
        assert!(!checkpoints.is_due(LEAST, LEAST));
    }
}
