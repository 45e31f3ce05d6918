//! What tests, benches and fuzz targets share: feature "testkit".

pub mod faulty;
#[cfg(feature = "s3")]
pub mod s3_server;
