//! What `cairn serve` is told: flags over environment over file, each value checked, and the defaults.
//!
//! Owns every key of the configuration file, its range and the line that is said about a wrong one; the commented sample
//! `docs/cairn.toml` is held to it by a test. Opens, binds and creates nothing.

mod address;
mod machine;
mod quota;
mod read;
mod reclaim;
mod scrub;
mod settings;
mod shaping;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

pub use address::{Address, HostPort};
pub use reclaim::Reclaims;
pub use scrub::Scrubs;
pub use settings::{Origin, Settings};

use machine::Machine;
use read::{number, parsed, size, span, text, word};

use super::{Error, KeyFile, Place, PlaceFlags, Size};
use crate::backend::Rates;
use crate::engine::{CapacityPolicy, DeletionPolicy, Options, Quota, StoreOptions};
use crate::format::Kek;
use crate::keys;

/// Everything `serve` needs to know.
#[derive(Clone, Debug)]
pub struct Serve {
    /// Store and catalog.
    pub place: Place,
    /// Where keys come from.
    pub keys: KeySource,
    /// Where gRPC is served.
    pub grpc: Vec<Address>,
    /// Where metrics and health are served, if anywhere.
    pub http: Option<HostPort>,
    /// Files for `https`.
    pub tls: Option<TlsFiles>,
    /// Payload bytes in flight.
    pub budget_bytes: usize,
    /// Threads that work on payload.
    pub threads: NonZeroUsize,
    /// Bounds.
    pub limits: Limits,
    /// What is logged.
    pub log: Log,
    /// When the agent says that there is little room.
    pub capacity: CapacityPolicy,
    /// Whether repositories may be removed.
    pub deletion_policy: DeletionPolicy,
    /// The most that the store may use.
    pub store_bytes_max: Option<u64>,
    /// The most that repositories may hold, by name.
    pub quotas: BTreeMap<String, Quota>,
    /// How fast the storage may be asked, by class of work.
    pub rates: Rates,
    /// Whether the reserve of a volume is kept in files.
    pub hold_reserve: bool,
    /// What the agent reads and checks by itself.
    pub scrubs: Scrubs,
    /// What space the agent gives back by itself.
    pub reclaims: Reclaims,
    /// Who may do what; without any, whoever the transport vouches for may do everything.
    pub clients: Vec<Client>,
}

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file with a key, or a directory of such files.
    File(PathBuf),
    /// A core service pushes them.
    Core,
}

/// Certificates, as files that may be replaced while they are in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The agent's certificate and those between it and a root, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// Who signs clients; with it every client needs a certificate.
    pub ca: Option<PathBuf>,
}

/// Bounds of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; one more is closed at once.
    pub connections: usize,
    /// Calls at once on a connection.
    pub streams: u32,
    /// A stream is ended if nothing moved on it for this long.
    pub stream_idle: Duration,
    /// Calls in flight have this long to end when the agent is told to stop.
    pub drain: Duration,
}

/// What is logged and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// The lowest level that is written: off, error, warn, info, debug or trace.
    pub level: String,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// An object per line.
    Json,
    /// For people.
    Text,
}

/// Who may do what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Whom this is about.
    pub who: Who,
    /// What they may do.
    pub roles: BTreeSet<Role>,
    /// In which repositories; in all if absent.
    pub repositories: Option<Vec<String>>,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Anybody without a certificate over TCP.
    Anonymous,
    /// A name in a client certificate.
    Name(String),
    /// A user of this machine, over a Unix socket.
    Uid(u32),
}

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// See status and capabilities.
    Status,
    /// Read objects.
    Read,
    /// Write and delete objects.
    Write,
    /// Repositories, keys, maintenance, modes.
    Admin,
}

/// Those of the flags that are not about one setting only.
#[derive(Clone, Debug, Default)]
pub struct ServeFlags {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// Places.
    pub place: PlaceFlags,
}

