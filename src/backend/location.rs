//! Where a store is: parsing and printing, without looking at the place.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use object_store::path::Path as ObjectPath;

use super::error::Error;

/// The place of a store: a backend plus a prefix.
///
/// Written as a path or `file:///dir`, `memory://name`, or `s3://bucket/prefix`; printed in the same form, so that a printed
/// location can be given back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// A directory of a volume.
    Directory(PathBuf),
    /// Contents kept by this process; the same name gives the same contents.
    Memory(String),
    /// A bucket that speaks S3.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// Key prefix without slashes at its ends; empty for the whole bucket.
        prefix: String,
    },
}

impl Location {
    /// The place of an object of the store as messages print it.
    pub(super) fn place(&self, path: &str) -> String {
        if path.is_empty() {
            return self.to_string();
        }
        match self {
            Self::Directory(root) => root.join(path).display().to_string(),
            Self::Memory(_) | Self::S3 { .. } => format!("{self}/{path}"),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(root) => match root.to_str() {
                Some(text) if !text.contains("://") => f.write_str(text),
                // A path that as text would be read as a URL, or that is no text.
                _ => match url::Url::from_file_path(root) {
                    Ok(url) => f.write_str(url.as_str()),
                    Err(()) => root.display().fmt(f),
                },
            },
            Self::Memory(name) => write!(f, "memory://{name}"),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split_once("://") {
            None if text.is_empty() => Err(Error::invalid("store", "empty; give a directory or a URL")),
            None => Ok(Self::Directory(PathBuf::from(text))),
            Some(("file", _)) => parse_file(text),
            Some(("memory", name)) => parse_memory(text, name),
            Some(("s3", rest)) => parse_s3(text, rest),
            Some(("gs" | "gcs" | "az" | "azure" | "abfs" | "abfss" | "wasb" | "wasbs", _)) => {
                let reason = "this build does not support Google Cloud Storage and Azure Blob Storage yet; \
                              use a directory or s3://bucket/prefix";
                Err(Error::invalid(text, reason))
            }
            Some((scheme, _)) => {
                let reason = format!("unknown scheme {scheme:?}; use a directory, file:///dir or s3://bucket/prefix");
                Err(Error::invalid(text, reason))
            }
        }
    }
}

fn parse_file(text: &str) -> Result<Location, Error> {
    let path = url::Url::parse(text).ok().and_then(|url| url.to_file_path().ok());
    path.map(Location::Directory)
        .ok_or_else(|| Error::invalid(text, "not a file URL of this host; use three slashes: file:///dir"))
}

fn parse_memory(text: &str, name: &str) -> Result<Location, Error> {
    if name.is_empty() || name.contains('/') {
        return Err(Error::invalid(text, "needs a name without slashes: memory://name"));
    }
    Ok(Location::Memory(name.to_owned()))
}

fn parse_s3(text: &str, rest: &str) -> Result<Location, Error> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if !is_bucket_name(bucket) {
        let reason = "needs a bucket name of 3 to 63 lower-case letters, digits, dots and hyphens: s3://bucket/prefix";
        return Err(Error::invalid(text, reason));
    }
    if prefix.contains(['?', '#']) {
        let reason =
            "no parameters or fragments are understood here; endpoint and credentials come from AWS_* variables";
        return Err(Error::invalid(text, reason));
    }
    let wrong = "the prefix has an empty or forbidden part; use s3://bucket/some/prefix";
    let prefix = match ObjectPath::parse(prefix) {
        Ok(parsed) if !prefix.starts_with('/') => parsed,
        _ => return Err(Error::invalid(text, wrong)),
    };
    Ok(Location::S3 {
        bucket: bucket.to_owned(),
        prefix: prefix.into(),
    })
}

/// The characters and lengths every S3-compatible service accepts; the finer rules are left to the service.
fn is_bucket_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
    (3..=63).contains(&name.len()) && name.bytes().all(allowed)
}
