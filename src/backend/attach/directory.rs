//! A directory of a volume.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::local::LocalFileSystem;

use super::Attach;
use crate::backend::error::Error;
use crate::backend::location::Location;
use crate::backend::volume::{self, Volume};
use crate::backend::{Backend, blocking};

pub(super) async fn attach(path: PathBuf, attach: Attach) -> Result<Backend, Error> {
    let place = path.display().to_string();
    blocking(place, move || open(&path, attach)).await
}

fn open(path: &Path, attach: Attach) -> Result<Backend, Error> {
    if attach == Attach::CreateDirectory {
        create(path)?;
    }
    let root = std::fs::canonicalize(path).map_err(|error| at(path, error))?;
    let volume = Volume::new(root.clone())?;
    let files = LocalFileSystem::new_with_prefix(&root).map_err(|error| Error::from_store(place(&root), error))?;
    // Its default leaves durability to the page cache.
    let store = Arc::new(files.with_fsync(true));
    Ok(Backend::assemble(Location::Directory(root), store, Some(volume)))
}

/// Creates the directory durably: everything from the first directory that existed before is fsynced.
fn create(path: &Path) -> Result<(), Error> {
    let absolute = std::path::absolute(path).map_err(|error| at(path, error))?;
    match std::fs::metadata(&absolute) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(path, error)),
    }
    let existing = absolute
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("/"));
    volume::create_durably(&absolute, existing)
}

fn at(path: &Path, error: io::Error) -> Error {
    Error::from_io(place(path), error)
}

fn place(path: &Path) -> String {
    path.display().to_string()
}