const ROLES: [(&str, Role); 4] = [
    ("status", Role::Status),
    ("read", Role::Read),
    ("write", Role::Write),
    ("admin", Role::Admin),
];
const FORMATS: [(&str, LogFormat); 2] = [("json", LogFormat::Json), ("text", LogFormat::Text)];
const LEVELS: [(&str, &str); 6] = [
    ("off", "off"),
    ("error", "error"),
    ("warn", "warn"),
    ("info", "info"),
    ("debug", "debug"),
    ("trace", "trace"),
];
const PRESETS: [(&str, CapacityPolicy); 2] = [("default", CapacityPolicy::DEFAULT), ("noobaa", CapacityPolicy::NOOBAA)];
const DELETION_POLICIES: [(&str, DeletionPolicy); 2] =
    [("delete", DeletionPolicy::Delete), ("retain", DeletionPolicy::Retain)];
const YES_NO: [(&str, bool); 2] = [("true", true), ("false", false)];
/// Calls whoever has no certificate and comes over TCP.
const ANONYMOUS: &str = "anonymous";

const GRPC_DEFAULT: &str = "http://127.0.0.1:7420";
const HTTP_DEFAULT: &str = "127.0.0.1:7421";
/// Less leaves no room for a pack; more is not what one semaphore counts well.
const BUDGET: (Size, Size) = (Size(16 << 20), Size(16 << 30));
/// The default budget is this part of what the process may use …
const BUDGET_PART: u64 = 4;
/// … within these bounds: more makes nothing faster, less makes it slow.
const BUDGET_DEFAULT: (u64, u64) = (32 << 20, 512 << 20);
const HOUR: Duration = Duration::from_secs(3600);

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            streams: 128,
            stream_idle: Duration::from_secs(60),
            // Five seconds are left of the half minute that Kubernetes gives.
            drain: Duration::from_secs(25),
        }
    }
}

impl Serve {
    /// Lays `flag_settings` over `environment` over the configuration file, and checks everything that can be checked without
    /// touching the places it names.
    ///
    /// # Errors
    /// One line about the first wrong setting.
    pub fn resolve(
        flags: ServeFlags,
        environment: impl Iterator<Item = (OsString, OsString)>,
        flag_settings: impl FnOnce(&mut Settings),
    ) -> Result<Self, Error> {
        let mut settings = Settings::default();
        if let Some(path) = &flags.config {
            settings.add_file(path)?;
        }
        settings.add_environment(environment)?;
        flag_settings(&mut settings);
        Self::from_settings(&mut settings, flags.place)
    }

    /// What a configuration file with this text and these variables give, without flags.
    #[cfg(any(test, feature = "testkit"))]
    pub(crate) fn from_text(text: &str, environment: Vec<(OsString, OsString)>) -> Result<Self, Error> {
        let mut settings = Settings::default();
        settings.add_text(text, std::path::Path::new("cairn.toml"))?;
        settings.add_environment(environment.into_iter())?;
        Self::from_settings(&mut settings, PlaceFlags::default())
    }

    fn from_settings(settings: &mut Settings, flags: PlaceFlags) -> Result<Self, Error> {
        let key_flag = flags.key_file.is_some();
        let place = place(settings, flags)?;
        let serve = Self {
            keys: keys(settings, &place, key_flag)?,
            place,
            grpc: settings
                .several("listen.grpc", parsed)?
                .map_or_else(|| parsed(GRPC_DEFAULT).map(|address| vec![address]), Ok)
                .expect("the default is an address"),
            http: http(settings)?,
            tls: tls(settings)?,
            budget_bytes: budget_bytes(settings)?,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            limits: limits(settings)?,
            log: log(settings)?,
            capacity: settings.one("capacity.preset", word(&PRESETS))?.unwrap_or_default(),
            deletion_policy: settings
                .one("store.deletion_policy", word(&DELETION_POLICIES))?
                .unwrap_or_default(),
            store_bytes_max: quota::store_bytes_max(settings)?,
            quotas: quota::quotas(settings)?,
            rates: shaping::rates(settings)?,
            hold_reserve: settings.one("capacity.reserve", word(&YES_NO))?.unwrap_or(true),
            scrubs: scrub::scrubs(settings)?,
            reclaims: reclaim::reclaims(settings)?,
            clients: clients(settings)?,
        };
        settings.refuse_unknown()?;
        serve.check_listeners(settings)?;
        Ok(serve)
    }

