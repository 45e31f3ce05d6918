//! Whether a put may happen now: what was seen of the place last, and what it means for admission.
//!
//! One [`assess`] decides both this and the mode. Here it is asked with what can be seen of the place alone, by every put
//! and without anybody watching; the monitor adds keys, repositories and totals and publishes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinError;
use tokio::time::Instant;

use super::error::{Error, Reason, Result};
use super::limits::Limits;
use super::status::{Assessment, Capacity, CatalogTrouble, Held, Observations, Policy, Repositories, assess};
use crate::backend::{Backend, Look, Presence};
use crate::catalog::Catalog;

/// For so long a look at the place is relied on for admission.
const LOOK_AGE_MAX: Duration = Duration::from_millis(100);
/// For as long it is relied on for packs of data too, if it showed so many bytes more than these take: nobody fills so many in that
/// time. So they cover as well what was begun before it and written after it.
const PLENTY_BYTES: u64 = 1 << 30;
/// A volume that takes longer to be looked at does not answer: a network file system whose server is away.
const LOOK_WAIT: Duration = Duration::from_secs(2);

/// The gate of a store, shared by its repositories.
pub(crate) struct Gate {
    backend: Backend,
    catalog: Catalog,
    policy: Policy,
    limits: Arc<Limits>,
    state: Mutex<State>,
    /// One look at a time: one that hangs takes one thread, not all of them.
    looking: Arc<Semaphore>,
    /// The reserve is kept by one at a time.
    keeping: Arc<Semaphore>,
    admitting: tokio::sync::Mutex<()>,
    /// Bytes of packs of data that are being put.
    putting_bytes: AtomicU64,
    is_watched: AtomicBool,
    poked: Notify,
}

struct State {
    looked_at: Option<Instant>,
    /// What the last look showed.
    seen: Option<Seen>,
    /// Bytes of packs of data that were admitted, ever.
    admitted_bytes: u64,
    held: Held,
    refusal: Option<(Reason, String)>,
    is_read_only_requested: bool,
    is_deletion_requested: bool,
}

/// A look at the room.
#[derive(Clone, Copy)]
struct Seen {
    /// When it began.
    at: Instant,
    /// What had been admitted by then.
    admitted_bytes: u64,
    /// Bytes beyond the reserve; none where there is no end, or nothing says how many.
    room: Option<u64>,
}

impl State {
    /// Whether a pack can be put by the last look. It counts as admitted.
    fn has_plenty(&mut self, putting: &Putting<'_>) -> bool {
        self.admitted_bytes += putting.bytes;
        let Some(seen) = self.seen.filter(|seen| seen.at.elapsed() < LOOK_AGE_MAX) else {
            return false;
        };
        let since = self.admitted_bytes - seen.admitted_bytes;
        let taken = since.saturating_add(putting.all_bytes);
        seen.room.is_none_or(|room| room.saturating_sub(taken) >= PLENTY_BYTES)
    }
}

impl Gate {
    pub(crate) fn new(
        backend: Backend,
        catalog: Catalog,
        policy: Policy,
        limits: Arc<Limits>,
        held: Held,
        is_read_only_requested: bool,
    ) -> Self {
        Self {
            backend,
            catalog,
            policy,
            limits,
            state: Mutex::new(State {
                looked_at: None,
                seen: None,
                admitted_bytes: 0,
                held,
                refusal: None,
                is_read_only_requested,
                is_deletion_requested: false,
            }),
            looking: Arc::new(Semaphore::new(1)),
            keeping: Arc::new(Semaphore::new(1)),
            admitting: tokio::sync::Mutex::new(()),
            putting_bytes: AtomicU64::new(0),
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
            None => {}
            Some((reason, message)) => return Err(self.refused(*reason, message)),
        }
        self.check_limit()
    }

    /// The limit of the store needs no look: what counts against it is known at any moment.
    fn check_limit(&self) -> Result<()> {
        match self.limits.of_store() {
            Some(limit) if limit.free_bytes() < limit.reserved_bytes(self.policy.pack_bytes) => {
                let line = "the limit of the store leaves no room for what is on its way: delete objects and run gc, or raise \
                            the limit";
                Err(self.refused(Reason::NoCapacity, line))
            }
            _ => Ok(()),
        }
    }

