//! The network service: gRPC over the engine.

pub mod proto;
