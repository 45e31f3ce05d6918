//! What the tests of this folder share, and the golden objects.

pub(super) mod fixtures;
mod golden;
