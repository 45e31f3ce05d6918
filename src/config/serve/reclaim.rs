//! Reclaims that the agent begins by itself.

use super::read::{number, word};
use super::{Error, Settings, YES_NO};

/// Reclaims that the agent begins by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reclaims {
    /// Whether it does.
    pub automatic: bool,
    /// Garbage that may stay where there is room, in percent of what is stored.
    pub garbage_percent: u8,
}

impl Default for Reclaims {
    fn default() -> Self {
        Self {
            automatic: true,
            garbage_percent: 10,
        }
    }
}

pub(super) fn reclaims(settings: &mut Settings) -> Result<Reclaims, Error> {
    let default = Reclaims::default();
    Ok(Reclaims {
        automatic: settings
            .one("reclaim.automatic", word(&YES_NO))?
            .unwrap_or(default.automatic),
        garbage_percent: settings
            .one("reclaim.garbage_percent", number(0..=100))?
            .unwrap_or(default.garbage_percent),
    })
}
