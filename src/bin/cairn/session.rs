//! What all commands share: the global flags and the store they lead to.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use parking_lot::Mutex;

use cairn_agent::backend::Location;
use cairn_agent::config::{self, Place, PlaceFlags};
use cairn_agent::engine::{self, NewRepository, Reason, RepositoryHeader};
use cairn_agent::format::{NameError, ObjectName};

use crate::choice::{Choice, choose, plainest};
use crate::failure::{Failure, note};
use crate::output::{Format, Output};
#[cfg(feature = "serve")]
use crate::target::remote;
use crate::target::{Key, Repository, Store, local};

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
    #[cfg(feature = "serve")]
    #[command(flatten)]
    agent: AgentFlags,
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

/// Where an agent is that has the store open.
#[cfg(feature = "serve")]
#[derive(Args, Clone)]
struct AgentFlags {
    /// Work through a running agent instead: unix:///path, http://host:port or https://host:port
    #[arg(
        long,
        value_name = "ADDR",
        global = true,
        env = "CAIRN_AGENT",
        hide_env_values = true
    )]
    agent: Option<String>,
    /// With https://: the certificates that the agent's own must come from
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        env = "CAIRN_TLS_CA",
        hide_env_values = true
    )]
    tls_ca: Option<PathBuf>,
    /// With https://: our certificate
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        env = "CAIRN_TLS_CERT",
        hide_env_values = true
    )]
    tls_cert: Option<PathBuf>,
    /// With https://: the key of our certificate
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        env = "CAIRN_TLS_KEY",
        hide_env_values = true
    )]
    tls_key: Option<PathBuf>,
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

/// One run of a command. Opens the store, or connects to the agent, when it is first needed.
pub(crate) struct Session {
    place: Place,
    #[cfg(feature = "serve")]
    agent: Option<AgentFlags>,
    /// Why neither can be used: both were named, equally plainly. Only some commands care.
    ambiguous: Option<String>,
    repository: String,
    output: Output,
    store: Mutex<Option<Store>>,
}

