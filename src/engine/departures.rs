//! Repositories that leave the store, or have left it: nobody writes them, and whoever tries is told where to go.
//!
//! Kept for the whole store, since a repository may be closed and opened again meanwhile. What has been moved is
//! remembered beyond the process by a note in the catalog, see `evacuate::memory`.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::{Error, Reason, Result};
use crate::codec::RepositoryId;

/// How far a repository is on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Departure {
    /// It is being copied to this place.
    Moving(String),
    /// It is at this place.
    Moved(String),
    /// It is being removed.
    Removing,
}

/// The repositories of a store that are on their way out.
#[derive(Debug, Default)]
pub(crate) struct Departures(Mutex<BTreeMap<RepositoryId, Departure>>);

/// A repository that is leaving. If it does not arrive, everything is as before once this is dropped.
pub(crate) struct Leaving {
    departures: Arc<Departures>,
    id: RepositoryId,
    former: Option<Departure>,
}

impl Departures {
    /// # Errors
    /// `ReadOnly` if the repository must not be written any more.
    pub(crate) fn check(&self, id: RepositoryId) -> Result<()> {
        match self.0.lock().get(&id) {
            None => Ok(()),
            Some(departure) => Err(departure.refusal()),
        }
    }

    /// As [`check`](Self::check), for work that changes nothing in the store: only what is under way is in its way.
    pub(crate) fn check_under_way(&self, id: RepositoryId) -> Result<()> {
        match self.0.lock().get(&id) {
            None | Some(Departure::Moved(_)) => Ok(()),
            Some(departure) => Err(departure.refusal()),
        }
    }

    /// Begins to move a repository.
    ///
    /// # Errors
    /// `ReadOnly` if it is being moved or removed already.
    pub(crate) fn move_to(self: &Arc<Self>, id: RepositoryId, to: &str) -> Result<Leaving> {
        self.begin(id, Departure::Moving(to.to_owned()))
    }

    /// Begins to remove a repository. One whose removal was interrupted in this process is begun again.
    ///
    /// # Errors
    /// `ReadOnly` if it is being moved or removed already.
    pub(crate) fn remove(self: &Arc<Self>, id: RepositoryId) -> Result<Leaving> {
        self.begin(id, Departure::Removing)
    }

    fn begin(self: &Arc<Self>, id: RepositoryId, departure: Departure) -> Result<Leaving> {
        let mut departures = self.0.lock();
        if let Some(under_way @ (Departure::Moving(_) | Departure::Removing)) = departures.get(&id) {
            return Err(under_way.refusal());
        }
        Ok(Leaving {
            departures: self.clone(),
            id,
            former: departures.insert(id, departure),
        })
    }

    /// Says that a repository was moved to `to`, as the catalog remembers.
    pub(crate) fn set_moved(&self, id: RepositoryId, to: String) {
        self.0.lock().entry(id).or_insert(Departure::Moved(to));
    }

    /// Lets those that were moved be written again. What is under way goes on.
    pub(crate) fn take_back(&self) {
        self.0
            .lock()
            .retain(|_, departure| !matches!(departure, Departure::Moved(_)));
    }

    /// Whether a repository is on its way out.
    pub(crate) fn contains(&self, id: RepositoryId) -> bool {
        self.0.lock().contains_key(&id)
    }
}

impl Leaving {
    /// It is at the other place now.
    pub(crate) fn arrived(mut self, to: &str) {
        self.former = Some(Departure::Moved(to.to_owned()));
    }

    /// It is nowhere any more.
    pub(crate) fn gone(mut self) {
        self.former = None;
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut departures = self.departures.0.lock();
        match self.former.take() {
            Some(former) => departures.insert(self.id, former),
            None => departures.remove(&self.id),
        };
    }
}

impl Departure {
    fn refusal(&self) -> Error {
        let line = match self {
            Self::Moving(to) => {
                format!("this repository is being moved to {to}: write there once it is, or cancel the move")
            }
            Self::Moved(to) => format!(
                "this repository was moved to {to}: write there, or make this store writable again to write here after all"
            ),
            Self::Removing => "this repository is being removed".to_owned(),
        };
        Error::new(Reason::ReadOnly, line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: RepositoryId = RepositoryId([7; 16]);

    #[test]
    fn what_does_not_arrive_is_as_before() {
        let departures = Arc::new(Departures::default());
        let leaving = departures.move_to(ID, "s3://there").unwrap();
        let refused = departures.check(ID).unwrap_err();
        assert_eq!(refused.reason(), Reason::ReadOnly);
        assert!(refused.to_string().contains("s3://there"), "{refused}");
        assert!(departures.move_to(ID, "s3://elsewhere").is_err(), "one at a time");
        drop(leaving);
        departures.check(ID).unwrap();

        departures.move_to(ID, "s3://there").unwrap().arrived("s3://there");
        assert!(departures.check(ID).unwrap_err().to_string().contains("was moved"));
        departures.check_under_way(ID).unwrap();
        drop(departures.move_to(ID, "s3://elsewhere").unwrap());
        assert!(departures.check(ID).unwrap_err().to_string().contains("s3://there"));
        departures.take_back();
        departures.check(ID).unwrap();
    }
}
