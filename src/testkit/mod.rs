//! What tests, benches and fuzz targets share: feature "testkit".

#[cfg(feature = "s3")]
pub mod s3_server;
