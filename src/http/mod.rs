//! What the HTTP port tells: metrics.

pub mod metrics;
