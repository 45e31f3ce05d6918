//! What tests, benches and fuzz targets share: feature "testkit".

pub mod faulty;
pub mod fuzz;
pub mod model;
#[cfg(feature = "s3")]
pub mod s3_server;
