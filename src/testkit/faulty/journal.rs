//! What happened, in one order for everything that takes part: stores, catalogs, callers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Gives moments out, each later than the one before. Clones give out the same ones.
#[derive(Debug, Clone, Default)]
pub struct Timeline(Arc<AtomicUsize>);

impl Timeline {
    /// The next moment.
    pub fn now(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// Kinds of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A put, also a conditional one.
    Put,
    /// A get of any kind, also of the head only.
    Get,
    /// A listing of any kind.
    List,
    /// A deletion.
    Delete,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// When, on the timeline of the store.
    pub at: usize,
    /// Number of the operation.
    pub operation: usize,
    /// What it is.
    pub kind: Kind,
    /// The object, or the prefix of a listing.
    pub path: String,
    /// Whether it began, or ended and how.
    pub step: Step,
    /// The bytes of a put.
    pub payload: Option<Bytes>,
}

/// A step of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It was asked for.
    Began,
    /// It was done, and the caller told so.
    Done,
    /// The caller was told that it failed.
    Failed,
}
