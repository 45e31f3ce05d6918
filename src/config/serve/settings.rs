//! The three places a setting can come from, laid over each other, and what is wrong with one.
//!
//! A key is `section.name` in all of them: a line of the file, a variable `CAIRN_SECTION__NAME`, a flag. Values are kept as
//! they were written until somebody asks for them by key and says how they are read; what nobody asked for is unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::config::Error;

/// What the names of our variables begin with.
const VARIABLES: &str = "CAIRN_";
/// What stands between section and name in a variable; variables without it belong to flags.
const SEPARATOR: &str = "__";
/// The sections that are lists of tables.
const LISTS: [&str; 2] = ["client", "quota"];

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the configuration file.
    File(PathBuf),
    /// In this environment variable.
    Variable(String),
    /// With this flag.
    Flag(&'static str),
}

/// Settings as they were written; a later layer wins over an earlier one, key by key.
#[derive(Debug, Default)]
pub struct Settings {
    written: BTreeMap<String, Written>,
    asked: BTreeSet<&'static str>,
}

/// A value, and where it stands.
#[derive(Clone, Debug)]
struct Written {
    value: Value,
    origin: Origin,
}

impl Settings {
    /// Lays a configuration file over what is there.
    ///
    /// # Errors
    /// If it cannot be read or is no TOML.
    pub fn add_file(&mut self, path: &Path) -> Result<(), Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })?;
        self.add_text(&text, path)
    }

    /// The same with the contents of the file.
    pub(super) fn add_text(&mut self, text: &str, path: &Path) -> Result<(), Error> {
        let origin = Origin::File(path.to_owned());
        let table: Table = text.parse().map_err(|error| not_toml(&origin, text, &error))?;
        for (section, value) in table {
            match value {
                Value::Table(names) if !LISTS.contains(&section.as_str()) => {
                    for (name, value) in names {
                        self.write(format!("{section}.{name}"), value, &origin);
                    }
                }
                value => self.write(section, value, &origin),
            }
        }
        Ok(())
    }

    /// Lays the environment over what is there. An empty variable is as good as none.
    ///
    /// # Errors
    /// If a variable of ours is not text.
    pub fn add_environment(&mut self, variables: impl Iterator<Item = (OsString, OsString)>) -> Result<(), Error> {
        for (name, value) in variables {
            let Some(key) = name.to_str().and_then(key_of_variable) else {
                continue;
            };
            let origin = Origin::Variable(name.to_string_lossy().into_owned());
            let value = value.into_string().map_err(|_| origin.refuse(&key, "is not UTF-8"))?;
            if !value.is_empty() {
                self.write(key, Value::String(value), &origin);
            }
        }
        Ok(())
    }

    /// Lays a flag over what is there.
    pub fn add_flag(&mut self, flag: &'static str, key: &str, value: impl Into<Value>) {
        self.write(key.to_owned(), value.into(), &Origin::Flag(flag));
    }

    fn write(&mut self, key: String, value: Value, origin: &Origin) {
        let origin = origin.clone();
        self.written.insert(key, Written { value, origin });
    }

    /// Where `key` was written, if anywhere.
    pub(super) fn origin(&self, key: &str) -> Option<Origin> {
        self.written.get(key).map(|written| written.origin.clone())
    }

    /// The value of `key` as `read` understands it; what is wrong with it otherwise.
    pub(super) fn one<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Error> {
        self.asked.insert(key);
        let Some(Written { value, origin }) = self.written.get(key) else {
            return Ok(None);
        };
        let text = scalar(value).ok_or_else(|| origin.refuse(key, "takes one value"))?;
        let value = read(&text).map_err(|problem| origin.refuse(key, &format!("is {text:?}: {problem}")))?;
        Ok(Some(value))
    }

    /// The values of a `key` that takes several: a list in the file, separated by commas in a variable.
    pub(super) fn several<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Vec<T>>, Error> {
        self.asked.insert(key);
        let Some(Written { value, origin }) = self.written.get(key) else {
            return Ok(None);
        };
        let texts = list(value).ok_or_else(|| origin.refuse(key, "takes a list of texts"))?;
        let values = texts
            .iter()
            .map(|text| read(text).map_err(|problem| origin.refuse(key, &format!("has {text:?}: {problem}"))));
        values.collect::<Result<_, _>>().map(Some)
    }

    /// The tables of a section that is a list of them, each as settings of its own with where they stand.
    pub(super) fn tables(&mut self, section: &'static str) -> Result<Vec<Settings>, Error> {
        self.asked.insert(section);
        let Some(Written { value, origin }) = self.written.get(section) else {
            return Ok(Vec::new());
        };
        let no_tables = || origin.refuse(section, &format!("is written as [[{section}]], once for each"));
        let tables = value.as_array().ok_or_else(no_tables)?;
        let settings = tables.iter().map(|table| {
            let mut settings = Settings::default();
            for (name, value) in table.as_table().ok_or_else(no_tables)? {
                settings.write(format!("{section}.{name}"), value.clone(), origin);
            }
            Ok(settings)
        });
        settings.collect()
    }

    /// An error about `key` where it was written.
    pub(super) fn refuse(&self, key: &str, problem: &str) -> Error {
        match self.origin(key) {
            Some(origin) => origin.refuse(key, problem),
            None => Error::setting(&format!("{key} {problem}")),
        }
    }

    /// To be called when everything was asked for: refuses what is left.
    pub(super) fn refuse_unknown(&self) -> Result<(), Error> {
        let Some((key, written)) = self.written.iter().find(|(key, _)| !self.asked.contains(key.as_str())) else {
            return Ok(());
        };
        let section = key.split('.').next().unwrap_or_default();
        let names = self.names_in(section);
        let problem = match names.is_empty() {
            true => format!("is unknown; there are the sections {}", self.sections().join(", ")),
            false => format!("is unknown; [{section}] has {}", names.join(", ")),
        };
        Err(written.origin.refuse(key, &problem))
    }

    /// Every key that was asked for.
    #[cfg(test)]
    pub(super) fn asked(&self) -> impl Iterator<Item = &'static str> {
        self.asked.iter().copied()
    }

    fn names_in(&self, section: &str) -> Vec<&'static str> {
        let split = self.asked.iter().filter_map(|key| key.split_once('.'));
        split.filter(|(of, _)| *of == section).map(|(_, name)| name).collect()
    }

    fn sections(&self) -> Vec<&'static str> {
        let mut sections: Vec<_> = self.asked.iter().filter_map(|key| key.split('.').next()).collect();
        sections.dedup();
        sections
    }
}

impl Origin {
    fn refuse(&self, key: &str, problem: &str) -> Error {
        let line = match self {
            Self::File(path) => format!("{}: {key} {problem}", path.display()),
            Self::Variable(name) => format!("{name} ({key}) {problem}"),
            Self::Flag(flag) => format!("{flag} {problem}"),
        };
        Error::setting(&line)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// `CAIRN_LIMITS__STREAM_IDLE` is `limits.stream_idle`.
fn key_of_variable(name: &str) -> Option<String> {
    let (section, name) = name.strip_prefix(VARIABLES)?.split_once(SEPARATOR)?;
    Some(format!("{section}.{name}").to_lowercase())
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(truth) => Some(truth.to_string()),
        _ => None,
    }
}

fn list(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(values) => values.iter().map(scalar).collect(),
        Value::String(text) => Some(text.split(',').map(|part| part.trim().to_owned()).collect()),
        _ => None,
    }
}

fn not_toml(origin: &Origin, text: &str, error: &toml::de::Error) -> Error {
    let offset = error.span().map_or(0, |span| span.start);
    let line = text.get(..offset).unwrap_or(text).matches('\n').count() + 1;
    Error::setting(&format!("{origin}, line {line}: {}", error.message()))
}
