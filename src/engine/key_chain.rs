//! The key-encryption keys that this process has now: given at start, or loaded and unloaded while it runs.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::error::{Error, Reason, Result};
use super::keyrings::RepositoryHeader;
use crate::codec::RepositoryId;
use crate::format::Kek;

/// A key-encryption key, without the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyState {
    /// What it is called.
    pub id: String,
    /// When it was loaded, in milliseconds since 1970 UTC by the agent's clock; none if it is not there.
    pub loaded_at_ms: Option<i64>,
    /// Repositories whose newest keyring needs it.
    pub repositories: Vec<RepositoryId>,
}

/// The keys that are there.
pub(crate) struct KeyChain {
    state: Mutex<State>,
}

struct State {
    keys: BTreeMap<String, Loaded>,
    loads: u64,
    /// No key was loaded or unloaded since the start: a key that is missing will not come, another one was given.
    fixed: bool,
}

struct Loaded {
    kek: Kek,
    at_ms: i64,
    /// Counts loads, to tell the newest.
    order: u64,
}

impl KeyChain {
    pub(crate) fn new(keks: Vec<Kek>) -> Result<Self> {
        let chain = Self {
            state: Mutex::new(State {
                keys: BTreeMap::new(),
                loads: 0,
                fixed: true,
            }),
        };
        for kek in keks {
            chain.add(kek)?;
        }
        chain.state.lock().fixed = true;
        Ok(chain)
    }

    /// Adds a key; the same key again is fine.
    ///
    /// # Errors
    /// `InvalidArgument` if another key is called so.
    pub(crate) fn add(&self, kek: Kek) -> Result<()> {
        let mut state = self.state.lock();
        state.fixed = false;
        if let Some(present) = state.keys.get(&kek.id) {
            if present.kek.secret == kek.secret {
                return Ok(());
            }
            let line = format!(
                "another key called {:?} is loaded; unload it first, or give this one another id",
                kek.id
            );
            return Err(Error::new(Reason::InvalidArgument, line));
        }
        state.loads += 1;
        let loaded = Loaded {
            at_ms: jiff::Timestamp::now().as_millisecond(),
            order: state.loads,
            kek,
        };
        state.keys.insert(loaded.kek.id.clone(), loaded);
        Ok(())
    }

    /// Takes a key away; whether it was there.
    pub(crate) fn remove(&self, id: &str) -> bool {
        let mut state = self.state.lock();
        state.fixed = false;
        state.keys.remove(id).is_some()
    }

    /// How many keys are there.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().keys.len()
    }

    pub(crate) fn contains(&self, id: &str) -> bool {
        self.state.lock().keys.contains_key(id)
    }

    /// The key that opens a repository.
    ///
    /// # Errors
    /// `KeysUnavailable` if it is not there; `WrongKey` if it never will be, because this process was given another.
    pub(crate) fn key_of(&self, header: &RepositoryHeader) -> Result<Kek> {
        let state = self.state.lock();
        if let Some(loaded) = state.keys.get(&header.key_id) {
            return Ok(loaded.kek.clone());
        }
        match state.keys.keys().next() {
            Some(given) if state.fixed => Err(wrong_key(header, given)),
            _ => {
                let line = format!(
                    "repository {:?} needs the key {}, which is not there now",
                    header.name, header.key_id
                );
                Err(Error::new(Reason::KeysUnavailable, line))
            }
        }
    }

    /// The key of this id, or the newest if none is named: what a new repository is made under.
    ///
    /// # Errors
    /// `KeysUnavailable`.
    pub(crate) fn key_for_new(&self, id: Option<&str>) -> Result<Kek> {
        let state = self.state.lock();
        let found = match id {
            Some(id) => state.keys.get(id),
            None => state.keys.values().max_by_key(|loaded| loaded.order),
        };
        found.map(|loaded| loaded.kek.clone()).ok_or_else(|| {
            let line = match id {
                Some(id) => format!("the key {id:?} for the new repository is not there; load it first"),
                None => "there is no key to make a repository under; load one first".to_owned(),
            };
            Error::new(Reason::KeysUnavailable, line)
        })
    }

    /// Every key that is there or that one of these repositories needs, by id.
    pub(crate) fn states(&self, headers: &[RepositoryHeader]) -> Vec<KeyState> {
        let state = self.state.lock();
        let mut states: BTreeMap<String, KeyState> = BTreeMap::new();
        let without_users = |id: &str| KeyState {
            id: id.to_owned(),
            loaded_at_ms: state.keys.get(id).map(|loaded| loaded.at_ms),
            repositories: Vec::new(),
        };
        for id in state.keys.keys() {
            states.insert(id.clone(), without_users(id));
        }
        for header in headers {
            let needed = states
                .entry(header.key_id.clone())
                .or_insert_with(|| without_users(&header.key_id));
            needed.repositories.push(header.id);
        }
        states.into_values().collect()
    }
}

/// What to say of a keyring that the one key given does not open.
pub(crate) fn wrong_key(header: &RepositoryHeader, given: &str) -> Error {
    let line = format!(
        "wrong key: repository {:?} is sealed under {}, this is {given}; name the right file with --key-file",
        header.name, header.key_id
    );
    Error::new(Reason::WrongKey, line)
}
