//! A bar for work that takes longer than a moment, on standard error and only if that is a terminal.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

/// Work that is done before this never shows a bar.
const DELAY: Duration = Duration::from_secs(1);
const REDRAW: Duration = Duration::from_millis(100);

/// What work in steps does now, and how far that is.
pub(crate) struct Step {
    /// In a word or two.
    pub(crate) doing: &'static str,
    pub(crate) done: u64,
    /// 0 if that is not known.
    pub(crate) of: u64,
}

/// Shows how far the work is until it is dropped.
pub(crate) struct Progress {
    done: Counter,
    bar: ProgressBar,
    drawing: Option<JoinHandle<()>>,
}

/// How much is done: added to by the work, read by the bar.
#[derive(Clone, Default)]
pub(crate) struct Counter(Arc<Counts>);

#[derive(Default)]
struct Counts {
    done: AtomicU64,
    /// Known only later, if at all; 0 until then.
    total: AtomicU64,
}

impl Counter {
    pub(crate) fn add(&self, amount: u64) {
        self.0.done.fetch_add(amount, Ordering::Relaxed);
    }

    /// For work that counts by itself: how much is done of how much, 0 if that is not known.
    pub(crate) fn set(&self, done: u64, total: u64) {
        self.0.done.store(done, Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.done.load(Ordering::Relaxed)
    }

    fn total(&self) -> u64 {
        self.0.total.load(Ordering::Relaxed)
    }
}

const BYTES_OF_TOTAL: &str = "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
const BYTES: &str = "{prefix} {spinner} {bytes} {bytes_per_sec}";

impl Progress {
    /// Counts bytes; without a total it shows the amount and the rate.
    pub(crate) fn bytes(doing: &'static str, total: Option<u64>) -> Self {
        let template = match total {
            Some(_) => BYTES_OF_TOTAL,
            None => BYTES,
        };
        Self::start(doing, total, template)
    }

    /// Counts objects.
    pub(crate) fn objects(doing: &'static str, total: u64) -> Self {
        Self::start(doing, Some(total), "{prefix} {wide_bar} {pos}/{len} {eta}")
    }

    /// Shows only that something is going on.
    pub(crate) fn unmeasured(doing: &'static str) -> Self {
        Self::start(doing, None, "{prefix} {spinner} {elapsed}")
    }

    /// Shows the step that `step` tells, whenever it draws.
    pub(crate) fn steps(doing: &'static str, step: impl Fn() -> Step + Send + 'static) -> Self {
        let template = "{prefix} {msg} {wide_bar} {pos}/{len} {elapsed}";
        Self::start_with(doing, None, template, |_, _| {
            Box::new(move |bar| {
                let step = step();
                bar.set_message(step.doing);
                bar.set_length(step.of);
                bar.set_position(step.done);
            })
        })
    }

    pub(crate) fn counter(&self) -> Counter {
        self.done.clone()
    }

    fn start(doing: &'static str, total: Option<u64>, template: &'static str) -> Self {
        Self::start_with(doing, total, template, |_, done| {
            Box::new(move |bar| {
                // Only bytes are counted by those who learn late how many there are.
                if done.total() > 0 {
                    let is_new = bar.length().is_none();
                    bar.set_length(done.total().max(done.value()));
                    if let (true, Ok(style)) = (is_new, ProgressStyle::with_template(BYTES_OF_TOTAL)) {
                        bar.set_style(style);
                    }
                }
                bar.set_position(done.value());
            })
        })
    }

    fn start_with(
        doing: &'static str,
        total: Option<u64>,
        template: &'static str,
        tell: impl FnOnce(&ProgressBar, Counter) -> Tell,
    ) -> Self {
        let done = Counter::default();
        let bar = ProgressBar::hidden();
        let drawing = io::stderr().is_terminal().then(|| {
            bar.set_prefix(doing);
            if let Some(total) = total {
                bar.set_length(total);
            }
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            tokio::spawn(draw(bar.clone(), tell(&bar, done.clone())))
        });
        Self { done, bar, drawing }
    }
}

/// Tells a bar how far the work is.
type Tell = Box<dyn Fn(&ProgressBar) + Send>;

async fn draw(bar: ProgressBar, tell: Tell) {
    tokio::time::sleep(DELAY).await;
    bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
    loop {
        tell(&bar);
        bar.tick();
        tokio::time::sleep(REDRAW).await;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(drawing) = &self.drawing {
            drawing.abort();
            // Finished before the task has ended: a finished bar draws no more.
            self.bar.finish_and_clear();
        }
    }
}
