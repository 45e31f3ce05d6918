//! Tests of the whole: the real program, driven as a user does, on real directories.
//!
//! What a machine cannot do (mounting needs root) is said on standard output as `not run: reason`; with `CI=true` that fails.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics says where; helpers are not told from programs"
)]

mod architecture;
mod bad_input;
mod cli;
mod durability;
mod faults;
mod memory;
mod model;
mod ownership;
mod plaintext;
mod support;
mod world;
