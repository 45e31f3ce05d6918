//! A repository against a plain map: whatever is done to both, they say the same.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use crate::engine::{
    Blocking, ByteRange, Depth, Error, Precondition, PutOptions, Reason, ReclaimOptions, Repository, Result,
    ScrubOptions, ScrubProgress, ScrubReport,
};

/// Names and contents that a repository should have.
pub type Objects = BTreeMap<String, Arc<Vec<u8>>>;

/// Something to do to a repository.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Stores these bytes under a name.
    Put(String, Arc<Vec<u8>>),
    /// The same from a source that fails after so many of them.
    FailPut(String, Arc<Vec<u8>>, usize),
    /// Makes the second name an object with the content of the first.
    Copy(String, String),
    /// Reads a part of an object.
    Get(String, ByteRange),
    /// Removes an object.
    Delete(String),
    /// Gives back space.
    Reclaim(ReclaimOptions),
    /// Checks what is stored, which must be sound; in runs of so many bytes, each from the cursor of the one before.
    Scrub(Depth, Option<u64>),
    /// Makes the catalog anew, which must say what the former one said.
    Rebuild,
}

impl Operation {
    /// What the name it is about is to be afterwards, if it changes one.
    pub fn change(&self, objects: &Objects) -> Option<(String, Option<Arc<Vec<u8>>>)> {
        match self {
            Self::Put(name, bytes) => Some((name.clone(), Some(bytes.clone()))),
            Self::Copy(from, to) => objects.get(from).map(|bytes| (to.clone(), Some(bytes.clone()))),
            Self::Delete(name) => Some((name.clone(), None)),
            Self::FailPut(..) | Self::Get(..) | Self::Reclaim(_) | Self::Scrub(..) | Self::Rebuild => None,
        }
    }
}

/// What a repository should hold.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// Its objects.
    pub objects: Objects,
}

impl Model {
    /// Does it to the repository and to the model, and compares the answers. The model does not change with an error.
    ///
    /// # Errors
    /// Those that the model does not foresee.
    ///
    /// # Panics
    /// If the repository answers something else than the model.
    pub async fn apply(&mut self, repository: &Repository, operation: &Operation) -> Result<()> {
        match operation {
            Operation::Put(name, bytes) => self.put(repository, name, bytes).await,
            Operation::FailPut(name, bytes, end) => {
                let source = Blocking::new(Broken::after(bytes.clone(), *end));
                let put = repository.put(name, source, PutOptions::default()).await;
                foreseen(put.map(drop), Reason::SourceFailed)
            }
            Operation::Copy(from, to) => self.copy(repository, from, to).await,
            Operation::Get(name, range) => self.get(repository, name, *range).await,
            Operation::Delete(name) => {
                let deleted = repository.delete(name, Precondition::None).await?;
                assert_eq!(deleted, self.objects.remove(name).is_some(), "removing {name:?}");
                Ok(())
            }
            Operation::Reclaim(options) => repository.reclaim(*options).await.map(drop),
            Operation::Scrub(depth, bytes_max) => {
                let report = scrub(repository, *depth, *bytes_max).await?;
                assert!(report.is_sound(), "{report:?}");
                Ok(())
            }
            Operation::Rebuild => rebuild(repository).await,
        }
    }

    async fn put(&mut self, repository: &Repository, name: &str, bytes: &Arc<Vec<u8>>) -> Result<()> {
        let outcome = repository.put(name, bytes.as_slice(), PutOptions::default()).await?;
        assert_eq!(outcome.object.bytes, bytes.len() as u64);
        self.objects.insert(name.to_owned(), bytes.clone());
        Ok(())
    }

    async fn copy(&mut self, repository: &Repository, from: &str, to: &str) -> Result<()> {
        let copied = repository.copy(from, to, PutOptions::default()).await;
        let Some(bytes) = self.objects.get(from).cloned() else {
            return foreseen(copied.map(drop), Reason::ObjectNotFound);
        };
        assert_eq!(copied?.object.bytes, bytes.len() as u64);
        self.objects.insert(to.to_owned(), bytes);
        Ok(())
    }

    async fn get(&self, repository: &Repository, name: &str, range: ByteRange) -> Result<()> {
        let found = read(repository, name, range).await;
        let Some(bytes) = self.objects.get(name) else {
            return foreseen(found.map(drop), Reason::ObjectNotFound);
        };
        let Some(part) = part(bytes, range) else {
            return foreseen(found.map(drop), Reason::InvalidRange);
        };
        assert!(found? == bytes[part], "{name:?} {range:?} differs");
        Ok(())
    }

