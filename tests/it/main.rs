//! Tests of the whole: the real program driven as a user does, and the engine held to its promises from outside, one
//! module per kind of claim.
//!
//! What a machine cannot do (mounting needs root) is said on standard output as `not run: reason`; with `CI=true` that fails.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics says where; helpers are not told from programs"
)]

#[cfg(feature = "serve")]
#[allow(dead_code, reason = "each module of tests needs another part of it")]
mod agent;
mod architecture;
mod bad_input;
mod bucket;
mod cli;
mod durability;
mod faults;
#[cfg(feature = "serve")]
mod load;
mod memory;
#[cfg(feature = "serve")]
mod metrics;
mod model;
mod ownership;
mod plaintext;
#[cfg(feature = "serve")]
mod remote;
#[cfg(feature = "serve")]
mod serve;
mod support;
mod world;
