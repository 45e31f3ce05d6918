//! The state of a store over time: taken stock of each second and on events, told to whoever watches, remembered beyond
//! the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::error::{Reason, Result};
use super::keyrings::RepositoryHeader;
use super::limits::Limits;
use super::random;
use super::repository::{self, Repository, RepositoryStatus};
use super::status::{Assessment, Capacity, CatalogTrouble, Mode, Repositories, Status};
use super::store::Store;
use super::write::crc32c;
use crate::backend::Presence;
use crate::catalog::{Catalog, ModeRow};
use crate::codec::RepositoryId;

/// How often stock is taken without any event, and numbers are told.
const POLL: Duration = Duration::from_secs(1);
/// Events closer together than this are taken together.
const EVENT_SPACING: Duration = Duration::from_millis(50);
/// After so long it is tried again to open a repository that could not be opened.
const REOPEN: Duration = Duration::from_secs(10);
/// Taking stock waits so long for the reserve to be allocated; it is done at once where that is no more than a mark.
const RESERVE_WAIT: Duration = Duration::from_secs(1);
/// A trial write that takes longer is given up; the next one tells.
const TRY_OUT_WAIT: Duration = Duration::from_secs(60);

/// Who is told what, and what was told last.
pub(crate) struct Watch {
    boot_id: [u8; 16],
    statuses: watch::Sender<Arc<Status>>,
    /// Held while stock is taken: statuses go out in their order.
    told: tokio::sync::Mutex<Told>,
    repositories: Mutex<BTreeMap<RepositoryId, Opened>>,
}

#[derive(Default)]
struct Told {
    row: Option<ModeRow>,
    started_ms: i64,
    published_at: Option<Instant>,
    headers: Vec<RepositoryHeader>,
    catalog_sized_at: Option<Instant>,
}

/// How far a repository is.
enum Opened {
    Opening,
    Open(Weak<repository::Inner>),
    Failed(Reason, Instant),
}

/// A repository that is being opened, until that is settled or given up.
pub(crate) struct Opening<'a> {
    watch: &'a Watch,
    id: RepositoryId,
}

/// What the repositories of a store say.
#[derive(Default)]
struct Survey {
    states: Repositories,
    totals: Vec<RepositoryStatus>,
    closed: Vec<RepositoryHeader>,
    catalog_failure: Option<CatalogTrouble>,
}

impl Store {
    /// Room, mode and totals at this moment. Never fails for what is wrong with the store: that is told in the causes.
    ///
    /// Opens the repositories that are not open yet, unless a [`monitor`](Self::monitor) does that.
    ///
    /// # Errors
    /// None at present.
    pub async fn status(&self) -> Result<Status> {
        if !self.inner.gate.is_watched() {
            self.open_all(Duration::ZERO).await;
            self.try_out_overdue().await;
        }
        Ok(Status::clone(&*self.take_stock().await))
    }

    /// The newest status, now and whenever it changes: mode and causes at once, numbers at most once a second, for as long
    /// as a [`monitor`](Self::monitor) runs or somebody asks for the [`status`](Self::status). `INITIALIZING` before that.
    pub fn watch_status(&self) -> watch::Receiver<Arc<Status>> {
        self.inner.watch.statuses.subscribe()
    }

    /// Watches over the store: polls each second, and on failures and other events. Never returns; stops when dropped.
    pub async fn monitor(&self) {
        let _watched = self.inner.gate.watch();
        tokio::join!(self.poll(), self.keep_open(), self.keep_trying_out());
    }

    /// Makes the store read-only, or writable again, by will of an operator. Survives a restart. Making it writable also
    /// accepts the state of repositories that were found set back, and takes back those that were moved: from then on they go
    /// ways of their own here and there.
    ///
    /// # Errors
    /// `CatalogFailed` if it cannot be remembered; then nothing is changed.
    pub async fn set_read_only(&self, read_only: bool) -> Result<Status> {
        if !read_only {
            self.take_back().await?;
        }
        self.inner.catalog.set_read_only(read_only)?;
        self.inner.catalog.persist()?;
        self.inner.gate.request_read_only(read_only);
        if !read_only {
            self.inner.watch.accept_rollbacks();
        }
        self.status().await
    }

