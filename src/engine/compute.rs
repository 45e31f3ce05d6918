//! The one bridge from async code to the CPU pool.
//!
//! Whatever touches payload bytes runs here: cutting, hashing, compressing, sealing and their inverses; only a short stream is
//! worked on, and a small pack finished, by whoever asks for it. The pool is sized once, from the CPU quota; a job whose
//! waiter is gone before it starts is skipped. Beside it there is a thread for what neither puts nor gets wait for.

use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;

use super::error::{Error, Result};
use crate::catalog::give_way;

/// A fixed pool of threads.
#[derive(Clone)]
pub(crate) struct Compute {
    pool: Arc<rayon::ThreadPool>,
    threads: usize,
    /// Jobs that run, or wait for a thread.
    jobs: Arc<AtomicUsize>,
}

impl Compute {
    pub(crate) fn new(threads: NonZeroUsize) -> Result<Self> {
        Self::start_threads(threads, "compute", || {})
    }

    /// One thread for work that neither puts nor gets wait for: it gives way to all others.
    pub(crate) fn background() -> Result<Self> {
        Self::start_threads(NonZeroUsize::MIN, "background", give_way)
    }

    fn start_threads(threads: NonZeroUsize, name: &'static str, begin: fn()) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.get())
            .thread_name(move |index| format!("cairn-{name}-{index}"))
            .start_handler(move |_| begin())
            // Without a handler rayon aborts the process. The waiter of the job gets an error instead, and the
            // panic hook has already reported the place.
            .panic_handler(|_| tracing::error!("a job of the engine panicked"))
            .build()
            .map_err(|source| Error::internal("the compute threads could not be started").caused_by(source))?;
        Ok(Self {
            pool: Arc::new(pool),
            threads: threads.get(),
            jobs: Arc::default(),
        })
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `work` on the pool and waits for its result. Dropping the future before the work has started skips it.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.start(move || {
            if !sender.is_closed() {
                let _ = sender.send(work());
            }
        });
        receiver.await.map_err(|_| panicked())
    }

    /// Starts `work` on the pool; it runs whether or not anybody waits.
    pub(crate) fn start<F>(&self, work: F)
    where
        F: FnOnce() + Send + 'static,
    {
        let job = Job::new(&self.jobs);
        self.pool.spawn_fifo(move || {
            let _job = job;
            work();
        });
    }

    /// Whether a thread has nothing to do, and no job is there for it. That may be over before the answer is used.
    pub(crate) fn has_idle_thread(&self) -> bool {
        self.jobs.load(Ordering::Relaxed) < self.threads
    }

    /// Whether a job waits for a thread. That may be over before the answer is used.
    pub(crate) fn has_waiting_job(&self) -> bool {
        self.jobs.load(Ordering::Relaxed) > self.threads
    }
}

/// Counts among the jobs until it is dropped.
struct Job(Arc<AtomicUsize>);

impl Job {
    fn new(jobs: &Arc<AtomicUsize>) -> Self {
        jobs.fetch_add(1, Ordering::Relaxed);
        Self(jobs.clone())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// So many bytes of a short stream are worked on by whoever has them: that takes less than to have another thread do it.
pub(crate) const SHORT_BYTES: usize = 16 << 10;

/// Does `work` here and now; if it panics that is an error, as it is of work on the pool.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        tracing::error!("a job of the engine panicked");
        panicked()
    })
}

fn panicked() -> Error {
    Error::internal("a job of the engine ended early; the log has the cause")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_returns_its_result() {
        let compute = Compute::new(NonZeroUsize::MIN).unwrap();
        assert_eq!(compute.run(|| 6 * 7).await.unwrap(), 42);
    }

    #[tokio::test]
    async fn jobs_count_until_they_end() {
        let compute = Compute::new(NonZeroUsize::MIN).unwrap();
        assert!(compute.has_idle_thread() && !compute.has_waiting_job());
        let (go, wait) = std::sync::mpsc::channel::<()>();
        compute.start(move || wait.recv().unwrap_or_default());
        assert!(!compute.has_idle_thread() && !compute.has_waiting_job());
        let last = compute.run(|| panic!("as it may"));
        let mut last = Box::pin(last);
        assert!(futures::poll!(&mut last).is_pending());
        assert!(compute.has_waiting_job());
        go.send(()).unwrap();
        last.await.unwrap_err();
        compute.run(|| ()).await.unwrap();
        while !compute.has_idle_thread() {
            tokio::task::yield_now().await;
        }
        assert!(!compute.has_waiting_job());
    }

    #[test]
    fn a_panic_of_work_done_here_is_an_error() {
        assert_eq!(caught(|| 6 * 7).unwrap(), 42);
        caught(|| panic!("as it may")).unwrap_err();
    }

    #[tokio::test]
    async fn the_background_gives_way() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let own = niceness();
        let background = Compute::background().unwrap();
        assert_eq!(background.run(niceness).await.unwrap(), (own + 10).min(19));
        assert_eq!(niceness(), own, "nobody else does");
    }
}
