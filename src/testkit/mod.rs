//! What tests, benches and fuzz targets share: feature "testkit".

pub mod faulty;
pub mod fuzz;
pub mod model;
#[cfg(feature = "s3")]
pub mod s3_server;

/// The rows of a repository, for those who fill its catalog with what was never put.
pub fn catalog(repository: &crate::engine::Repository) -> crate::catalog::RepositoryCatalog {
    repository.core().catalog.clone()
}