    /// Says that the store is about to be moved away or removed: mode `DELETING`, until this process ends or takes it back.
    pub fn set_deleting(&self, deleting: bool) {
        self.inner.gate.request_deletion(deleting);
        self.poke_status();
    }

    /// Lets the monitor look at once: something happened that may change the mode.
    pub fn poke_status(&self) {
        self.inner.gate.poke();
    }

    async fn poll(&self) {
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.inner.gate.changed() => {}
            }
            self.take_stock().await;
            tokio::time::sleep(EVENT_SPACING).await;
        }
    }

    /// Opens what can be opened, so that its totals and troubles are known: keys come and go.
    async fn keep_open(&self) {
        loop {
            self.open_all(REOPEN).await;
            tokio::time::sleep(POLL).await;
        }
    }

    /// Opens what is not open, except what failed less than `again` ago.
    async fn open_all(&self, again: Duration) {
        if self.inner.gate.look().await.presence != Presence::Here {
            return;
        }
        let headers = self.repositories().await;
        let keyless = self.keyless(&headers);
        for header in headers {
            if !keyless.contains(&header.id) && self.inner.watch.is_to_be_opened(header.id, again) {
                // How it ends is recorded where it happens.
                let _ = self.repository(&header.id.to_string()).await;
            }
        }
    }

    async fn keep_trying_out(&self) {
        loop {
            tokio::time::sleep(POLL).await;
            self.try_out_overdue().await;
        }
    }

    /// Has the storage write something if it failed and nothing has gone well since.
    async fn try_out_overdue(&self) {
        let failures = self.inner.backend.health().failures(Instant::now());
        if failures
            .iter()
            .any(|failure| !failure.is_answered && failure.age >= self.try_out_after())
        {
            // A failure is recorded where all are.
            let _ = tokio::time::timeout(TRY_OUT_WAIT, self.inner.backend.try_out()).await;
        }
    }

    /// A storage that just failed is left in peace for a moment; a trial that fails counts as such too, so this is also
    /// the time between two trials.
    fn try_out_after(&self) -> Duration {
        self.inner.options.failure_hold / 6
    }

    async fn take_stock(&self) -> Arc<Status> {
        let inner = &self.inner;
        let mut told = inner.watch.told.lock().await;
        let place = inner.gate.look().await;
        self.ready_catalog().await;
        let survey = self.survey(&mut told, place.presence == Presence::Here);
        let mut seen = inner.gate.of_place(place);
        seen.used_bytes = Some(inner.limits.used_bytes());
        seen.catalog_failure = seen.catalog_failure.or(survey.catalog_failure);
        seen.repositories = survey.states;
        let assessment = inner.gate.assess(&seen);
        self.keep_reserve(&told, &assessment).await;
        let row = remember(&inner.catalog, &mut told, &assessment);
        let status = Arc::new(Status {
            boot_id: inner.watch.boot_id,
            mode: assessment.mode,
            since_ms: row.since_ms,
            sequence: row.sequence,
            causes: assessment.causes,
            capacity: assessment.capacity,
            repositories: survey.totals,
            closed: survey.closed,
        });
        inner.watch.publish(&mut told, status.clone());
        status
    }

    /// Has a catalog that stopped opened anew, as soon as that is possible.
    async fn ready_catalog(&self) {
        let catalog = self.inner.catalog.clone();
        // What keeps it from that is told by the gate.
        let _ = tokio::task::spawn_blocking(move || catalog.ready()).await;
    }

    /// Makes the reserve whole, if this process keeps one. What was given back of it comes back once there is room for
    /// puts again, with the margin that this mode is left by: so it is not taken and given in turn.
    async fn keep_reserve(&self, told: &Told, assessment: &Assessment) {
        let Assessment { capacity, held, .. } = assessment;
        let is_roomy = capacity.total_bytes.is_some() && !held.no_bytes && !held.no_inodes;
        if !self.inner.options.hold_reserve || !is_roomy {
            return;
        }
        let (backend, bytes) = (self.inner.backend.clone(), capacity.reserved_bytes);
        let is_of_nobody = told.headers.is_empty();
        let kept = self.inner.gate.keep_reserve(move || match is_of_nobody {
            true if backend.reserve_bytes() == 0 => Ok(()),
            true => backend.give_back_reserve(),
            false => backend.fill_reserve(bytes),
        });
        match tokio::time::timeout(RESERVE_WAIT, kept).await {
            Ok(Ok(Err(error))) => tracing::debug!(%error, "the reserve is not whole"),
            Ok(Err(_)) => tracing::warn!("keeping the reserve panicked"),
            // It goes on, and nobody else begins meanwhile.
            Ok(Ok(Ok(()))) | Err(_) => {}
        }
    }

    /// What the repositories say, without waiting for anything that opens or makes one.
    fn survey(&self, told: &mut Told, is_here: bool) -> Survey {
        if let Ok(headers) = self.inner.headers.try_lock() {
            told.headers.clone_from(&headers);
        }
        told.size(&self.inner.catalog, &self.inner.limits);
        let keyless = self.keyless(&told.headers);
        let mut survey = Survey::default();
        survey.states.total = told.headers.len();
        for header in &told.headers {
            let opened = self.inner.watch.repositories.lock().get(&header.id).map(Opened::look);
            // An agent opens what it can, soon.
            let is_next = is_here && self.inner.gate.is_watched();
            let opened = opened.or_else(|| is_next.then_some(Look::Opening));
            survey.add(header, keyless.contains(&header.id), opened);
            survey.states.leaving += usize::from(self.inner.departures.contains(header.id));
        }
        survey.totals.sort_by(|a, b| a.name.cmp(&b.name));
        survey.closed.sort_by(|a, b| a.name.cmp(&b.name));
        survey
    }

    /// Repositories whose key is not there.
    fn keyless(&self, headers: &[RepositoryHeader]) -> BTreeSet<RepositoryId> {
        let lacks_key = |header: &&RepositoryHeader| !self.inner.keys.contains(&header.key_id);
        headers.iter().filter(lacks_key).map(|header| header.id).collect()
    }
}

