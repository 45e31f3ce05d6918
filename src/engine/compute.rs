//! The one bridge from async code to the CPU pool.
//!
//! Whatever touches payload bytes runs here: cutting, hashing, compressing, sealing and their inverses. The pool is
//! sized once, from the CPU quota; a job whose waiter is gone before it starts is skipped. Beside it there is a thread for
//! what neither puts nor gets wait for.

use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

use super::error::{Error, Result};
use crate::catalog::give_way;

/// A fixed pool of threads.
#[derive(Clone)]
pub(crate) struct Compute {
    pool: Arc<rayon::ThreadPool>,
    threads: usize,
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
        self.pool.spawn_fifo(move || {
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
        self.pool.spawn_fifo(work);
    }
}

/// Does `work`, which may block. On a runtime of several threads that is here, while another thread takes over what else there is
/// to do: nobody has to be woken for it, and nobody when it is done.
pub(crate) async fn in_place<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => tokio::task::spawn_blocking(work).await.map_err(|_| panicked()),
        _ => tokio::task::block_in_place(|| caught(work)),
    }
}

/// Does `work` here and now; if it panics that is an error, as it is of work on the pool.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).map_err(|_| panicked())
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
    async fn the_background_gives_way() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let own = niceness();
        let background = Compute::background().unwrap();
        assert_eq!(background.run(niceness).await.unwrap(), (own + 10).min(19));
        assert_eq!(niceness(), own, "nobody else does");
    }

    #[tokio::test]
    async fn work_that_blocks_leaves_a_runtime_of_one_thread() {
        let here = std::thread::current().id();
        assert_ne!(in_place(|| std::thread::current().id()).await.unwrap(), here);
        in_place(|| panic!("as it may")).await.unwrap_err();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn work_that_blocks_keeps_its_thread_and_no_other_task() {
        let blocked = async {
            let here = std::thread::current().id();
            let (sender, receiver) = std::sync::mpsc::channel();
            tokio::spawn(async move { sender.send(()) });
            let there = in_place(move || receiver.recv().map(|()| std::thread::current().id()));
            assert_eq!(there.await.unwrap(), Ok(here));
            in_place(|| panic!("as it may")).await.unwrap_err();
        };
        tokio::spawn(blocked).await.unwrap();
    }
}
