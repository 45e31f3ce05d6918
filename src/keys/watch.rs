//! Keys at a path that changes: a file, or a directory in which each file is a key, such as a mounted Secret.
//!
//! A Secret is replaced by one rename of its `..data` link, so the files are read below what that link leads to: all of the
//! former or all of the new ones. Names that begin with a dot, and directories, are none of the keys.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::file::{Error, FileKek, load_key_file};

/// The link that the current contents of a mounted Secret are behind.
const DATA: &str = "..data";
/// More keys than anybody has; a wrong directory is noticed by it.
const KEYS_MAX: usize = 1024;

/// Reads every key at `path`. Two files with the same key give it once.
///
/// # Errors
/// If anything there is no key, which is then named; nothing is returned of the others. `Missing` if nothing is there.
pub fn read_all(path: &Path) -> Result<Vec<FileKek>, Error> {
    let mut keks: Vec<FileKek> = Vec::new();
    for file in files(path)? {
        let kek = load_key_file(&file)?;
        if !keks.iter().any(|other| other.id == kek.id) {
            keks.push(kek);
        }
    }
    Ok(keks)
}

/// What can be seen of the keys at a path without reading them: two equal ones mean that nothing has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    files: Vec<(PathBuf, [i64; 5])>,
}

impl Stamp {
    /// Looks at `path`. Nothing there is a stamp too.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn of(path: &Path) -> Result<Self, Error> {
        let files = match files(path) {
            Ok(files) => files,
            Err(Error::Missing { .. }) => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let stamped = files.into_iter().map(|file| {
            let numbers = numbers(&fs::metadata(&file).map_err(|error| failed(&file, error))?);
            Ok((file, numbers))
        });
        Ok(Self {
            files: stamped.collect::<Result<_, _>>()?,
        })
    }

    /// Whether there was nothing.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

/// Whether what is at `path` can be read again and again; a pipe gives its key once.
pub fn can_change(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |found| found.is_file() || found.is_dir())
}

fn numbers(file: &Metadata) -> [i64; 5] {
    [
        file.dev().cast_signed(),
        file.ino().cast_signed(),
        file.len().cast_signed(),
        file.mtime(),
        file.mtime_nsec(),
    ]
}

/// The file itself, or the files of the directory in the order of their names.
fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let found = fs::metadata(path).map_err(|error| failed(path, error))?;
    if !found.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let directory = match fs::canonicalize(path.join(DATA)) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(failed(path, error)),
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(&directory).map_err(|error| failed(&directory, error))? {
        let entry = entry.map_err(|error| failed(&directory, error))?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let file = entry.path();
        if !fs::metadata(&file).map_err(|error| failed(&file, error))?.is_dir() {
            files.push(file);
        }
        if files.len() > KEYS_MAX {
            let source = io::Error::other(format!(
                "more than {KEYS_MAX} files; is this the directory of the keys?"
            ));
            return Err(failed(path, source));
        }
    }
    files.sort();
    Ok(files)
}

fn failed(path: &Path, source: io::Error) -> Error {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => Error::Missing { path },
        _ => Error::Io { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(path: &Path) -> Vec<String> {
        let mut ids: Vec<_> = read_all(path).unwrap().into_iter().map(|kek| kek.id).collect();
        ids.sort();
        ids
    }

    fn write_key(path: &Path, fill: u8) -> String {
        fs::write(path, [fill; 32]).unwrap();
        load_key_file(path).unwrap().id
    }

    #[test]
    fn a_file_is_one_key_and_a_directory_all_of_its_files() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let one = write_key(&root.join("one"), 1);
        let two = write_key(&root.join("two"), 2);
        write_key(&root.join("again"), 2);
        fs::write(root.join(".hidden"), "no key").unwrap();
        fs::create_dir(root.join("below")).unwrap();
        assert_eq!(ids(&root.join("one")), [one.clone()]);
        let mut both = vec![one, two];
        both.sort();
        assert_eq!(ids(root), both);
        assert!(matches!(read_all(&root.join("none")), Err(Error::Missing { .. })));
    }

    #[test]
    fn one_bad_file_spoils_the_set_and_is_named() {
        let directory = tempfile::tempdir().unwrap();
        write_key(&directory.path().join("good"), 1);
        fs::write(directory.path().join("half"), "00112233").unwrap();
        let error = read_all(directory.path()).unwrap_err().to_string();
        assert!(error.contains("half"), "{error}");
    }

    #[test]
    fn a_mounted_secret_changes_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let link = |to: &str| {
            std::os::unix::fs::symlink(to, root.join("..new")).unwrap();
            fs::rename(root.join("..new"), root.join(DATA)).unwrap();
        };
        for (generation, fill) in [("..1", 1), ("..2", 2)] {
            fs::create_dir(root.join(generation)).unwrap();
            write_key(&root.join(generation).join("key"), fill);
        }
        link("..1");
        std::os::unix::fs::symlink("..data/key", root.join("key")).unwrap();
        let (former, stamp) = (ids(root), Stamp::of(root).unwrap());
        assert_eq!(former.len(), 1);
        assert_eq!(Stamp::of(root).unwrap(), stamp);
        link("..2");
        assert_ne!(Stamp::of(root).unwrap(), stamp);
        assert_ne!(ids(root), former);
    }

    #[test]
    fn what_is_gone_has_an_empty_stamp() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        assert!(Stamp::of(&path).unwrap().is_empty());
        write_key(&path, 1);
        let stamp = Stamp::of(&path).unwrap();
        assert!(!stamp.is_empty());
        write_key(&path, 2);
        fs::File::open(&path)
            .unwrap()
            .set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        assert_ne!(Stamp::of(&path).unwrap(), stamp);
    }
}