    /// Fails if a pack of data of this size would use up the reserve, as things stand at this moment, or a moment ago if there was
    /// plenty. Packs that are being put count as if they were there: however many come at once, none of them enters the reserve.
    pub(crate) async fn admit_pack(&self, bytes: u64) -> Result<Putting<'_>> {
        let putting = Putting::of(self, bytes);
        if self.state.lock().has_plenty(&putting) {
            self.check_limit()?;
            return Ok(putting);
        }
        let place = self.look().await;
        let room = self.room_of(&place);
        self.assess(&self.of_place(place));
        if room.is_some_and(|room| room < putting.all_bytes) {
            let line = format!(
                "no room for a pack of {bytes} bytes beyond the reserve and the packs that are being put: delete objects and \
                 run gc, or enlarge the volume"
            );
            return Err(self.refused(Reason::NoCapacity, &line));
        }
        // It is among what is used already.
        self.check_limit()?;
        Ok(putting)
    }

    /// Bytes beyond the reserve; none where there is no end.
    fn room_of(&self, place: &Look) -> Option<u64> {
        let volume = Capacity::of(place.space, 0, self.policy.pack_bytes, None);
        volume.free_bytes.map(|free| free.saturating_sub(volume.reserved_bytes))
    }

    /// Whether there was little room at the last look.
    pub(crate) fn is_low(&self) -> bool {
        let held = self.state.lock().held;
        held.low_bytes || held.low_inodes
    }

    /// Bytes that can still be written, those of the reserve included, whatever the store may use; none where there is no end.
    pub(crate) async fn room(&self) -> Option<u64> {
        let place = self.look().await;
        Capacity::of(place.space, 0, self.policy.pack_bytes, None).free_bytes
    }

    /// Looks at the place now.
    pub(crate) async fn look(&self) -> Look {
        let silent = |how: &str| Look::away(Presence::Silent(how.to_owned()));
        let looking = async {
            let turn = self.looking.clone().acquire_owned().await;
            let turn = turn.expect("the semaphore is never closed");
            let backend = self.backend.clone();
            // Others may take of what it shows from here on.
            let (at, admitted_bytes) = (Instant::now(), self.state.lock().admitted_bytes);
            let look = tokio::task::spawn_blocking(move || {
                let look = backend.look();
                drop((backend, turn));
                look
            });
            let look = look.await.unwrap_or_else(|_| silent("it cannot be looked at"));
            self.state.lock().seen = Some(Seen {
                at,
                admitted_bytes,
                room: self.room_of(&look),
            });
            look
        };
        match tokio::time::timeout(LOOK_WAIT, looking).await {
            Ok(look) => look,
            Err(_) => silent("no answer for some seconds"),
        }
    }

    /// Does work on the reserve, once what was begun before is done. It goes on if nobody waits for it any more.
    pub(crate) async fn keep_reserve<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::result::Result<T, JoinError> {
        let turn = self.keeping.clone().acquire_owned().await;
        let turn = turn.expect("the semaphore is never closed");
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        done.await
    }

    /// Waits until looks, and work on the reserve, that nobody waits for any more have ended, and with them their hold of
    /// the store. A place that does not answer is not waited for.
    pub(crate) async fn settle(&self) {
        let settled = async {
            drop(self.looking.acquire().await);
            drop(self.keeping.acquire().await);
        };
        let _ = tokio::time::timeout(LOOK_WAIT, settled).await;
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
            limit: self.limits.of_store(),
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

    /// To be called when a limit was changed.
    pub(crate) fn look_again(&self) {
        self.state.lock().looked_at = None;
        self.poke();
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

/// A pack that is being put, for as long as this lives.
pub(crate) struct Putting<'a> {
    gate: &'a Gate,
    bytes: u64,
    /// What was being put when it came, itself included. Taken before the look at the place: a pack that was put since
    /// counts twice then rather than not at all.
    all_bytes: u64,
}

impl<'a> Putting<'a> {
    fn of(gate: &'a Gate, bytes: u64) -> Self {
        let before = gate.putting_bytes.fetch_add(bytes, Ordering::AcqRel);
        Self {
            gate,
            bytes,
            all_bytes: before + bytes,
        }
    }
}

impl Drop for Putting<'_> {
    fn drop(&mut self) {
        self.gate.putting_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// Says that a monitor runs, for as long as it lives.
pub(crate) struct Watched<'a>(&'a AtomicBool);

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Attach, Location};
    use crate::engine::status::CapacityPolicy;

    fn policy() -> Policy {
        Policy {
            capacity: CapacityPolicy::DEFAULT,
            pack_bytes: 16 << 20,
            failure_hold: Duration::from_secs(30),
        }
    }

    async fn gate(location: Location, limit: Option<u64>) -> Gate {
        let backend = Backend::attach(&location, Attach::Existing).await.unwrap();
        let limits = Arc::new(Limits::new(limit, Default::default()));
        let catalog = Catalog::open(&crate::catalog::Location::Memory, &Default::default()).unwrap();
        Gate::new(backend, catalog, policy(), limits, Held::default(), false)
    }

    #[tokio::test]
    async fn packs_that_are_put_at_once_do_not_enter_the_reserve_together() {
        let directory = tempfile::tempdir().unwrap();
        let gate = gate(Location::Directory(directory.path().to_owned()), None).await;
        let capacity = Capacity::of(gate.look().await.space, 0, gate.policy.pack_bytes, None);
        let room = capacity.free_bytes.unwrap() - capacity.reserved_bytes;
        let first = gate.admit_pack(room / 10 * 6).await.expect("one fits");
        let refused = gate.admit_pack(room / 10 * 6).await.map(drop).unwrap_err();
        assert_eq!(refused.reason(), Reason::NoCapacity);
        drop(
            gate.admit_pack(room / 10 * 2)
                .await
                .expect("a smaller one fits beside it"),
        );
        drop(first);
        gate.admit_pack(room / 10 * 6)
            .await
            .expect("what was put is seen by the next look");
    }

    #[tokio::test]
    async fn a_look_is_relied_on_while_there_is_plenty() {
        let gate = gate(Location::Memory("gate with room".to_owned()), None).await;
        let look = |room| {
            let mut state = gate.state.lock();
            state.seen = Some(Seen {
                at: Instant::now(),
                admitted_bytes: state.admitted_bytes,
                room,
            });
        };
        let has_plenty = |bytes| gate.state.lock().has_plenty(&Putting::of(&gate, bytes));
        assert!(!has_plenty(1), "nobody has looked");
        look(Some(PLENTY_BYTES + 100));
        assert!(has_plenty(30), "once as put since, once as being put");
        assert!(!has_plenty(40), "what was admitted since counts");
        look(Some(PLENTY_BYTES + 100));
        assert!(has_plenty(40), "what was admitted before does not");
        look(Some(PLENTY_BYTES + 100));
        let putting = Putting::of(&gate, 50);
        assert!(!has_plenty(40), "what is being put counts");
        drop(putting);
        look(None);
        assert!(has_plenty(1 << 40), "no end");
        tokio::time::sleep(LOOK_AGE_MAX + Duration::from_millis(10)).await;
        assert!(!has_plenty(1), "that was some time ago");
    }

    #[tokio::test]
    async fn a_limit_holds_against_packs_on_their_way_and_what_changes_is_seen_at_once() {
        const MIB: u64 = 1 << 20;
        let gate = gate(Location::Memory("gate with a limit".to_owned()), Some(100 * MIB)).await;
        gate.admit().await.unwrap();
        // A reserve of a tenth.
        gate.limits.pend(0, 90 * MIB);
        gate.admit_pack(MIB)
            .await
            .expect("what is beyond the reserve may be used");
        gate.limits.pend(0, MIB);
        let refused = gate.admit_pack(MIB).await.map(drop).unwrap_err();
        assert_eq!(refused.reason(), Reason::NoCapacity);
        assert_eq!(gate.check().unwrap_err().reason(), Reason::NoCapacity);
        gate.limits.set_store_bytes_max(None);
        gate.look_again();
        gate.admit().await.unwrap();
    }
}
