//! Objects, and what callers say about them.

use std::collections::HashMap;

use super::{invalid, milliseconds, required, timestamp};
use crate::engine::{ByteRange, Error, Metadata, ObjectInfo, Precondition, PutOutcome, Reason, Result};
use crate::service::proto;
use crate::service::proto::byte_range::{Range, Span};
use crate::service::proto::precondition::Condition;

impl From<ObjectInfo> for proto::ObjectInfo {
    fn from(object: ObjectInfo) -> Self {
        Self {
            name: object.name,
            version: object.version,
            bytes: object.bytes,
            chunks: object.chunks,
            crc32c: object.crc32c,
            created: Some(timestamp(object.created_ms)),
            metadata: object.metadata.into_iter().collect(),
        }
    }
}

impl From<proto::ObjectInfo> for ObjectInfo {
    fn from(object: proto::ObjectInfo) -> Self {
        Self {
            name: object.name,
            version: object.version,
            bytes: object.bytes,
            chunks: object.chunks,
            crc32c: object.crc32c,
            created_ms: milliseconds(object.created.as_ref()),
            metadata: metadata(object.metadata),
        }
    }
}

impl From<PutOutcome> for proto::PutResult {
    fn from(outcome: PutOutcome) -> Self {
        Self {
            object: Some(outcome.object.into()),
            new_chunks: outcome.new_chunks,
            new_bytes: outcome.new_bytes,
            stored_bytes: outcome.stored_bytes,
        }
    }
}

impl TryFrom<proto::PutResult> for PutOutcome {
    type Error = Error;

    fn try_from(result: proto::PutResult) -> Result<Self> {
        Ok(Self {
            object: required(result.object, "object")?.into(),
            new_chunks: result.new_chunks,
            new_bytes: result.new_bytes,
            stored_bytes: result.stored_bytes,
        })
    }
}

/// What must hold for a write. `create_only` without `true` says nothing.
pub fn precondition(message: Option<proto::Precondition>) -> Precondition {
    match message.and_then(|message| message.condition) {
        Some(Condition::CreateOnly(true)) => Precondition::CreateOnly,
        Some(Condition::IfVersion(version)) => Precondition::IfVersion(version),
        Some(Condition::CreateOnly(false)) | None => Precondition::None,
    }
}

/// What must hold for a write, for an agent.
pub fn precondition_message(precondition: Precondition) -> Option<proto::Precondition> {
    let condition = match precondition {
        Precondition::None => return None,
        Precondition::CreateOnly => Condition::CreateOnly(true),
        Precondition::IfVersion(version) => Condition::IfVersion(version),
    };
    Some(proto::Precondition {
        condition: Some(condition),
    })
}

/// The id of a put, if it has one.
///
/// # Errors
/// `InvalidArgument` unless it has 16 bytes or none.
pub fn put_id(bytes: &[u8]) -> Result<Option<[u8; 16]>> {
    sixteen(bytes).ok_or_else(|| invalid(format!("a put id has 16 bytes, not {}", bytes.len())))
}

/// Where a page begins, if not at the beginning.
///
/// # Errors
/// `InvalidArgument` for what is no token of ours.
pub fn page_token(bytes: &[u8]) -> Result<Option<[u8; 16]>> {
    sixteen(bytes).ok_or_else(|| invalid("this page token was not given by an agent"))
}

fn sixteen(bytes: &[u8]) -> Option<Option<[u8; 16]>> {
    match bytes {
        [] => Some(None),
        bytes => bytes.try_into().ok().map(Some),
    }
}

/// What callers attach, in the order of its names.
pub fn metadata(message: HashMap<String, String>) -> Metadata {
    let mut metadata: Metadata = message.into_iter().collect();
    metadata.sort();
    metadata
}

/// The part of an object that is to be read. A span from the beginning to the end is all of it, also of an empty object.
///
/// # Errors
/// `InvalidRange` if it ends beyond every object.
pub fn byte_range(message: Option<proto::ByteRange>) -> Result<ByteRange> {
    match message.and_then(|message| message.range) {
        None | Some(Range::Span(Span { offset: 0, length: 0 })) => Ok(ByteRange::All),
        Some(Range::Span(Span { offset, length: 0 })) => Ok(ByteRange::From(offset)),
        Some(Range::Span(Span { offset, length })) => {
            let last = offset.checked_add(length - 1).ok_or_else(|| {
                let line = "the range ends beyond every object";
                Error::new(Reason::InvalidRange, line)
            })?;
            Ok(ByteRange::Inclusive { first: offset, last })
        }
        Some(Range::LastBytes(bytes)) => Ok(ByteRange::Last(bytes)),
    }
}

/// The part of an object that is to be read, for an agent.
///
/// # Errors
/// `InvalidRange` if it is empty, which a span cannot say.
pub fn byte_range_message(range: ByteRange) -> Result<Option<proto::ByteRange>> {
    let span = |offset, length| Range::Span(Span { offset, length });
    let range = match range {
        ByteRange::All => return Ok(None),
        ByteRange::From(offset) => span(offset, 0),
        ByteRange::Last(bytes) => Range::LastBytes(bytes),
        ByteRange::Inclusive { first, last } => {
            let length = last.checked_sub(first).and_then(|length| length.checked_add(1));
            let empty = || Error::new(Reason::InvalidRange, "the range ends before it begins");
            span(first, length.ok_or_else(empty)?)
        }
    };
    Ok(Some(proto::ByteRange { range: Some(range) }))
}
