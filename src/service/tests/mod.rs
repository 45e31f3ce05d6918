//! The services as clients see them: a store in memory, a connection in memory, the generated client.

mod calls;
mod decommission;
mod get;
mod keys;
mod limits;
mod maintenance;
mod objects;
mod put;
mod repositories;
mod schedule;
mod scrub;
mod status;
mod streams;
mod world;