impl Session {
    /// `matches` is what `flags` were made of: it knows which were typed.
    pub(crate) fn new(flags: GlobalFlags, matches: &ArgMatches) -> Result<Self, Failure> {
        let choice = choose(
            plainest(matches, &["agent"]),
            plainest(matches, &["store", "catalog", "key_file"]),
        );
        let ambiguous = match choice {
            // Nothing in the environment hints at two minds.
            Choice::Neither(line, ValueSource::CommandLine) => return Err(Failure::usage(line)),
            Choice::Neither(ref line, _) => Some(line.clone()),
            _ => None,
        };
        Ok(Self {
            #[cfg(feature = "serve")]
            agent: matches!(choice, Choice::Agent).then(|| flags.agent.clone()),
            ambiguous,
            repository: flags.repo.clone(),
            output: Output::new(flags.output),
            place: Place::resolve(flags.place())?,
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
        if let Some(store) = self.opened() {
            return Ok(store);
        }
        let store = match self.connect().await? {
            Some(agent) => agent,
            None => Store::Local(local::Store(self.open().await?)),
        };
        Ok(self.keep(store))
    }

    /// The store, also if nothing in it can be opened: to remove what is left.
    pub(crate) async fn store_to_remove(&self) -> Result<Store, Failure> {
        if self.is_remote()? || self.opened().is_some() {
            return self.store().await;
        }
        let Ok(options) = self.place.store_options() else {
            return self.store().await;
        };
        let store = match engine::Store::open(options.clone()).await {
            Err(error) if error.reason() == Reason::DataLoss => engine::Store::open_to_remove(options).await?,
            opened => opened?,
        };
        Ok(self.keep(Store::Local(local::Store(store))))
    }

    /// The repository, which must exist.
    pub(crate) async fn repository(&self) -> Result<Repository, Failure> {
        Ok(self.store().await?.repository(&self.repository).await?)
    }

    /// The repository to put into. A directory gets its store when something is first put there; a bucket gets it from
    /// `cairn repo create` only, since a mistyped bucket would else hold a store that nobody looks for.
    pub(crate) async fn repository_to_put(&self) -> Result<Repository, Failure> {
        if !self.is_remote()? && matches!(self.place.location, Location::Directory(_)) {
            self.store_or_new(NewRepository::named(&self.repository)?).await?;
        }
        self.repository().await
    }

    /// Makes a repository, and the store if there is none.
    pub(crate) async fn create_repository(&self, new: NewRepository) -> Result<RepositoryHeader, Failure> {
        if let Some(agent) = self.connect().await? {
            return Ok(agent.create_repository(new).await?);
        }
        match self.store_or_new(new.clone()).await? {
            Opened::Existing(store) => Ok(store.create_repository(new).await?),
            Opened::New(store) => {
                let made = store.repositories().await?.into_iter().next();
                made.ok_or_else(|| Failure::failed("the new store was removed meanwhile"))
            }
        }
    }

    /// The repositories, without any key where the store is ours to look at.
    pub(crate) async fn headers(&self) -> Result<Vec<RepositoryHeader>, Failure> {
        match self.connect().await? {
            Some(agent) => Ok(agent.repositories().await?),
            None => Ok(engine::Store::headers(&self.place.location).await?),
        }
    }

    /// The keys that repositories need, and which of them are there: in the key file, or with the agent.
    pub(crate) async fn keys(&self) -> Result<Vec<Key>, Failure> {
        match self.connect().await? {
            #[cfg(feature = "serve")]
            Some(Store::Remote(agent)) => Ok(agent.keys().await?),
            _ => {
                let headers = self.headers().await?;
                Ok(local::keys(&headers, self.place.key_id()?))
            }
        }
    }

    /// Whether an agent does the work.
    ///
    /// # Errors
    /// If it cannot be told.
    pub(crate) fn is_remote(&self) -> Result<bool, Failure> {
        match &self.ambiguous {
            Some(line) => Err(Failure::usage(line)),
            #[cfg(feature = "serve")]
            None => Ok(self.agent.is_some()),
            #[cfg(not(feature = "serve"))]
            None => Ok(false),
        }
    }

    /// Finishes what is in flight.
    pub(crate) async fn close(&self) {
        if let Some(store) = self.opened() {
            store.close().await;
        }
    }

    /// The agent, if one was named.
    async fn connect(&self) -> Result<Option<Store>, Failure> {
        if !self.is_remote()? {
            return Ok(None);
        }
        if let Some(store) = self.opened() {
            return Ok(Some(store));
        }
        #[cfg(feature = "serve")]
        if let Some(flags) = &self.agent {
            let agent = remote::Agent::connect(&flags.address()?).await?;
            return Ok(Some(self.keep(Store::Remote(agent))));
        }
        Ok(None)
    }

    /// The store in the place; made with `first` in it if there is none.
    async fn store_or_new(&self, first: NewRepository) -> Result<Opened, Failure> {
        match engine::Store::headers(&self.place.location).await {
            Ok(_) => {
                let store = Store::Local(local::Store(self.open().await?));
                Ok(Opened::Existing(self.keep(store)))
            }
            Err(error) if error.reason() == Reason::StoreNotFound => {
                let store = Store::Local(local::Store(self.create(first).await?));
                Ok(Opened::New(self.keep(store)))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn opened(&self) -> Option<Store> {
        self.store.lock().clone()
    }

    fn keep(&self, store: Store) -> Store {
        *self.store.lock() = Some(store.clone());
        store
    }

    async fn open(&self) -> Result<engine::Store, Failure> {
        match self.place.store_options() {
            Ok(options) => Ok(engine::Store::open(options).await?),
            // That there is no store, or another's files, says more than that its key is not there.
            Err(error @ config::Error::KeyMissing { .. }) => {
                engine::Store::headers(&self.place.location).await?;
                Err(error.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn create(&self, first: NewRepository) -> Result<engine::Store, Failure> {
        if let Some(path) = self.place.create_missing_key()? {
            introduce_key(path);
        }
        Ok(engine::Store::open_or_create(self.place.store_options()?, first).await?)
    }
}

#[cfg(feature = "serve")]
impl AgentFlags {
    fn address(&self) -> Result<remote::Address, Failure> {
        let tls = remote::Tls {
            ca: self.tls_ca.clone(),
            cert: self.tls_cert.clone(),
            key: self.tls_key.clone(),
        };
        remote::Address::resolve(self.agent.as_deref().unwrap_or_default(), &tls)
    }
}

/// A store, and whether it was made just now.
enum Opened {
    Existing(Store),
    New(Store),
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
