//! Tests of the whole: the real program driven as a user does, and the engine held to its promises from outside, one
//! module per kind of claim.
//!
//! What a machine cannot do (mounting needs root) is said on standard output as `not run: reason`; with `CI=true` that fails.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics says where; helpers are not told from programs"
)]

#[cfg(feature = "serve")]
mod agent;
mod architecture;
mod bad_input;
mod bucket;
mod cli;
mod crash;
mod damage;
mod dedupe;
mod deeds;
mod durability;
mod evacuated;
mod faults;
mod full;
mod golden_store;
mod kill;
#[cfg(feature = "serve")]
mod load;
mod memory;
#[cfg(feature = "serve")]
mod metrics;
mod model;
mod modes;
mod ownership;
mod plaintext;
mod powercut;
#[cfg(feature = "serve")]
mod python;
mod quotes;
mod rebuilt;
#[cfg(feature = "serve")]
mod remote;
mod salvage;
#[cfg(feature = "serve")]
mod serve;
mod stale;
mod support;
mod world;