    /// What opens the store: reads the keys that are in files.
    ///
    /// # Errors
    /// What is wrong with the place of the catalog or with a key; `KeyMissing` if there is none.
    pub fn store_options(&self) -> Result<StoreOptions, Error> {
        let keks = match &self.keys {
            KeySource::File(path) => keys::watch::read_all(path)?,
            KeySource::Core => Vec::new(),
        };
        self.store_options_with(keks.into_iter().map(Kek::from).collect())
    }

    /// The same with these keys, whatever is in files.
    ///
    /// # Errors
    /// What is wrong with the place of the catalog.
    pub fn store_options_with(&self, keks: Vec<Kek>) -> Result<StoreOptions, Error> {
        let options = Options {
            budget_bytes: self.budget_bytes,
            compute_threads: self.threads,
            capacity: self.capacity,
            deletion_policy: self.deletion_policy,
            store_bytes_max: self.store_bytes_max,
            quotas: self.quotas.clone(),
            rates: self.rates,
            hold_reserve: self.hold_reserve,
            ..Options::default()
        };
        self.place.store_options_with(keks, options)
    }

    /// What concerns listeners and other settings together.
    fn check_listeners(&self, settings: &Settings) -> Result<(), Error> {
        if self.grpc.is_empty() {
            return Err(settings.refuse("listen.grpc", "is empty; name at least one address"));
        }
        for address in &self.grpc {
            let Address::Tcp { host, tls } = address else {
                continue;
            };
            if *tls && self.tls.is_none() {
                let problem = format!("has {address}: https needs tls.cert and tls.key");
                return Err(settings.refuse("listen.grpc", &problem));
            }
            // Without a CA a client over TLS proves as little about itself as one in plaintext.
            let proven = *tls && self.tls.as_ref().is_some_and(|files| files.ca.is_some());
            if !proven && !host.is_loopback() && !self.expects_anybody() {
                let problem = format!(
                    "has {address}: anybody who reaches it could do everything; use https with tls.ca, or say what anybody may \
                     do with [[client]] identity = \"{ANONYMOUS}\", roles = [...]"
                );
                return Err(settings.refuse("listen.grpc", &problem));
            }
        }
        Ok(())
    }

    fn expects_anybody(&self) -> bool {
        self.clients.iter().any(|client| client.who == Who::Anonymous)
    }
}

fn place(settings: &mut Settings, flags: PlaceFlags) -> Result<Place, Error> {
    let location = settings.one("store.location", text)?;
    let catalog = settings.one("store.catalog", text)?;
    let origin = settings.origin("store.location");
    let from_flag = flags.store.is_some();
    let flags = PlaceFlags {
        store: flags.store.or(location.map(OsString::from)),
        catalog: flags.catalog.or(catalog.map(PathBuf::from)),
        key_file: flags.key_file,
    };
    Place::resolve(flags).map_err(|error| match (error, origin) {
        (Error::Store(problem), Some(_)) if !from_flag => {
            settings.refuse("store.location", &format!("is no place for a store: {problem}"))
        }
        (error, _) => error,
    })
}

fn keys(settings: &mut Settings, place: &Place, key_flag: bool) -> Result<KeySource, Error> {
    const PROVIDERS: [(&str, bool); 2] = [("file", false), ("core", true)];
    let core = settings.one("keys.provider", word(&PROVIDERS))?.unwrap_or(false);
    let file = settings.one("keys.file", text)?;
    match (core, key_flag) {
        (true, true) => Err(settings.refuse("keys.provider", "is core, so --key-file has no meaning; leave one out")),
        (true, false) if file.is_some() => {
            Err(settings.refuse("keys.file", "has no meaning while keys.provider is core; leave one out"))
        }
        (true, false) => Ok(KeySource::Core),
        (false, true) => place.key_file().map(|file| KeySource::File(file.path().to_owned())),
        (false, false) => match file {
            Some(file) => Ok(KeySource::File(file.into())),
            None => match place.key_file() {
                Ok(KeyFile::Given(path) | KeyFile::Default(path)) => Ok(KeySource::File(path.clone())),
                Err(_) => Err(Error::setting(&format!(
                    "keys.file or --key-file is needed for {}, or keys.provider = \"core\": only a directory of its own name \
                     has a default beside it",
                    place.location
                ))),
            },
        },
    }
}

