//! What the engine promises, held from outside: one module per kind of claim.

mod faults;
mod memory;
mod model;
mod ownership;
mod world;