impl Told {
    /// Takes the size of the catalog, which means looking at each of its files: not with every event.
    fn size(&mut self, catalog: &Catalog, limits: &Limits) {
        limits.retain(|id| self.headers.iter().any(|header| header.id == id));
        if self.catalog_sized_at.is_some_and(|at| at.elapsed() < POLL / 2) {
            return;
        }
        match catalog.disk_bytes() {
            Ok(bytes) => limits.set_catalog_bytes(bytes),
            Err(error) => tracing::debug!(%error, "the size of the catalog cannot be had now"),
        }
        self.catalog_sized_at = Some(Instant::now());
    }
}

impl Survey {
    fn add(&mut self, header: &RepositoryHeader, is_keyless: bool, opened: Option<Look>) {
        match opened {
            _ if is_keyless => self.states.keyless += 1,
            Some(Look::Open(repository)) if self.add_open(&repository) => return,
            Some(Look::Opening) => self.states.opening += 1,
            // As soon as the place is back, it is tried again.
            Some(Look::Open(_) | Look::Closed | Look::Failed(Reason::BackendUnavailable | Reason::AuthFailed))
            | None => {}
            Some(Look::Failed(Reason::KeysUnavailable | Reason::WrongKey)) => self.states.keyless += 1,
            Some(Look::Failed(reason)) => self.states.unopened.push(reason),
        }
        self.closed.push(header.clone());
    }

