//! How a command fails: an exit code, and one line for a person.

use std::error::Error;
use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use cairn_agent::{config, engine};

/// Not found, exists already, failed.
const FAILED: u8 = 1;
/// Wrong usage, configuration, name or range.
pub(crate) const USAGE: u8 = 64;
/// Damaged data.
pub(crate) const DAMAGED: u8 = 65;
/// What is needed cannot be had now.
#[cfg(feature = "serve")]
pub(crate) const UNAVAILABLE: u8 = 69;
/// What a shell reports for a process ended by a signal: this plus its number.
pub(crate) const SIGNALLED: u8 = 128;

/// Why a command ends early. `line` is empty where there is nothing to say or nobody to say it to.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    line: String,
}

impl Failure {
    pub(crate) fn new(code: u8, line: impl Into<String>) -> Self {
        Self {
            code,
            line: line.into(),
        }
    }

    pub(crate) fn failed(line: impl Into<String>) -> Self {
        Self::new(FAILED, line)
    }

    pub(crate) fn usage(line: impl Into<String>) -> Self {
        Self::new(USAGE, line)
    }

    pub(crate) fn signalled(number: u8) -> Self {
        Self::new(SIGNALLED + number, "interrupted")
    }

    /// A failure of a local file, named by what was done and to what.
    pub(crate) fn local(doing: &str, path: &std::path::Path, error: &io::Error) -> Self {
        Self::failed(format!("cannot {doing} {}: {error}", path.display()))
    }

    /// A failure to write results. Whoever reads them may stop when it has seen enough: that is the end, not a failure.
    pub(crate) fn output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(0, "");
        }
        Self::failed(format!("cannot write to standard output: {error}"))
    }

    /// Says it on standard error, in one line whatever the parts contain.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.line.is_empty() {
            note(&self.line);
        }
        ExitCode::from(self.code)
    }
}

/// One line on standard error. A closed standard error is nobody's concern.
pub(crate) fn note(line: &str) {
    use std::io::Write;
    let _ = writeln!(io::stderr().lock(), "cairn: {}", in_one_line(line));
}

fn in_one_line(text: &str) -> String {
    text.split(['\n', '\r'])
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The error and its causes. Many messages quote their cause already; a cause is added only if it says something new.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line
}

impl From<engine::Error> for Failure {
    fn from(error: engine::Error) -> Self {
        Self::new(error.reason().exit_code(), with_causes(&error))
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self::new(error.reason().exit_code(), with_causes(&error))
    }
}

/// Names in a sentence: all of a few, the first of many.
pub(crate) fn name_some<T: Display>(names: &[T]) -> String {
    const SHOWN: usize = 5;
    let mut shown: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("{:?}", name.to_string()))
        .collect();
    if names.len() > SHOWN {
        shown.push(format!("and {} more", names.len() - SHOWN));
    }
    shown.join(", ")
}

/// The last cause of what a library says: those between only say that something failed.
#[cfg(feature = "serve")]
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_line() {
        assert_eq!(in_one_line("a\n  b\r\n\nc"), "a b c");
    }

    #[test]
    fn many_names_are_cut() {
        assert_eq!(name_some(&["a", "b"]), r#""a", "b""#);
        assert!(name_some(&["x"; 7]).ends_with("and 2 more"));
    }
}
