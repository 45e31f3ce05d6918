//! Scrubs that the agent begins by itself.

use std::num::NonZeroU64;
use std::time::Duration;

use super::read::{size, span};
use super::{Error, HOUR, Settings};
use crate::config::Size;

/// Scrubs that the agent begins by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scrubs {
    /// From the end of one to depth structure or full to the beginning of the next to depth structure; none if absent.
    pub structure_every: Option<Duration>,
    /// From the end of one to depth full to the beginning of the next; none if absent.
    pub full_every: Option<Duration>,
    /// Most bytes they read in a second.
    pub rate_bytes: NonZeroU64,
}

/// Below it a store of any size would never be through; above it there is no disk.
const RATE: (Size, Size) = (Size(64 << 10), Size(16 << 30));
/// A tenth of what a disk reads.
const RATE_DEFAULT: NonZeroU64 = NonZeroU64::new(32 << 20).expect("it is not 0");
const MINUTE: Duration = Duration::from_secs(60);
const YEAR: Duration = HOUR.saturating_mul(24 * 365);

impl Default for Scrubs {
    fn default() -> Self {
        Self {
            // What reading costs, and whether the store is checked from elsewhere, only an operator knows.
            structure_every: None,
            full_every: None,
            rate_bytes: RATE_DEFAULT,
        }
    }
}

pub(super) fn scrubs(settings: &mut Settings) -> Result<Scrubs, Error> {
    let every = |text: &str| match text {
        "off" => Ok(None),
        text => span(MINUTE..=YEAR)(text)
            .map(Some)
            .map_err(|problem| format!("{problem}, or off")),
    };
    let rate = settings.one("scrub.rate_bytes", size(RATE.0..=RATE.1))?;
    Ok(Scrubs {
        structure_every: settings.one("scrub.structure_every", every)?.flatten(),
        full_every: settings.one("scrub.full_every", every)?.flatten(),
        rate_bytes: rate
            .and_then(|Size(bytes)| NonZeroU64::new(bytes))
            .unwrap_or(RATE_DEFAULT),
    })
}
