//! Where a store, its catalog and its key are.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::Error;
use crate::backend::Location;
use crate::catalog;
use crate::engine::{Options, StoreOptions};
use crate::format::Kek;
use crate::keys;

/// The store when none is named.
const STORE_DEFAULT: &str = "./cairn-store";

/// The places as flags or environment name them.
#[derive(Clone, Debug, Default)]
pub struct PlaceFlags {
    /// Directory or URL of the store; `./cairn-store` if absent.
    pub store: Option<OsString>,
    /// Directory of the catalog; `<store>.catalog` if absent.
    pub catalog: Option<PathBuf>,
    /// File with the key; `<store>.key` if absent.
    pub key_file: Option<PathBuf>,
}

/// The places, with defaults filled in. Nothing has been looked at yet.
#[derive(Clone, Debug)]
pub struct Place {
    /// The store.
    pub location: Location,
    catalog: Option<catalog::Location>,
    key_file: Option<KeyFile>,
}

/// A key file, and who chose it: one that a user named is never created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyFile {
    /// Named by the user.
    Given(PathBuf),
    /// Beside the store.
    Default(PathBuf),
}

impl KeyFile {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Given(path) | Self::Default(path) => path,
        }
    }
}

impl Place {
    /// Fills in what was not said.
    ///
    /// # Errors
    /// If the store is no place. What has no default is an error only where it is used: some commands need no key.
    pub fn resolve(flags: PlaceFlags) -> Result<Self, Error> {
        let location = location(flags.store.as_deref().unwrap_or(OsStr::new(STORE_DEFAULT)))?;
        let beside = |extension| match &location {
            Location::Directory(store) => beside(store, extension),
            _ => None,
        };
        let catalog = match flags.catalog.or_else(|| beside(".catalog")) {
            Some(directory) => Some(catalog::Location::Directory(directory)),
            None if matches!(location, Location::Memory(_)) => Some(catalog::Location::Memory),
            None => None,
        };
        let key_file = match flags.key_file {
            Some(path) => Some(KeyFile::Given(path)),
            None => beside(".key").map(KeyFile::Default),
        };
        Ok(Self {
            location,
            catalog,
            key_file,
        })
    }

    /// The key file.
    ///
    /// # Errors
    /// If there is no default for this store and none was given.
    pub fn key_file(&self) -> Result<&KeyFile, Error> {
        self.key_file.as_ref().ok_or_else(|| self.needed("--key-file FILE"))
    }

    /// What opens the store: reads the key.
    ///
    /// # Errors
    /// What is missing or wrong with catalog and key file.
    pub fn store_options(&self) -> Result<StoreOptions, Error> {
        let catalog = self.catalog()?;
        let kek = load_key(self.key_file()?.path())?;
        Ok(self.opened_with(catalog, vec![kek], Options::default()))
    }

    /// The same with keys from elsewhere, or none, and these options.
    ///
    /// # Errors
    /// If there is no default for the catalog and none was given.
    pub fn store_options_with(&self, keks: Vec<Kek>, options: Options) -> Result<StoreOptions, Error> {
        Ok(self.opened_with(self.catalog()?, keks, options))
    }

    fn opened_with(&self, catalog: catalog::Location, keks: Vec<Kek>, options: Options) -> StoreOptions {
        StoreOptions {
            location: self.location.clone(),
            catalog,
            keks,
            options,
        }
    }

    fn catalog(&self) -> Result<catalog::Location, Error> {
        self.catalog.clone().ok_or_else(|| self.needed("--catalog DIR"))
    }

    /// The id of the key that is there; none if nobody named a key file and there is none in the default place.
    ///
    /// # Errors
    /// If a key file that a user named is not there, or the file holds no key.
    pub fn key_id(&self) -> Result<Option<String>, Error> {
        match &self.key_file {
            None => Ok(None),
            Some(file) => match (load_key(file.path()), file) {
                (Err(Error::KeyMissing { .. }), KeyFile::Default(_)) => Ok(None),
                (loaded, _) => loaded.map(|kek| Some(kek.id)),
            },
        }
    }

    /// Makes a key in the default place if nothing is there; the path of the new file.
    ///
    /// Call it only where there is no store: a fresh key opens nothing that exists. Of two processes at it at once, one makes
    /// the key and both use it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn create_missing_key(&self) -> Result<Option<&Path>, Error> {
        let KeyFile::Default(path) = self.key_file()? else {
            return Ok(None);
        };
        match keys::create_key_file(path) {
            Ok(_) => Ok(Some(path)),
            Err(keys::Error::Exists { .. }) => Ok(None),
            Err(error) => Err(Error::KeyNotMade(error)),
        }
    }

    fn needed(&self, flag: &'static str) -> Error {
        Error::Needed {
            flag,
            store: self.location.to_string(),
        }
    }
}

/// A path need not be text; a URL is.
fn location(store: &OsStr) -> Result<Location, Error> {
    match store.to_str() {
        Some(text) => text.parse().map_err(Error::Store),
        None => Ok(Location::Directory(store.into())),
    }
}

/// `<store><extension>`; none if the store has no name of its own, as the root directory.
fn beside(store: &Path, extension: &str) -> Option<PathBuf> {
    // `.` and `..` get their names from where they lead.
    let resolved;
    let named = if store.file_name().is_some() {
        store
    } else {
        resolved = store.canonicalize().ok()?;
        &resolved
    };
    let mut name = named.file_name()?.to_owned();
    name.push(extension);
    Some(named.with_file_name(name))
}

fn load_key(path: &Path) -> Result<Kek, Error> {
    keys::load_key_file(path).map(Kek::from).map_err(Error::from)
}