    /// Adds what an open repository says; false if it is just being closed.
    fn add_open(&mut self, repository: &Repository) -> bool {
        match repository.status() {
            Ok(totals) => self.totals.push(totals),
            Err(error) if error.reason() == Reason::KeysUnavailable => return false,
            Err(error) => {
                self.catalog_failure = Some(CatalogTrouble {
                    is_full: error.reason() == Reason::NoCapacity,
                    line: error.to_string(),
                });
            }
        }
        self.states.open += 1;
        self.states.fenced += usize::from(repository.is_fenced());
        self.states.rolled_back += usize::from(repository.is_rolled_back());
        true
    }
}

/// [`Opened`] at one moment.
enum Look {
    Closed,
    Opening,
    Open(Repository),
    Failed(Reason),
}

impl Opened {
    fn look(&self) -> Look {
        match self {
            Self::Opening => Look::Opening,
            Self::Failed(reason, _) => Look::Failed(*reason),
            Self::Open(repository) => match repository.upgrade() {
                Some(inner) => Look::Open(Repository { inner }),
                None => Look::Closed,
            },
        }
    }
}

impl Watch {
    /// Nobody has looked yet: the status is `INITIALIZING`.
    pub(crate) fn new(row: Option<ModeRow>) -> Result<Self> {
        let boot_id = random()?;
        let started_ms = jiff::Timestamp::now().as_millisecond();
        let status = Status {
            boot_id,
            mode: Mode::Initializing,
            since_ms: started_ms,
            sequence: row.map_or(0, |row| row.sequence),
            causes: Vec::new(),
            capacity: Capacity::default(),
            repositories: Vec::new(),
            closed: Vec::new(),
        };
        Ok(Self {
            boot_id,
            statuses: watch::Sender::new(Arc::new(status)),
            told: tokio::sync::Mutex::new(Told {
                row,
                started_ms,
                ..Told::default()
            }),
            repositories: Mutex::default(),
        })
    }

    /// To be called before a repository is opened.
    pub(crate) fn opening(&self, id: RepositoryId) -> Opening<'_> {
        self.repositories.lock().insert(id, Opened::Opening);
        Opening { watch: self, id }
    }

    fn accept_rollbacks(&self) {
        for opened in self.repositories.lock().values() {
            if let Look::Open(repository) = opened.look() {
                repository.accept_rollback();
            }
        }
    }

    fn is_to_be_opened(&self, id: RepositoryId, again: Duration) -> bool {
        match self.repositories.lock().get(&id) {
            // A key that was not there may have come.
            Some(Opened::Failed(Reason::KeysUnavailable, ..)) | None => true,
            Some(Opened::Failed(_, at)) => at.elapsed() >= again,
            // Also one that was closed since.
            Some(Opened::Open(_)) => true,
            Some(Opened::Opening) => false,
        }
    }

    /// Tells those who watch: at once if the mode or a cause is another, else if they have not been told for a while.
    fn publish(&self, told: &mut Told, status: Arc<Status>) {
        let now = Instant::now();
        let is_due = told.published_at.is_none_or(|at| now.duration_since(at) >= POLL);
        let published = self.statuses.send_if_modified(|newest| {
            let is_news = !newest.says_the_same(&status) || (is_due && *newest != status);
            if is_news {
                *newest = status;
            }
            is_news
        });
        if published {
            told.published_at = Some(now);
        }
    }
}

impl Opening<'_> {
    /// How it ended.
    pub(crate) fn settle(self, opened: &Result<Repository>) {
        let state = match opened {
            Ok(repository) => Opened::Open(Arc::downgrade(&repository.inner)),
            Err(error) => {
                // Without its key every call says so by itself.
                if error.reason() != Reason::KeysUnavailable {
                    tracing::warn!(repository = %self.id, %error, "a repository could not be opened");
                }
                Opened::Failed(error.reason(), Instant::now())
            }
        };
        self.watch.repositories.lock().insert(self.id, state);
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let mut repositories = self.watch.repositories.lock();
        if let Some(Opened::Opening) = repositories.get(&self.id) {
            repositories.remove(&self.id);
        }
    }
}

