//! What all commands share: the global flags and the store they lead to.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use parking_lot::Mutex;

use cairn_agent::config::{self, Place, PlaceFlags};
use cairn_agent::engine::{NewRepository, Reason, Repository, Store};
use cairn_agent::format::{NameError, ObjectName};

use crate::failure::{Failure, note};
use crate::output::{Format, Output};

#[derive(Args)]
pub(crate) struct GlobalFlags {
    /// Where the store is: a directory or s3://bucket/prefix [default: ./cairn-store]
    #[arg(
        long,
        value_name = "DIR|URL",
        global = true,
        env = "CAIRN_STORE",
        hide_env_values = true
    )]
    store: Option<OsString>,
    /// Where the catalog is, an index that can be rebuilt [default: <store>.catalog]
    #[arg(
        long,
        value_name = "DIR",
        global = true,
        env = "CAIRN_CATALOG",
        hide_env_values = true
    )]
    catalog: Option<PathBuf>,
    /// The file with the key: 32 bytes or 64 hex digits [default: <store>.key]
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        env = "CAIRN_KEY_FILE",
        hide_env_values = true
    )]
    key_file: Option<PathBuf>,
    /// The repository, by name or id
    #[arg(
        long,
        value_name = "R",
        global = true,
        default_value = "default",
        env = "CAIRN_REPO",
        hide_env_values = true
    )]
    repo: String,
    /// How results are printed
    #[arg(short, long, value_name = "FORMAT", global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
}

impl GlobalFlags {
    /// The places they name.
    pub(crate) fn place(self) -> PlaceFlags {
        PlaceFlags {
            store: self.store,
            catalog: self.catalog,
            key_file: self.key_file,
        }
    }
}

/// One run of a command. Opens the store when it is first needed.
pub(crate) struct Session {
    place: Place,
    repository: String,
    output: Output,
    store: Mutex<Option<Store>>,
}

impl Session {
    pub(crate) fn new(flags: GlobalFlags) -> Result<Self, Failure> {
        let (repository, output) = (flags.repo.clone(), flags.output);
        Ok(Self {
            place: Place::resolve(flags.place())?,
            repository,
            output: Output::new(output),
            store: Mutex::new(None),
        })
    }

    pub(crate) fn output(&self) -> Output {
        self.output
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// The repository's name or id, as the user gave it.
    pub(crate) fn repository_name(&self) -> &str {
        &self.repository
    }

    /// The store, which must exist.
    pub(crate) async fn store(&self) -> Result<Store, Failure> {
        match self.opened() {
            Some(store) => Ok(store),
            None => Ok(self.keep(self.open().await?)),
        }
    }

    /// The repository, which must exist.
    pub(crate) async fn repository(&self) -> Result<Repository, Failure> {
        Ok(self.store().await?.repository(&self.repository).await?)
    }

    /// The store; made with `first` in it if there is none.
    pub(crate) async fn store_or_new(&self, first: NewRepository) -> Result<Opened, Failure> {
        let opened = match Store::headers(&self.place.location).await {
            Ok(_) => Opened::Existing(self.open().await?),
            Err(error) if error.reason() == Reason::StoreNotFound => Opened::New(self.create(first).await?),
            Err(error) => return Err(error.into()),
        };
        self.keep(opened.store().clone());
        Ok(opened)
    }

    /// Finishes what is in flight.
    pub(crate) async fn close(&self) {
        if let Some(store) = self.opened() {
            store.close().await;
        }
    }

    fn opened(&self) -> Option<Store> {
        self.store.lock().clone()
    }

    fn keep(&self, store: Store) -> Store {
        *self.store.lock() = Some(store.clone());
        store
    }

    async fn open(&self) -> Result<Store, Failure> {
        match self.place.store_options() {
            Ok(options) => Ok(Store::open(options).await?),
            // That there is no store, or another's files, says more than that its key is not there.
            Err(error @ config::Error::KeyMissing { .. }) => {
                Store::headers(&self.place.location).await?;
                Err(error.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn create(&self, first: NewRepository) -> Result<Store, Failure> {
        if let Some(path) = self.place.create_missing_key()? {
            introduce_key(path);
        }
        Ok(Store::open_or_create(self.place.store_options()?, first).await?)
    }
}

/// A store, and whether it was made just now.
pub(crate) enum Opened {
    Existing(Store),
    New(Store),
}

impl Opened {
    pub(crate) fn store(&self) -> &Store {
        match self {
            Self::Existing(store) | Self::New(store) => store,
        }
    }
}

fn introduce_key(path: &std::path::Path) {
    note(&format!(
        "made the key file {}: whoever has it can read the store, losing it loses the data, so keep a copy elsewhere; on the \
         same disk as the store it protects against nobody who has that disk",
        path.display()
    ));
}

/// An object's name as typed, checked before anything is opened.
pub(crate) fn object_name(name: &OsString) -> Result<&str, Failure> {
    let checked = name.to_str().ok_or(NameError::NotUtf8).and_then(|text| {
        ObjectName::new(text)?;
        Ok(text)
    });
    checked.map_err(|error| Failure::usage(format!("object name {}: {error}", shortened(&name.to_string_lossy()))))
}

/// Enough of a text to recognise it by, with control characters made visible.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}
