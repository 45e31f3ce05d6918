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
    let Some(level) = level_of_environment()? else {
        return Ok(());
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false);
    started(tracing_subscriber::registry().with(lines).with(level).try_init())
}

/// The level that the environment asks for.
fn level_of_environment() -> Result<Option<LevelFilter>, Failure> {
    match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => level(&text).map(Some),
        _ => Ok(None),
    }
}

fn level(text: &str) -> Result<LevelFilter, Failure> {
    text.parse().map_err(|_| {
        let line = format!("{VARIABLE}={text}: no such level; use off, error, warn, info, debug or trace");
        Failure::usage(line)
    })
}

fn started<E: std::fmt::Display>(outcome: Result<(), E>) -> Result<(), Failure> {
    outcome.map_err(|error| Failure::failed(format!("cannot start logging: {error}")))
}

#[cfg(feature = "serve")]
pub(crate) use service::init_service;

#[cfg(feature = "serve")]
mod service {
    use std::fmt;

    use serde_json::{Map, Value};
    use tracing::field::{Field, Visit};
    use tracing::{Event, Subscriber};
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::fmt::format::Writer;
    use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::registry::LookupSpan;
    use tracing_subscriber::util::SubscriberInitExt;

    use cairn_agent::config::serve::{Log, LogFormat};

    use crate::failure::Failure;

    /// Starts telling what an agent does.
    pub(crate) fn init_service(log: &Log) -> Result<(), Failure> {
        let level = match super::level_of_environment()? {
            Some(level) => level,
            None => super::level(&log.level)?,
        };
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(false);
        let registry = tracing_subscriber::registry().with(targets(level));
        super::started(match log.format {
            LogFormat::Text => registry.with(lines).try_init(),
            LogFormat::Json => registry.with(lines.event_format(Json)).try_init(),
        })
    }

    /// Ours at the level asked for. Libraries tell each frame at `debug`, which would bury ours, so they follow at `trace` only.
    fn targets(level: LevelFilter) -> Targets {
        let of_libraries = match level {
            LevelFilter::TRACE => level,
            level => level.min(LevelFilter::WARN),
        };
        Targets::new()
            .with_default(of_libraries)
            .with_target("cairn", level)
            .with_target("cairn_agent", level)
    }

    /// An object per line: time, level, target, message, and the fields of the event beside them.
    struct Json;

    impl<S, N> FormatEvent<S, N> for Json
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        N: for<'a> FormatFields<'a> + 'static,
    {
        fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
            let mut fields = Fields(Map::new());
            fields.put("time", format!("{:.3}", jiff::Timestamp::now()));
            fields.put("level", event.metadata().level().as_str().to_lowercase());
            fields.put("target", event.metadata().target());
            event.record(&mut fields);
            writeln!(writer, "{}", Value::Object(fields.0))
        }
    }

    /// The fields of an event as JSON.
    struct Fields(Map<String, Value>);

    impl Fields {
        fn put(&mut self, name: &str, value: impl Into<Value>) {
            self.0.insert(name.to_owned(), value.into());
        }
    }

    impl Visit for Fields {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            self.put(field.name(), format!("{value:?}"));
        }

        fn record_str(&mut self, field: &Field, value: &str) {
            self.put(field.name(), value);
        }

        fn record_u64(&mut self, field: &Field, value: u64) {
            self.put(field.name(), value);
        }

        fn record_i64(&mut self, field: &Field, value: i64) {
            self.put(field.name(), value);
        }

        fn record_f64(&mut self, field: &Field, value: f64) {
            self.put(field.name(), value);
        }

        fn record_bool(&mut self, field: &Field, value: bool) {
            self.put(field.name(), value);
        }
    }

    #[cfg(test)]
    mod tests {
        use std::io::Write;
        use std::sync::Arc;

        use parking_lot::Mutex;

        use super::*;

        #[derive(Clone, Default)]
        struct Written(Arc<Mutex<Vec<u8>>>);

        impl Write for Written {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().extend(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }

        fn logged(level: LevelFilter, log: impl FnOnce()) -> String {
            let written = Written::default();
            let writer = written.clone();
            let lines = tracing_subscriber::fmt::layer()
                .event_format(Json)
                .with_writer(move || writer.clone());
            let subscriber = tracing_subscriber::registry().with(targets(level)).with(lines);
            tracing::subscriber::with_default(subscriber, log);
            let bytes = written.0.lock().clone();
            String::from_utf8(bytes).unwrap()
        }

        #[test]
        fn a_line_is_an_object_with_the_fields_of_its_event() {
            let text = logged(LevelFilter::INFO, || {
                tracing::info!(target: "cairn_agent::x", bytes = 7u64, name = "a\"b\n", "some\nthing");
            });
            assert_eq!(text.lines().count(), 1);
            let line: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(line["message"], "some\nthing");
            assert_eq!(line["level"], "info");
            assert_eq!(line["bytes"], 7);
            assert_eq!(line["name"], "a\"b\n");
            assert!(line["time"].as_str().unwrap().ends_with('Z'));
        }

        #[test]
        fn libraries_are_quiet_below_trace() {
            let log = || {
                tracing::debug!(target: "h2::frame", "a frame");
                tracing::debug!(target: "cairn_agent::engine", "a step");
            };
            assert_eq!(logged(LevelFilter::DEBUG, log).lines().count(), 1);
            assert_eq!(logged(LevelFilter::TRACE, log).lines().count(), 2);
            assert_eq!(logged(LevelFilter::OFF, log), "");
        }
    }
}
