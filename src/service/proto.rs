//! The public contract as Rust: what the build makes of `proto/cairn/v1`.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    reason = "generated code"
)]

tonic::include_proto!("cairn.v1");

/// The contract itself, for reflection: an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cairn.v1.binpb"));
