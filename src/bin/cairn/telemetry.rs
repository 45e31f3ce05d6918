//! What the program tells about its work, on standard error.

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::failure::Failure;

/// The level as one word, for this program and the libraries in it.
const VARIABLE: &str = "CAIRN_LOG";

/// Starts telling, if asked to: a command that fails says why in one line of its own, and its user need not read how the
/// engine found out.
pub(crate) fn init() -> Result<(), Failure> {
    let level = match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => level(&text)?,
        _ => return Ok(()),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false);
    tracing_subscriber::registry()
        .with(lines)
        .with(level)
        .try_init()
        .map_err(|error| Failure::failed(format!("cannot start logging: {error}")))
}

fn level(text: &str) -> Result<LevelFilter, Failure> {
    text.parse().map_err(|_| {
        let line = format!("{VARIABLE}={text}: no such level; use off, error, warn, info, debug or trace");
        Failure::usage(line)
    })
}
