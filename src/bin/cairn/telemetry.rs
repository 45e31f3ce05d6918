//! What the program tells about its work, on standard error.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::failure::Failure;

/// The level as one word, for this program and the libraries in it.
const VARIABLE: &str = "CAIRN_LOG";

/// Starts telling. Without the variable: warnings of ours, nothing of the libraries, which tell what is of no use to a user.
pub(crate) fn init() -> Result<(), Failure> {
    let targets = match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => Targets::new().with_default(level(&text)?),
        _ => Targets::new()
            .with_target("cairn", LevelFilter::WARN)
            .with_target("cairn_agent", LevelFilter::WARN),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false);
    tracing_subscriber::registry()
        .with(lines)
        .with(targets)
        .try_init()
        .map_err(|error| Failure::failed(format!("cannot start logging: {error}")))
}

fn level(text: &str) -> Result<LevelFilter, Failure> {
    text.parse().map_err(|_| {
        let line = format!("{VARIABLE}={text}: no such level; use off, error, warn, info, debug or trace");
        Failure::usage(line)
    })
}
