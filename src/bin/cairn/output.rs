//! What commands print: one result, as a table for people or as JSON or YAML for programs.

use std::io::{self, Write};

use clap::ValueEnum;
use jiff::Timestamp;
use serde::Serialize;

use cairn_agent::config::Size;
use cairn_agent::engine::ObjectInfo;

use crate::failure::Failure;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
}

/// Standard output in the chosen format.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    format: Format,
}

/// One line of label and value.
pub(crate) type Field = (&'static str, String);

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_table(self) -> bool {
        self.format == Format::Table
    }

    /// Prints one result: `value` for programs, `table` for people.
    pub(crate) fn print<T: Serialize>(
        self,
        value: &T,
        table: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let written = match self.format {
            Format::Table => table(&mut out),
            Format::Json => json(&mut out, value),
            Format::Yaml => serde_norway::to_writer(&mut out, value).map_err(io::Error::other),
        };
        written.and_then(|()| out.flush()).map_err(Failure::output)
    }

    /// Prints one of a series of results: each a line, or a YAML document, of its own.
    pub(crate) fn print_next<T: Serialize>(
        self,
        value: &T,
        table: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let written = match self.format {
            Format::Table => table(&mut out),
            Format::Json => serde_json::to_writer(&mut out, value)
                .map_err(io::Error::from)
                .and_then(|()| writeln!(out)),
            Format::Yaml => {
                writeln!(out, "---").and_then(|()| serde_norway::to_writer(&mut out, value).map_err(io::Error::other))
            }
        };
        written.and_then(|()| out.flush()).map_err(Failure::output)
    }
}

fn json<T: Serialize>(out: &mut impl Write, value: &T) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// Labels and values, one pair a line, the values aligned.
pub(crate) fn fields(out: &mut dyn Write, fields: &[Field]) -> io::Result<()> {
    let width = fields.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    for (label, value) in fields {
        writeln!(out, "{label:<width$}  {value}")?;
    }
    Ok(())
}

/// Rows under headings: columns of numbers to the right, which `headings` says with a leading `>`.
pub(crate) fn table<const N: usize>(out: &mut dyn Write, headings: [&str; N], rows: &[[String; N]]) -> io::Result<()> {
    let titles = headings.map(|heading| heading.trim_start_matches('>'));
    let mut widths = titles.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let lines = std::iter::once(titles).chain(rows.iter().map(|row| row.each_ref().map(String::as_str)));
    for cells in lines {
        let mut line = String::new();
        for ((cell, width), heading) in cells.iter().zip(widths).zip(headings) {
            let padding = " ".repeat(width - cell.chars().count());
            match heading.starts_with('>') {
                true => line.extend([&padding, *cell]),
                false => line.extend([*cell, &padding]),
            }
            line.push_str("  ");
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// An object, as `ls` and `stat` show it.
#[derive(Serialize)]
pub(crate) struct ObjectView {
    name: String,
    version: u64,
    bytes: u64,
    created: String,
}

impl From<&ObjectInfo> for ObjectView {
    fn from(object: &ObjectInfo) -> Self {
        Self {
            name: object.name.clone(),
            version: object.version,
            bytes: object.bytes,
            created: time(object.created_ms),
        }
    }
}

impl ObjectView {
    /// The cells of a row: name, version, size, creation.
    pub(crate) fn cells(&self) -> [String; 4] {
        [
            printable(&self.name),
            self.version.to_string(),
            size(self.bytes),
            self.created.clone(),
        ]
    }
}

/// RFC 3339, in UTC, to the millisecond.
pub(crate) fn time(milliseconds: i64) -> String {
    Timestamp::from_millisecond(milliseconds).map_or_else(|_| format!("{milliseconds} ms"), |time| format!("{time:.3}"))
}

pub(crate) fn size(bytes: u64) -> String {
    Size(bytes).to_string()
}

/// Bytes per second, for people.
pub(crate) fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", size(bytes_per_second as u64))
}

/// A name for a terminal: what would move its cursor or colour it is escaped.
pub(crate) fn printable(name: &str) -> String {
    if name.chars().any(char::is_control) {
        name.escape_debug().to_string()
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut out = Vec::new();
        let rows = [["a".into(), "10".into()], ["longer".into(), "9".into()]];
        table(&mut out, ["NAME", ">BYTES"], &rows).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "NAME    BYTES\na          10\nlonger      9\n"
        );
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
    }

    #[test]
    fn names_cannot_drive_the_terminal() {
        assert_eq!(printable("ä b"), "ä b");
        assert_eq!(printable("a\x1b[31m\n"), "a\\u{1b}[31m\\n");
    }
}
