//! What is remembered of scrubs: when one came to its end, and where one that goes on later was. In the catalog, so that it
//! outlives the process; a rebuild forgets it, and then there is reason to look again.

use super::cursor::ScrubCursor;
use super::report::Depth;
use crate::catalog::Catalog;
use crate::codec::RepositoryId;
use crate::engine::error::Result;
use crate::engine::repository::Repository;
use crate::engine::store::Store;

/// What is remembered of the scrubs of a repository to one depth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubHistory {
    /// When one last came to its end, in milliseconds since 1970 UTC.
    pub completed_ms: Option<i64>,
    /// Where one that was begun is to go on.
    pub next: Option<ScrubCursor>,
}

impl Store {
    /// What is remembered of the scrubs of a repository. Takes no key.
    ///
    /// # Errors
    /// Those of the catalog.
    pub fn scrub_history(&self, repository: RepositoryId, depth: Depth) -> Result<ScrubHistory> {
        let catalog = self.catalog();
        let completed = catalog.note(repository, &completed_note(depth))?;
        let next = catalog.note(repository, &next_note(depth))?;
        // What cannot be read was written by another version: as good as nothing.
        Ok(ScrubHistory {
            completed_ms: completed.and_then(|bytes| Some(i64::from_le_bytes(bytes.try_into().ok()?))),
            next: next
                .and_then(|bytes| String::from_utf8(bytes).ok()?.parse().ok())
                .filter(|next: &ScrubCursor| next.depth() == depth),
        })
    }
}

impl Repository {
    /// Remembers where a scrub of this depth is to go on; from the beginning without a cursor. A repository whose key is
    /// gone is not written about: it may be gone itself.
    ///
    /// # Errors
    /// `KeysUnavailable`; those of the catalog.
    pub fn remember_scrub(&self, depth: Depth, next: Option<&ScrubCursor>) -> Result<()> {
        let core = self.core();
        core.revocation.check()?;
        let text = next.map(ToString::to_string);
        let text = text.as_deref().map(str::as_bytes);
        Ok(core.store_catalog.set_note(self.id(), &next_note(depth), text)?)
    }
}

/// Remembers that a scrub has come to its end. Forgetting that would only make the next one come sooner.
pub(super) fn completed(catalog: &Catalog, repository: RepositoryId, depth: Depth) {
    let now = jiff::Timestamp::now().as_millisecond();
    let noted = catalog.set_note(repository, &completed_note(depth), Some(&now.to_le_bytes()));
    if let Err(error) = noted {
        tracing::warn!(%repository, %error, "the end of a scrub could not be remembered");
    }
}

fn completed_note(depth: Depth) -> String {
    format!("scrub-completed-{depth}")
}

fn next_note(depth: Depth) -> String {
    format!("scrub-next-{depth}")
}
