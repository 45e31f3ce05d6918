//! Rates, limits and quotas.

use std::num::NonZeroU64;

use super::invalid;
use crate::backend::{Class, Rate, Rates};
use crate::engine::{Error, Quota, Reason, Result};
use crate::format::RepositoryName;
use crate::service::proto;

/// Below it a commit would take longer than anybody waits.
pub const RATE_BYTES_MIN: u64 = 64 << 10;
/// Below it there is no room for a pack of any use.
pub const STORE_BYTES_MIN: u64 = 1 << 20;

/// All rates.
pub fn shaping(rates: &Rates) -> proto::Shaping {
    let rate = |class: Class| {
        let number = |rate: Option<NonZeroU64>| rate.map_or(0, NonZeroU64::get);
        let Rate { bytes, requests } = rates[class];
        Some(proto::ShapingRate {
            bytes: number(bytes),
            requests: number(requests),
        })
    };
    proto::Shaping {
        foreground: rate(Class::Foreground),
        reclaim: rate(Class::Reclaim),
        scrub: rate(Class::Scrub),
        evacuate: rate(Class::Evacuate),
    }
}

/// The classes that a message speaks of, with their rates.
///
/// # Errors
/// `InvalidArgument` for a rate at which nothing would come to its end.
pub fn rates(shaping: &proto::Shaping) -> Result<Vec<(Class, Rate)>> {
    let of_class = |class: Class| match class {
        Class::Foreground => shaping.foreground,
        Class::Reclaim => shaping.reclaim,
        Class::Scrub => shaping.scrub,
        Class::Evacuate => shaping.evacuate,
    };
    let present = Class::ALL
        .into_iter()
        .filter_map(|class| Some((class, of_class(class)?)));
    present
        .map(|(class, rate)| Ok((class, rate_of(class, rate)?)))
        .collect()
}

fn rate_of(class: Class, rate: proto::ShapingRate) -> Result<Rate> {
    if (1..RATE_BYTES_MIN).contains(&rate.bytes) {
        let line = format!(
            "{} bytes a second are too few for {}; write 0 for no limit, or at least {RATE_BYTES_MIN}",
            rate.bytes,
            class.as_str()
        );
        return Err(invalid(line));
    }
    Ok(Rate {
        bytes: NonZeroU64::new(rate.bytes),
        requests: NonZeroU64::new(rate.requests),
    })
}

/// A limit of a store as it is to be set.
///
/// # Errors
/// `InvalidArgument` for one that leaves no room for anything.
pub fn store_bytes(bytes: u64) -> Result<Option<u64>> {
    match bytes {
        0 => Ok(None),
        bytes if bytes < STORE_BYTES_MIN => {
            let line =
                format!("a limit of {bytes} bytes is too small; write 0 for none, or at least {STORE_BYTES_MIN}");
            Err(invalid(line))
        }
        bytes => Ok(Some(bytes)),
    }
}

/// A quota as it is to be set.
///
/// # Errors
/// `InvalidName`.
pub fn repository_limit(limit: &proto::RepositoryLimit) -> Result<(RepositoryName, Quota)> {
    let name =
        RepositoryName::new(&limit.repository).map_err(|error| Error::new(Reason::InvalidName, error.to_string()))?;
    Ok((name, quota(limit.quota)))
}

/// A quota; none of what is absent.
pub fn quota(message: Option<proto::Quota>) -> Quota {
    let message = message.unwrap_or_default();
    Quota {
        logical_bytes: message.logical_bytes,
        stored_bytes: message.stored_bytes,
    }
}

/// A quota, if there is one.
pub fn quota_message(quota: Quota) -> Option<proto::Quota> {
    (!quota.is_none()).then_some(proto::Quota {
        logical_bytes: quota.logical_bytes,
        stored_bytes: quota.stored_bytes,
    })
}