impl Status {
    /// Whether mode and causes are the same, whatever their numbers.
    fn says_the_same(&self, other: &Self) -> bool {
        let causes = |status: &Self| -> Vec<_> { status.causes.iter().map(|cause| (cause.code, cause.mode)).collect() };
        self.mode == other.mode && self.sequence == other.sequence && causes(self) == causes(other)
    }
}

/// Fills in since when the mode holds; a change is remembered beyond this process, and nothing is written without one.
///
/// `INITIALIZING` is passed through by every start: counting it would make every restart a change.
fn remember(catalog: &Catalog, told: &mut Told, assessment: &Assessment) -> ModeRow {
    let (mode, causes) = (assessment.mode.number(), fingerprint(assessment));
    let former = told.row;
    if let Some(row) = former.filter(|row| (row.mode, row.causes) == (mode, causes)) {
        return row;
    }
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let mut row = ModeRow {
        mode,
        since_ms: former.filter(|row| row.mode == mode).map_or(now_ms, |row| row.since_ms),
        sequence: former.map_or(0, |row| row.sequence),
        causes,
        held: assessment.held.to_bits(),
    };
    if assessment.mode == Mode::Initializing {
        row.since_ms = told.started_ms;
        return row;
    }
    row.sequence += 1;
    told.row = Some(row);
    if let Err(error) = catalog.set_mode(row) {
        tracing::warn!(%error, "the mode could not be remembered; a restart will count anew");
    }
    row
}

/// Tells one set of causes from another; 0 if there are none.
fn fingerprint(assessment: &Assessment) -> u32 {
    let mut words = String::new();
    for cause in &assessment.causes {
        words += cause.code;
        words += cause.mode.as_str();
    }
    crc32c(words.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_told_at_once_and_numbers_once_a_second() {
        let watch = Watch::new(None).unwrap();
        let mut told = Told::default();
        let first = Status::clone(&watch.statuses.borrow());
        let with = |mode, used_bytes| {
            let mut status = first.clone();
            (status.mode, status.capacity.used_bytes) = (mode, used_bytes);
            Arc::new(status)
        };
        let newest = || watch.statuses.borrow().clone();
        let steps = [
            (Mode::Optimal, 1, Mode::Optimal, 1),
            (Mode::Optimal, 2, Mode::Optimal, 1),
            (Mode::LowCapacity, 3, Mode::LowCapacity, 3),
            (Mode::LowCapacity, 4, Mode::LowCapacity, 3),
        ];
        for (mode, used, shown_mode, shown_used) in steps {
            watch.publish(&mut told, with(mode, used));
            assert_eq!((newest().mode, newest().capacity.used_bytes), (shown_mode, shown_used));
        }
        told.published_at = Instant::now().checked_sub(POLL);
        watch.publish(&mut told, with(Mode::LowCapacity, 5));
        assert_eq!(newest().capacity.used_bytes, 5);
    }

    #[test]
    fn only_changes_are_counted_and_written() {
        let catalog = Catalog::open(&crate::catalog::Location::Memory, &crate::catalog::Limits::default()).unwrap();
        let mut told = Told::default();
        let assessment = |mode| Assessment {
            mode,
            causes: Vec::new(),
            capacity: Capacity::default(),
            held: Default::default(),
        };
        let mut rows = Vec::new();
        let modes = [
            Mode::Initializing,
            Mode::Optimal,
            Mode::Optimal,
            Mode::ReadOnly,
            Mode::Initializing,
            Mode::ReadOnly,
        ];
        for mode in modes {
            rows.push(remember(&catalog, &mut told, &assessment(mode)));
        }
        let sequences: Vec<_> = rows.iter().map(|row| row.sequence).collect();
        assert_eq!(sequences, [0, 1, 1, 2, 2, 2]);
        assert_eq!(catalog.mode().unwrap(), Some(rows[3]));
        assert_eq!(rows[5], rows[3], "being opened anew is no change");
    }
}