fn http(settings: &mut Settings) -> Result<Option<HostPort>, Error> {
    let read = |text: &str| match text {
        "off" => Ok(None),
        text => parsed(text).map(Some).map_err(|problem| format!("{problem}, or off")),
    };
    let written = settings.one("listen.http", read)?;
    Ok(written.unwrap_or_else(|| Some(parsed(HTTP_DEFAULT).expect("the default is an address"))))
}

fn tls(settings: &mut Settings) -> Result<Option<TlsFiles>, Error> {
    let ca = settings.one("tls.ca", text)?.map(PathBuf::from);
    let cert = settings.one("tls.cert", text)?.map(PathBuf::from);
    let key = settings.one("tls.key", text)?.map(PathBuf::from);
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(TlsFiles { cert, key, ca })),
        (Some(_), None) => Err(settings.refuse("tls.cert", "needs tls.key too")),
        (None, Some(_)) => Err(settings.refuse("tls.key", "needs tls.cert too")),
        (None, None) if ca.is_some() => Err(settings.refuse("tls.ca", "needs tls.cert and tls.key too")),
        (None, None) => Ok(None),
    }
}

fn budget_bytes(settings: &mut Settings) -> Result<usize, Error> {
    let read = |text: &str| match text {
        "auto" => Ok(None),
        text => size(BUDGET.0..=BUDGET.1)(text).map(Some),
    };
    let written = settings.one("budget.bytes", read)?.flatten();
    let bytes = written.map_or_else(|| budget_default(Machine::this().memory_bytes()), |Size(bytes)| bytes);
    Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
}

fn budget_default(memory_bytes: Option<u64>) -> u64 {
    let (least, most) = BUDGET_DEFAULT;
    memory_bytes.map_or(most, |bytes| (bytes / BUDGET_PART).clamp(least, most))
}

fn limits(settings: &mut Settings) -> Result<Limits, Error> {
    let default = Limits::default();
    let second = Duration::from_secs(1);
    Ok(Limits {
        connections: settings
            .one("limits.connections", number(1..=65_536))?
            .unwrap_or(default.connections),
        streams: settings
            .one("limits.streams", number(1..=65_536))?
            .unwrap_or(default.streams),
        stream_idle: settings
            .one("limits.stream_idle", span(second..=HOUR))?
            .unwrap_or(default.stream_idle),
        drain: settings
            .one("limits.drain", span(Duration::ZERO..=HOUR))?
            .unwrap_or(default.drain),
    })
}

fn log(settings: &mut Settings) -> Result<Log, Error> {
    Ok(Log {
        format: settings.one("log.format", word(&FORMATS))?.unwrap_or(LogFormat::Text),
        level: settings.one("log.level", word(&LEVELS))?.unwrap_or("info").to_owned(),
    })
}

fn clients(settings: &mut Settings) -> Result<Vec<Client>, Error> {
    settings.tables("client")?.into_iter().map(client).collect()
}

fn client(mut settings: Settings) -> Result<Client, Error> {
    let identity = settings.one("client.identity", text)?;
    let uid = settings.one("client.uid", number(0..=u32::MAX - 1))?;
    let roles = settings.several("client.roles", word(&ROLES))?;
    let repositories = settings.several("client.repositories", text)?;
    settings.refuse_unknown()?;
    let who = match (identity, uid) {
        (Some(identity), None) if identity == ANONYMOUS => Who::Anonymous,
        (Some(identity), None) => Who::Name(identity),
        (None, Some(uid)) => Who::Uid(uid),
        (Some(_), Some(_)) => return Err(settings.refuse("client.uid", "and client.identity exclude each other")),
        (None, None) => {
            return Err(Error::setting("each [[client]] needs identity = \"...\" or uid = N"));
        }
    };
    let roles = roles.ok_or_else(|| {
        let key = if matches!(who, Who::Uid(_)) {
            "client.uid"
        } else {
            "client.identity"
        };
        settings.refuse(key, "needs roles = [...] beside it: some of status, read, write, admin")
    })?;
    Ok(Client {
        who,
        roles: roles.into_iter().collect(),
        repositories,
    })
}
