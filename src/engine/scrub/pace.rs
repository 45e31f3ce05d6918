//! How fast a scrub reads, by its own options. What all scrubs together may ask of the storage is the backend's shaping.

use std::num::NonZeroU64;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::backend::Bucket;

/// Bytes are taken before they are read, and whoever takes more than there is waits.
pub(super) struct Pace {
    bucket: Option<Mutex<Bucket>>,
}

impl Pace {
    pub(super) fn new(rate_bytes: Option<NonZeroU64>) -> Self {
        Self {
            bucket: rate_bytes.map(|rate| Mutex::new(Bucket::new(rate, Instant::now()))),
        }
    }

    pub(super) async fn take(&self, bytes: u64) {
        if let Some(bucket) = &self.bucket {
            let due = bucket.lock().take(bytes, Instant::now());
            sleep_until(due).await;
        }
    }
}
