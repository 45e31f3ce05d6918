//! Texts of settings to values: each reader says what it expects.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::config::Size;

/// Units of a span of time.
const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

/// A whole number in a range.
pub(super) fn number<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("write a whole number from {} to {}", range.start(), range.end()))
    }
}

/// A number of bytes in a range.
pub(super) fn size(range: RangeInclusive<Size>) -> impl Fn(&str) -> Result<Size, String> {
    move |text| {
        let size = text.parse::<Size>().map_err(|error| error.to_string())?;
        match range.contains(&size) {
            true => Ok(size),
            false => Err(format!("it must be {} to {}", range.start(), range.end())),
        }
    }
}

/// A span of time in a range.
pub(super) fn span(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = UNITS.iter().find(|(name, _)| *name == unit.trim());
        let milliseconds = unit.and_then(|(_, factor)| number.parse::<u64>().ok()?.checked_mul(*factor));
        let time = milliseconds
            .map(Duration::from_millis)
            .ok_or("write a whole number with its unit: 500ms, 60s, 5m, 1h")?;
        match range.contains(&time) {
            true => Ok(time),
            false => Err(format!("it must be {:?} to {:?}", range.start(), range.end())),
        }
    }
}

/// One of a few words.
pub(super) fn word<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let all: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            format!("use one of {}", all.join(", "))
        })
    }
}

/// Any text but none.
pub(super) fn text(text: &str) -> Result<String, String> {
    match text.is_empty() {
        true => Err("it must not be empty".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// What a type of its own reads.
pub(super) fn parsed<T>(text: &str) -> Result<T, String>
where
    T: FromStr,
    T::Err: Display,
{
    text.parse().map_err(|error: T::Err| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_have_units() {
        let read = span(Duration::ZERO..=Duration::from_secs(7200));
        let cases = [("500ms", 500), ("60s", 60_000), ("5 m", 300_000), ("1h", 3_600_000)];
        for (text, milliseconds) in cases {
            assert_eq!(read(text), Ok(Duration::from_millis(milliseconds)));
        }
        for wrong in ["", "60", "s", "-1s", "1.5s", "1d", "3h"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_told_the_range() {
        let line = number(1..=9u32)("0").unwrap_err();
        assert_eq!(line, "write a whole number from 1 to 9");
        let line = size(Size(1 << 20)..=Size(2 << 20))("3MiB").unwrap_err();
        assert_eq!(line, "it must be 1.0 MiB to 2.0 MiB");
        let line = word(&[("a", 1), ("b", 2)])("c").unwrap_err();
        assert_eq!(line, "use one of a, b");
    }
}
