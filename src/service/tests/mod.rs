//! The services as clients see them: a store in memory, a connection in memory, the generated client.

mod put;
mod world;