    /// The repository holds exactly what the model does.
    ///
    /// # Panics
    /// If it does not, or says that it cannot tell.
    pub async fn check(&self, repository: &Repository) {
        let expected: Vec<_> = self.objects.keys().cloned().collect();
        assert_eq!(names(repository).await.expect("names are listed"), expected);
        for (name, bytes) in &self.objects {
            let found = read(repository, name, ByteRange::All).await;
            let found = found.unwrap_or_else(|error| panic!("{name:?}: {error:?}"));
            assert!(found == bytes.as_slice(), "{name:?} differs");
        }
        let status = repository.status().expect("the catalog tells its totals");
        assert_eq!(status.objects, self.objects.len() as u64);
        let bytes = self.objects.values().map(|bytes| bytes.len() as u64);
        assert_eq!(status.logical_bytes, bytes.sum::<u64>());
    }
}

/// Packs of a put that failed may still be on their way; a commit that brings them in would change the numbers. So the
/// writer ends first, and what nothing refers to goes.
async fn rebuild(repository: &Repository) -> Result<()> {
    repository.close().await;
    repository.reclaim(ReclaimOptions::default()).await?;
    let before = repository.status()?;
    assert!(before.unique_bytes <= before.logical_bytes, "{before:?}");
    assert_eq!(before, repository.rebuild().await?, "a rebuild counts otherwise");
    Ok(())
}

/// What a scrub says at its end, however often it pauses.
///
/// # Errors
/// Those of the repository.
///
/// # Panics
/// If it comes to no end.
pub async fn scrub(repository: &Repository, depth: Depth, bytes_max: Option<u64>) -> Result<ScrubReport> {
    const RUNS_MAX: usize = 10_000;
    let progress = ScrubProgress::default();
    let mut from = None;
    for _ in 0..RUNS_MAX {
        let options = ScrubOptions {
            depth,
            from,
            bytes_max,
            ..ScrubOptions::default()
        };
        let report = repository.scrub(options, &progress).await?;
        let Some(next) = &report.next else {
            return Ok(report);
        };
        // As text, for that is what is kept.
        from = Some(next.to_string().parse()?);
    }
    panic!("a scrub comes to no end: {:?}", progress.report());
}

/// An operation that should fail for this reason.
fn foreseen(outcome: Result<()>, reason: Reason) -> Result<()> {
    let error: Error = outcome.expect_err("the model says that it fails");
    match error.reason() == reason {
        true => Ok(()),
        false => Err(error),
    }
}

/// The bytes that a range means; none if it does not lie in the object.
fn part(bytes: &[u8], range: ByteRange) -> Option<Range<usize>> {
    let len = bytes.len() as u64;
    let (start, end) = match range {
        ByteRange::All => return Some(0..bytes.len()),
        ByteRange::Inclusive { first, last } => (first, last.checked_add(1)?),
        ByteRange::From(first) => (first, len),
        ByteRange::Last(last) => (len.checked_sub(last)?, len),
    };
    (start < end && end <= len).then_some(start as usize..end as usize)
}

/// Reads an object, or a part of it.
///
/// # Errors
/// Those of the repository.
pub async fn read(repository: &Repository, name: &str, range: ByteRange) -> Result<Vec<u8>> {
    let mut reader = repository.get(name, range).await?;
    let mut all = Vec::with_capacity(reader.range_bytes() as usize);
    while let Some(part) = reader.next().await? {
        all.extend_from_slice(&part);
    }
    Ok(all)
}

/// Every name of a repository, sorted.
///
/// # Errors
/// Those of the repository.
pub async fn names(repository: &Repository) -> Result<Vec<String>> {
    const PAGE: usize = 7;
    let mut names = Vec::new();
    let mut after = None;
    loop {
        let page = repository.list("", after, PAGE).await?;
        names.extend(page.objects.into_iter().map(|object| object.name));
        after = page.next;
        if after.is_none() {
            names.sort();
            return Ok(names);
        }
    }
}

/// A source that fails on its way.
struct Broken {
    bytes: Arc<Vec<u8>>,
    at: usize,
    end: usize,
}

impl Broken {
    fn after(bytes: Arc<Vec<u8>>, end: usize) -> Self {
        let end = end.min(bytes.len());
        Self { bytes, at: 0, end }
    }
}

impl Read for Broken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.end {
            return Err(io::Error::other("the cable is out"));
        }
        let len = buffer.len().min(self.end - self.at);
        buffer[..len].copy_from_slice(&self.bytes[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}
