//! How fast the storage may be asked.

use std::num::NonZeroU64;

use super::read::{number, size};
use super::{Error, Settings};
use crate::backend::{Class, Rate, Rates};
use crate::config::Size;

/// Below it a commit would take longer than anybody waits; above it there is no storage.
const BYTES: (Size, Size) = (Size(64 << 10), Size(64 << 30));
const REQUESTS: (u64, u64) = (1, 1_000_000);

pub(super) fn rates(settings: &mut Settings) -> Result<Rates, Error> {
    let mut rates = Rates::default();
    for class in Class::ALL {
        let (bytes, requests) = keys(class);
        rates[class] = Rate {
            bytes: settings.one(bytes, bytes_in_a_second)?.flatten(),
            requests: settings.one(requests, requests_in_a_second)?.flatten(),
        };
    }
    Ok(rates)
}

fn keys(class: Class) -> (&'static str, &'static str) {
    match class {
        Class::Foreground => ("shaping.foreground_bytes", "shaping.foreground_requests"),
        Class::Reclaim => ("shaping.reclaim_bytes", "shaping.reclaim_requests"),
        Class::Scrub => ("shaping.scrub_bytes", "shaping.scrub_requests"),
        Class::Evacuate => ("shaping.evacuate_bytes", "shaping.evacuate_requests"),
    }
}

fn bytes_in_a_second(text: &str) -> Result<Option<NonZeroU64>, String> {
    or_off(text, |text| size(BYTES.0..=BYTES.1)(text).map(|Size(bytes)| bytes))
}

fn requests_in_a_second(text: &str) -> Result<Option<NonZeroU64>, String> {
    or_off(text, number(REQUESTS.0..=REQUESTS.1))
}

fn or_off(text: &str, read: impl Fn(&str) -> Result<u64, String>) -> Result<Option<NonZeroU64>, String> {
    match text {
        "off" => Ok(None),
        text => read(text)
            .map(NonZeroU64::new)
            .map_err(|problem| format!("{problem}, or off")),
    }
}
