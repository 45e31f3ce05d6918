//! Whether a put may happen now: what was seen of the place last, and what it means for admission.
//!
//! One [`assess`] decides both this and the mode. Here it is asked with what can be seen of the place alone, by every put
//! and without anybody watching; the monitor adds keys, repositories and totals and publishes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::error::{Error, Reason, Result};
use super::status::{Assessment, Capacity, CatalogTrouble, Held, Observations, Policy, Repositories, assess};
use crate::backend::{Backend, Look, Presence};
use crate::catalog::Catalog;

/// For so long a look at the place is relied on for admission.
const LOOK_AGE_MAX: Duration = Duration::from_millis(100);
/// A volume that takes longer to be looked at does not answer: a network file system whose server is away.
const LOOK_WAIT: Duration = Duration::from_secs(2);

/// The gate of a store, shared by its repositories.
pub(crate) struct Gate {
    backend: Backend,
    catalog: Catalog,
    policy: Policy,
    state: Mutex<State>,
    /// One look at a time: one that hangs takes one thread, not all of them.
    looking: Arc<Semaphore>,
    admitting: tokio::sync::Mutex<()>,
    is_watched: AtomicBool,
    poked: Notify,
}

struct State {
    looked_at: Option<Instant>,
    held: Held,
    refusal: Option<(Reason, String)>,
    is_read_only_requested: bool,
    is_deletion_requested: bool,
}

impl Gate {
    pub(crate) fn new(
        backend: Backend,
        catalog: Catalog,
        policy: Policy,
        held: Held,
        is_read_only_requested: bool,
    ) -> Self {
        Self {
            backend,
            catalog,
            policy,
            state: Mutex::new(State {
                looked_at: None,
                held,
                refusal: None,
                is_read_only_requested,
                is_deletion_requested: false,
            }),
            looking: Arc::new(Semaphore::new(1)),
            admitting: tokio::sync::Mutex::new(()),
            is_watched: AtomicBool::new(false),
            poked: Notify::new(),
        }
    }

    /// Fails if no put may happen as things stand. Looks at the place if the last look is some time ago: a few system
    /// calls at most every tenth of a second, whatever the number of puts.
    pub(crate) async fn admit(&self) -> Result<()> {
        if !self.is_fresh() {
            let _turn = self.admitting.lock().await;
            // Whoever had its turn before has looked for us too.
            if !self.is_fresh() {
                let place = self.look().await;
                self.assess(&self.of_place(place));
            }
        }
        self.check()
    }

    fn is_fresh(&self) -> bool {
        let looked_at = self.state.lock().looked_at;
        looked_at.is_some_and(|at| at.elapsed() < LOOK_AGE_MAX)
    }

    /// As [`admit`](Self::admit), after a look at this moment: something was done about the room.
    pub(crate) async fn admit_again(&self) -> Result<()> {
        self.state.lock().looked_at = None;
        self.admit().await
    }

    /// As [`admit`](Self::admit), by the last look.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.state.lock().refusal {
            None => Ok(()),
            Some((reason, message)) => Err(self.refused(*reason, message)),
        }
    }

    /// Fails if a pack of data of this size would use up the reserve, as things stand at this moment. Packs that are being
    /// put at the same time are not counted: the reserve has room for them.
    pub(crate) async fn admit_pack(&self, bytes: u64) -> Result<()> {
        let place = self.look().await;
        let capacity = Capacity::of(place.space, 0, self.policy.pack_bytes);
        self.assess(&self.of_place(place));
        match capacity.free_bytes {
            Some(free) if free < capacity.reserved_bytes.saturating_add(bytes) => {
                let line = format!(
                    "no room for a pack of {bytes} bytes beyond the reserve: delete objects and run gc, or enlarge the volume"
                );
                Err(self.refused(Reason::NoCapacity, &line))
            }
            _ => Ok(()),
        }
    }

    /// Looks at the place now.
    pub(crate) async fn look(&self) -> Look {
        let silent = |how: &str| Look::away(Presence::Silent(how.to_owned()));
        let looking = async {
            let turn = self.looking.clone().acquire_owned().await;
            let turn = turn.expect("the semaphore is never closed");
            let backend = self.backend.clone();
            let look = tokio::task::spawn_blocking(move || {
                let look = backend.look();
                drop(turn);
                look
            });
            look.await.unwrap_or_else(|_| silent("it cannot be looked at"))
        };
        match tokio::time::timeout(LOOK_WAIT, looking).await {
            Ok(look) => look,
            Err(_) => silent("no answer for some seconds"),
        }
    }

    /// What can be seen of the place and of the catalog, whatever the repositories say.
    pub(crate) fn of_place(&self, place: Look) -> Observations {
        let catalog_failure = self.catalog.trouble().map(|error| CatalogTrouble::of(&error));
        let failures = self.backend.health().failures(Instant::now());
        let state = self.state.lock();
        Observations {
            place,
            failures,
            used_bytes: None,
            is_read_only_requested: state.is_read_only_requested,
            is_deletion_requested: state.is_deletion_requested,
            catalog_failure,
            repositories: Repositories::default(),
        }
    }

    /// The mode for what was seen; from now on it decides what is admitted.
    pub(crate) fn assess(&self, seen: &Observations) -> Assessment {
        let mut state = self.state.lock();
        let assessment = assess(seen, &self.policy, state.held);
        let refusal = assessment.refusal();
        let is_news = refusal.as_ref().map(|(reason, _)| *reason) != state.refusal.as_ref().map(|(reason, _)| *reason);
        state.held = assessment.held;
        state.looked_at = Some(Instant::now());
        state.refusal = refusal;
        drop(state);
        if is_news {
            self.poke();
        }
        assessment
    }

    pub(crate) fn request_read_only(&self, requested: bool) {
        let mut state = self.state.lock();
        state.is_read_only_requested = requested;
        state.looked_at = None;
    }

    pub(crate) fn request_deletion(&self, requested: bool) {
        let mut state = self.state.lock();
        state.is_deletion_requested = requested;
        state.looked_at = None;
    }

    /// Whether a monitor runs: this process is an agent that somebody operates.
    pub(crate) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// Says for as long as what is returned lives that a monitor runs.
    pub(crate) fn watch(&self) -> Watched<'_> {
        self.is_watched.store(true, Ordering::Relaxed);
        Watched(&self.is_watched)
    }

    /// Tells the monitor that something may have changed.
    pub(crate) fn poke(&self) {
        self.poked.notify_one();
    }

    /// Waits for something that may have changed the mode.
    pub(crate) async fn changed(&self) {
        tokio::select! {
            () = self.poked.notified() => {}
            () = self.backend.health().changed() => {}
        }
    }

    fn refused(&self, reason: Reason, message: &str) -> Error {
        Error::new(reason, format!("{}: {message}", self.backend.location()))
    }
}

/// Says that a monitor runs, for as long as it lives.
pub(crate) struct Watched<'a>(&'a AtomicBool);

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
