//! The contract and the engine, each in the words of the other. Both directions: an agent answers, the command line asks.
//!
//! What arrives is checked here, so that behind this only the engine's own types are found.

mod decommission;
mod limits;
mod object;
mod reclaim;
mod repository;
mod scrub;
mod status;

pub use self::decommission::{evacuate_report, wipe_report, without_evacuate_lists};
pub use self::limits::{
    RATE_BYTES_MIN, STORE_BYTES_MIN, quota, quota_message, rates, repository_limit, shaping, store_bytes,
};
pub use self::object::{
    byte_range, byte_range_message, metadata, page_token, precondition, precondition_message, put_id,
};
pub use self::reclaim::reclaim_report;
pub use self::repository::{head, repository, repository_header, repository_status};
pub use self::scrub::{RANGES_MAX, cursor, damaged_object, scrub_report, scrub_work, without_lists};
pub use self::status::status;

use prost_types::Timestamp;

use crate::engine::{Error, Reason, Result};

/// A time that the engine gives in milliseconds since 1970 UTC.
pub fn timestamp(ms: i64) -> Timestamp {
    Timestamp {
        seconds: ms.div_euclid(1000),
        nanos: ms.rem_euclid(1000) as i32 * 1_000_000,
    }
}

/// The same in milliseconds; what is absent or beyond all time is 1970.
pub fn milliseconds(time: Option<&Timestamp>) -> i64 {
    // Whole seconds of the earliest times lie beyond what is counted here, and come back with their nanoseconds.
    let ms = |time: &Timestamp| i128::from(time.seconds) * 1000 + i128::from(time.nanos / 1_000_000);
    time.and_then(|time| i64::try_from(ms(time)).ok()).unwrap_or_default()
}

/// A part of an agent's answer that every agent sends.
///
/// # Errors
/// `Internal` if it is not there.
pub fn required<T>(part: Option<T>, what: &str) -> Result<T> {
    part.ok_or_else(|| Error::new(Reason::Internal, format!("the agent's answer has no {what}")))
}

fn invalid(line: impl Into<String>) -> Error {
    Error::new(Reason::InvalidArgument, line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_arrives_as_it_was() {
        for ms in [0, -1, 1, 1_700_000_000_123, i64::MAX, i64::MIN, i64::MIN + 999] {
            assert_eq!(milliseconds(Some(&timestamp(ms))), ms);
        }
        let beyond = Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        };
        assert_eq!((milliseconds(Some(&beyond)), milliseconds(None)), (0, 0));
    }
}
