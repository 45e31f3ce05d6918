//! The place that repositories are moved to: what may be there, and what is.

use crate::backend::{Attach, Backend, Location, Lock};
use crate::codec::RepositoryId;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::keyrings::{self, RepositoryHeader, Survey};
use crate::engine::random;
use crate::engine::store::{refuse_foreign, resolve, sweep};

/// The place, held for this process.
pub(super) struct Target {
    pub(super) backend: Backend,
    /// What the store there is, or will be, called.
    pub(super) store_id: [u8; 16],
    headers: Vec<RepositoryHeader>,
    _lock: Lock,
}

/// Attaches the place; a directory is made if it is not there.
///
/// # Errors
/// `InvalidArgument` if it is the store itself or they lie in each other.
pub(super) async fn attach(source: &Location, to: &Location) -> Result<Backend> {
    refuse_same(source, to)?;
    Ok(Backend::attach(to, Attach::CreateDirectory).await?)
}

impl Target {
    /// Looks at a place that `leaving` are to be moved to.
    ///
    /// # Errors
    /// `ForeignStore` if it holds something else; `StoreHeld` if another process works there; `RepositoryExists` if a
    /// repository of the same name is there that is none of these; `DataLoss` if what is there cannot be read.
    pub(super) async fn open(backend: Backend, leaving: &[RepositoryHeader]) -> Result<Self> {
        let lock = backend.lock()?;
        let Survey { headers, lost } = keyrings::survey(&backend).await?;
        if headers.is_empty() {
            refuse_foreign(&backend).await?;
            // Of ours, what lacks a keyring is what a run that was interrupted has left.
            let others = |id: &RepositoryId| !leaving.iter().any(|header| header.id == *id);
            if let Some((_, error)) = lost.into_iter().find(|(id, _)| others(id)) {
                return Err(error);
            }
        }
        sweep(&backend).await;
        let store_id = headers.first().map_or_else(random, |header| Ok(header.store_id))?;
        let target = Self {
            backend,
            store_id,
            headers,
            _lock: lock,
        };
        for header in leaving {
            target.refuse_twin(header)?;
        }
        Ok(target)
    }

    fn refuse_twin(&self, header: &RepositoryHeader) -> Result<()> {
        let is_twin = |there: &&RepositoryHeader| there.name == header.name && there.id != header.id;
        match self.headers.iter().find(is_twin) {
            None => Ok(()),
            Some(twin) => {
                let line = format!(
                    "{} has another repository called {:?}: {} there, {} here; move to a place of its own",
                    self.backend.location(),
                    header.name,
                    twin.id,
                    header.id
                );
                Err(Error::new(Reason::RepositoryExists, line))
            }
        }
    }

    /// The repository as it is there, if it has a keyring.
    pub(super) fn header(&self, id: RepositoryId) -> Option<&RepositoryHeader> {
        self.headers.iter().find(|header| header.id == id)
    }
}

/// # Errors
/// `InvalidArgument` if one place is the other one, or lies in it.
fn refuse_same(source: &Location, to: &Location) -> Result<()> {
    let is_same = match (source, to) {
        (Location::Directory(source), Location::Directory(to)) => {
            let absolute = std::path::absolute(to).unwrap_or_else(|_| to.clone());
            let (source, to) = (resolve(source), resolve(&absolute));
            source.starts_with(&to) || to.starts_with(&source)
        }
        (
            Location::S3 { bucket, prefix },
            Location::S3 {
                bucket: to_bucket,
                prefix: to_prefix,
            },
        ) => bucket == to_bucket && (is_within(prefix, to_prefix) || is_within(to_prefix, prefix)),
        (source, to) => source == to,
    };
    if !is_same {
        return Ok(());
    }
    let line = format!("{to} and the store {source} are the same place, or one lies in the other; name another one");
    Err(Error::new(Reason::InvalidArgument, line))
}

/// Whether a prefix is another one or lies in it.
fn is_within(prefix: &str, outer: &str) -> bool {
    outer.is_empty()
        || prefix
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_not_moved_into_itself() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("a")).unwrap();
        std::os::unix::fs::symlink(root.join("a"), root.join("link")).unwrap();
        let within = |path: &str| Location::Directory(root.join(path));
        let s3 = |prefix: &str| Location::S3 {
            bucket: "bucket".to_owned(),
            prefix: prefix.to_owned(),
        };
        let refused = [
            (within("a"), within("a")),
            (within("a"), within("a/b/c")),
            (within("a/b"), within("a")),
            (within("a"), within("link/new")),
            (s3("x"), s3("x")),
            (s3("x"), s3("x/y")),
            (s3("x"), s3("")),
        ];
        for (source, to) in refused {
            let error = refuse_same(&source, &to).unwrap_err();
            assert_eq!(error.reason(), Reason::InvalidArgument, "{source} to {to}");
        }
        let allowed = [
            (within("a"), within("ab")),
            (s3("x"), s3("xy")),
            (s3("x"), within("a")),
            (Location::Memory("a".to_owned()), Location::Memory("b".to_owned())),
        ];
        for (source, to) in allowed {
            refuse_same(&source, &to).unwrap();
        }
    }
}
