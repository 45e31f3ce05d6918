//! `cairn key`: which keys repositories need, and which are there. Never the keys themselves.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde::Serialize;

use cairn_agent::codec::RepositoryId;

use crate::failure::Failure;
use crate::output::{table, time};
use crate::session::Session;
use crate::target::Key as State;

/// Show keys
#[derive(Subcommand)]
pub(crate) enum Key {
    Ls(Ls),
}

/// List the keys that repositories need, and whether each is there
///
/// A key is there if it is the one in the key file or, with --agent, if the agent has it.
#[derive(Args)]
pub(crate) struct Ls {}

impl Key {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        match self {
            Self::Ls(command) => command.run(session).await,
        }
    }
}

#[derive(Serialize)]
struct View {
    key_id: String,
    loaded: bool,
    loaded_at: Option<String>,
    /// Their ids.
    repositories: Vec<String>,
}

impl Ls {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let mut keys = session.keys().await?;
        keys.sort_by(|a, b| a.id.cmp(&b.id));
        // Names are for people; who may see keys may not be one who may see repositories.
        let headers = session.headers().await.unwrap_or_default();
        let names: BTreeMap<RepositoryId, String> =
            headers.into_iter().map(|header| (header.id, header.name)).collect();
        let views: Vec<View> = keys.iter().map(View::from).collect();
        session.output().print(&views, |out| {
            let rows: Vec<_> = keys.iter().map(|key| cells(key, &names)).collect();
            table(out, ["KEY", "LOADED", "SINCE", "REPOSITORIES"], &rows)
        })
    }
}

impl From<&State> for View {
    fn from(key: &State) -> Self {
        Self {
            key_id: key.id.clone(),
            loaded: key.loaded,
            loaded_at: key.loaded_at_ms.map(time),
            repositories: key.repositories.iter().map(RepositoryId::to_string).collect(),
        }
    }
}

fn cells(key: &State, names: &BTreeMap<RepositoryId, String>) -> [String; 4] {
    let name = |id: &RepositoryId| names.get(id).cloned().unwrap_or_else(|| id.to_string());
    let mut repositories: Vec<String> = key.repositories.iter().map(name).collect();
    repositories.sort_unstable();
    [
        key.id.clone(),
        if key.loaded { "yes" } else { "no" }.to_owned(),
        key.loaded_at_ms.map_or_else(|| "-".to_owned(), time),
        repositories.join(", "),
    ]
}
