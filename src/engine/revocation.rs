//! How a repository ends when its key is taken away: whatever works on it is told, at once and for good.

use tokio::sync::watch;

use super::error::{Error, Reason, Result};

/// Whether the key of an open repository has been taken away. It never comes back: a key that is loaded again opens the
/// repository anew.
#[derive(Debug)]
pub(crate) struct Revocation(watch::Sender<bool>);

impl Default for Revocation {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Revocation {
    pub(crate) fn revoke(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn is_revoked(&self) -> bool {
        *self.0.borrow()
    }

    /// # Errors
    /// `KeysUnavailable` once it is revoked.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_revoked() { Err(revoked()) } else { Ok(()) }
    }

    /// Waits until it is revoked; the error for whoever worked on the repository.
    pub(crate) async fn revoked(&self) -> Error {
        // Fails only if the sender is gone, and that is `self`.
        let _ = self.0.subscribe().wait_for(|revoked| *revoked).await;
        revoked()
    }
}

fn revoked() -> Error {
    Error::new(
        Reason::KeysUnavailable,
        "the key of this repository was taken away; load it again and repeat the request",
    )
}
