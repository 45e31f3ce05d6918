//! What is counted about calls: by whoever takes them, since the store below does not know them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::backend::{Count, Histogram, HistogramSnapshot};

/// Counts of calls, and the way to all metrics. One for a process.
#[derive(Debug)]
pub struct Metrics {
    pub(super) started: SystemTime,
    calls: Mutex<BTreeMap<&'static str, Call>>,
    operations: Mutex<BTreeMap<&'static str, Operation>>,
    received: Count,
    sent: Count,
    connections: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Call {
    open: u64,
    codes: BTreeMap<&'static str, u64>,
    seconds: Histogram,
}

#[derive(Debug, Default)]
struct Operation {
    outcomes: BTreeMap<&'static str, u64>,
    running: Arc<AtomicU64>,
}

/// Calls of one name, at one moment.
pub(super) struct CallCounts {
    pub(super) open: u64,
    pub(super) codes: BTreeMap<&'static str, u64>,
    pub(super) seconds: HistogramSnapshot,
}

impl CallCounts {
    fn of(call: &Call) -> Self {
        Self {
            open: call.open,
            codes: call.codes.clone(),
            seconds: call.seconds.snapshot(),
        }
    }
}

/// Something that is open for as long as this is kept.
#[derive(Debug)]
pub struct Open(Arc<AtomicU64>);

impl Open {
    fn count(open: &Arc<AtomicU64>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing counted yet; the process is said to have started now.
    pub fn new() -> Self {
        Self {
            started: SystemTime::now(),
            calls: Mutex::default(),
            operations: Mutex::default(),
            received: Count::default(),
            sent: Count::default(),
            connections: Arc::default(),
        }
    }

    /// A call has come in.
    pub fn call_started(&self, call: &'static str) {
        self.calls.lock().entry(call).or_default().open += 1;
    }

    /// A call that was started has ended with `code` (`OK`, `NOT_FOUND`), `seconds` after it came in.
    pub fn call_ended(&self, call: &'static str, code: &'static str, seconds: f64) {
        let mut calls = self.calls.lock();
        let counted = calls.entry(call).or_default();
        counted.open = counted.open.saturating_sub(1);
        *counted.codes.entry(code).or_default() += 1;
        let span = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        counted.seconds.observe(span);
    }

    /// So many bytes of objects came in.
    pub fn received(&self, bytes: u64) {
        self.received.add(bytes);
    }

    /// So many bytes of objects went out.
    pub fn sent(&self, bytes: u64) {
        self.sent.add(bytes);
    }

    /// A connection is open until this is dropped.
    pub fn connection(&self) -> Open {
        Open::count(&self.connections)
    }

    /// A maintenance operation is under way until this is dropped.
    pub fn operation(&self, kind: &'static str) -> Open {
        Open::count(&self.operations.lock().entry(kind).or_default().running)
    }

    /// A maintenance operation has ended with `outcome` (`done`, `failed`, `cancelled`).
    pub fn operation_ended(&self, kind: &'static str, outcome: &'static str) {
        let mut operations = self.operations.lock();
        *operations.entry(kind).or_default().outcomes.entry(outcome).or_default() += 1;
    }

    pub(super) fn received_bytes(&self) -> u64 {
        self.received.value()
    }

    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent.value()
    }

    pub(super) fn connections_open(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Calls by name.
    pub(super) fn calls(&self) -> Vec<(&'static str, CallCounts)> {
        let calls = self.calls.lock();
        let counted = calls.iter().map(|(name, call)| (*name, CallCounts::of(call)));
        counted.collect()
    }

    /// Operations by kind: how many ended how, and how many run.
    pub(super) fn operations(&self) -> Vec<(&'static str, BTreeMap<&'static str, u64>, u64)> {
        let operations = self.operations.lock();
        let counted = operations.iter().map(|(kind, operation)| {
            let running = operation.running.load(Ordering::Relaxed);
            (*kind, operation.outcomes.clone(), running)
        });
        counted.collect()
    }
}
