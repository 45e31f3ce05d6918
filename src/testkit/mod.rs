//! What tests, benches and fuzz targets share: feature "testkit".

pub mod faulty;
pub mod fuzz;
#[cfg(feature = "s3")]
pub mod s3_server;
