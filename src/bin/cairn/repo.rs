//! `cairn repo`: the repositories of a store.

use clap::{Args, Subcommand};
use serde::Serialize;

use cairn_agent::codec::{ChunkSizes, Level};
use cairn_agent::config::Size;
use cairn_agent::engine::{NewRepository, RepositoryHeader};

use crate::failure::Failure;
use crate::output::{Field, fields, size, table};
use crate::progress::Progress;
use crate::session::Session;
use crate::status::RepositoryView;

/// Make, list, describe and remove repositories
#[derive(Subcommand)]
pub(crate) enum Repo {
    Create(Create),
    Ls(Ls),
    Describe(Describe),
    Rm(Rm),
}

/// Make a repository, and the store and its key file if there is none
#[derive(Args)]
pub(crate) struct Create {
    /// Its name: a-z, 0-9 and -, at most 63 of them
    #[arg(value_name = "R")]
    name: String,
    /// Average size of a chunk: a power of two from 16KiB to 4MiB; cannot be changed later [default: 32KiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_chunk_avg)]
    chunk_avg: Option<ChunkSizes>,
    /// Compression: 0 is off, 1 to 19 are zstd's levels [default: 1]
    #[arg(long, value_name = "L", value_parser = parse_level, allow_hyphen_values = true)]
    level: Option<Level>,
    /// Refuse to make it under any other key than this one; `cairn repo ls` shows ids of keys
    #[arg(long, value_name = "K")]
    key_id: Option<String>,
}

/// List repositories; needs no key
#[derive(Args)]
pub(crate) struct Ls {}

/// Show one repository
#[derive(Args)]
pub(crate) struct Describe {
    /// Its name or id
    #[arg(value_name = "R")]
    repository: String,
}

/// Remove a repository with all its objects, for ever
#[derive(Args)]
pub(crate) struct Rm {
    /// Its name or id
    #[arg(value_name = "R")]
    repository: String,
    /// Its id, as `cairn repo ls` shows it
    #[arg(long, value_name = "ID")]
    confirm: String,
}

impl Repo {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        match self {
            Self::Create(command) => command.run(session).await,
            Self::Ls(command) => command.run(session).await,
            Self::Describe(command) => command.run(session).await,
            Self::Rm(command) => command.run(session).await,
        }
    }
}

impl Create {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        if let Some(wanted) = &self.key_id
            && !session.is_remote()?
        {
            let given = session.place().store_options()?.keks;
            require_key(wanted, given.first().map_or("", |kek| &kek.id))?;
        }
        let mut new = NewRepository::named(&self.name)?;
        new.chunk_sizes = self.chunk_avg.unwrap_or(new.chunk_sizes);
        new.level = self.level.unwrap_or(new.level);
        new.key_id = self.key_id;
        let view = HeaderView::from(session.create_repository(new).await?);
        session.output().print(&view, |out| fields(out, &view.lines()))
    }
}

fn require_key(wanted: &str, found: &str) -> Result<(), Failure> {
    if wanted == found {
        return Ok(());
    }
    let line = format!("the key file holds key {found}, not {wanted}; name the right one with --key-file");
    Err(Failure::usage(line))
}

impl Ls {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let mut headers = session.headers().await?;
        headers.sort_by(|a, b| a.name.cmp(&b.name));
        let views: Vec<HeaderView> = headers.into_iter().map(HeaderView::from).collect();
        session.output().print(&views, |out| {
            let rows: Vec<_> = views.iter().map(HeaderView::cells).collect();
            table(out, ["NAME", "ID", "KEY"], &rows)
        })
    }
}

impl Describe {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let repository = session.store().await?.repository(&self.repository).await?;
        let described = repository.describe().await?;
        let view = DescribeView {
            totals: RepositoryView::from(described.totals),
            chunk_avg_bytes: described.chunk_avg_bytes,
            compression_level: described.compression_level,
            key_id: described.key_id,
            keyring_generation: described.keyring_generation,
        };
        session.output().print(&view, |out| {
            let mut lines = view.totals.lines();
            lines.push(("chunks of about", size(view.chunk_avg_bytes.into())));
            lines.push(("compression level", view.compression_level.to_string()));
            lines.push(("key", view.key_id.clone()));
            lines.push(("keyring generation", view.keyring_generation.to_string()));
            fields(out, &lines)
        })
    }
}

impl Rm {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let store = session.store_to_remove().await?;
        // What is left of one that lost its keyring has no header.
        let header = find(store.repositories().await?, &self.repository);
        if self.repository != self.confirm
            && let Err(failure) = header
        {
            return Err(failure);
        }
        let progress = Progress::unmeasured("repo rm");
        store.remove_repository(&self.repository, &self.confirm).await?;
        drop(progress);
        let Ok(header) = header else {
            let id = self.confirm;
            return session.output().print(&RemovedView { id: &id }, |out| {
                writeln!(out, "removed what was left of repository {id}")
            });
        };
        let view = HeaderView::from(header);
        session.output().print(&view, |out| {
            writeln!(out, "removed repository {} (id {})", view.name, view.id)
        })
    }
}

/// A repository of which nothing but its id was known.
#[derive(Serialize)]
struct RemovedView<'a> {
    id: &'a str,
}

/// What is known of a repository without its key.
#[derive(Serialize)]
struct HeaderView {
    name: String,
    id: String,
    key_id: String,
    keyring_generation: u64,
}

impl From<RepositoryHeader> for HeaderView {
    fn from(header: RepositoryHeader) -> Self {
        Self {
            name: header.name,
            id: header.id.to_string(),
            key_id: header.key_id,
            keyring_generation: header.generation,
        }
    }
}

impl HeaderView {
    fn cells(&self) -> [String; 3] {
        [self.name.clone(), self.id.clone(), self.key_id.clone()]
    }

    fn lines(&self) -> [Field; 3] {
        let [name, id, key] = self.cells();
        [("name", name), ("id", id), ("key", key)]
    }
}

#[derive(Serialize)]
struct DescribeView {
    #[serde(flatten)]
    totals: RepositoryView,
    chunk_avg_bytes: u32,
    compression_level: i32,
    key_id: String,
    keyring_generation: u64,
}

fn find(headers: Vec<RepositoryHeader>, name_or_id: &str) -> Result<RepositoryHeader, Failure> {
    headers
        .into_iter()
        .find(|header| header.name == name_or_id || header.id.to_string() == name_or_id)
        .ok_or_else(|| {
            let line =
                format!("this store has no repository called {name_or_id:?}; `cairn repo ls` shows those it has");
            Failure::failed(line)
        })
}

fn parse_chunk_avg(text: &str) -> Result<ChunkSizes, String> {
    let Size(bytes) = text
        .parse()
        .map_err(|error: cairn_agent::config::SizeError| error.to_string())?;
    let avg = u32::try_from(bytes).unwrap_or(u32::MAX);
    ChunkSizes::with_average(avg).map_err(|error| error.to_string())
}

fn parse_level(text: &str) -> Result<Level, String> {
    let level = text.parse().map_err(|_| "a level is 0 (off) or 1 to 19".to_owned())?;
    Level::new(level).map_err(|error| error.to_string())
}
