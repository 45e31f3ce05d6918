//! Keys in files follow the files: new ones are loaded, those that vanish are unloaded, a bad one changes nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn_agent::config;
use cairn_agent::engine::Store;
use cairn_agent::format::Kek;
use cairn_agent::keys::Error;
use cairn_agent::keys::watch::{Stamp, can_change, read_all};

use crate::failure::Failure;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Files must be gone for so many looks: an editor that removes and writes anew must not end streams.
const ABSENCES: u32 = 2;

/// The file, or the directory of files, that keys come from.
pub(super) struct KeyFiles {
    path: PathBuf,
    /// As the files were when the present keys were read.
    stamp: Stamp,
    /// The ids of the keys that came from here; others are none of our business.
    loaded: BTreeSet<String>,
    absences: u32,
    /// The last problem, so that it is told once.
    told: String,
}

/// What a look at the files found.
enum Look {
    Unchanged,
    Gone,
    Changed(Stamp, Vec<Kek>),
}

impl KeyFiles {
    /// Reads the keys. That there are none yet is no error: they may come later.
    pub(super) async fn read(path: PathBuf) -> Result<(Self, Vec<Kek>), Failure> {
        let looked = look(path.clone(), None).await;
        let (stamp, keks) = match looked.map_err(|error| Failure::from(config::Error::from(error)))? {
            Look::Changed(stamp, keks) => (stamp, keks),
            Look::Unchanged | Look::Gone => {
                tracing::warn!(path = %path.display(), "no key there yet: repositories stay closed until one comes");
                (Stamp::default(), Vec::new())
            }
        };
        let files = Self {
            path,
            stamp,
            loaded: keks.iter().map(|kek| kek.id.clone()).collect(),
            absences: 0,
            told: String::new(),
        };
        Ok((files, keks))
    }

    /// Follows the files. Never returns.
    pub(super) async fn follow(mut self, store: Store) {
        if !can_change(&self.path) {
            // A pipe has given its key and has no other.
            std::future::pending::<()>().await;
        }
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let problem = self.step(&store).await.err().unwrap_or_default();
            if !problem.is_empty() && problem != self.told {
                tracing::error!(error = problem, "the keys stay as they are");
            }
            self.told = problem;
        }
    }

    async fn step(&mut self, store: &Store) -> Result<(), String> {
        let looked = look(self.path.clone(), Some(self.stamp.clone())).await;
        let (stamp, keks) = match looked.map_err(|error| error.to_string())? {
            Look::Unchanged => {
                self.absences = 0;
                return Ok(());
            }
            Look::Gone => {
                self.absences += 1;
                if self.absences < ABSENCES {
                    return Ok(());
                }
                (Stamp::default(), Vec::new())
            }
            Look::Changed(stamp, keks) => (stamp, keks),
        };
        self.apply(store, keks).await?;
        // Only now: what failed is tried again at the next look.
        self.stamp = stamp;
        self.absences = 0;
        Ok(())
    }

    /// New keys first, so that a repository whose key is replaced is never without.
    async fn apply(&mut self, store: &Store, keks: Vec<Kek>) -> Result<(), String> {
        let found: BTreeSet<String> = keks.iter().map(|kek| kek.id.clone()).collect();
        for kek in keks {
            let id = kek.id.clone();
            if !self.loaded.contains(&id) {
                let repositories = store.load_key(kek).await.map_err(|error| error.to_string())?;
                tracing::info!(key = id, repositories = repositories.len(), "a key came");
                self.loaded.insert(id);
            }
        }
        for id in self.loaded.difference(&found) {
            store.unload_key(id).await;
            tracing::warn!(key = id, "a key is gone: its repositories are closed");
        }
        self.loaded = found;
        Ok(())
    }
}

/// Looks, and reads the keys if they are not as `known`. File systems may not answer, so this is for a thread that may wait.
async fn look(path: PathBuf, known: Option<Stamp>) -> Result<Look, Error> {
    let looking = tokio::task::spawn_blocking(move || look_now(&path, known));
    // A panic there is told by the panic itself; the next look may fare better.
    looking.await.unwrap_or(Ok(Look::Unchanged))
}

fn look_now(path: &Path, known: Option<Stamp>) -> Result<Look, Error> {
    let stamp = Stamp::of(path)?;
    if known.is_some_and(|known| known == stamp) {
        return Ok(Look::Unchanged);
    }
    if stamp.is_empty() {
        return Ok(Look::Gone);
    }
    let keks = read_all(path)?;
    Ok(Look::Changed(stamp, keks.into_iter().map(Kek::from).collect()))
}
