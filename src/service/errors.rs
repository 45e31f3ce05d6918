//! Errors on the wire: the case as a word in `ErrorInfo`, the code of the one table, and when to try again.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::engine::{Error, Reason};

/// The domain of every `ErrorInfo` of an agent.
pub const DOMAIN: &str = "cairn.v1";

/// Bytes of a message: it travels in headers, which clients bound to a few KiB.
const MESSAGE_BYTES_MAX: usize = 1500;

/// The error as a client gets it.
pub fn status(error: &Error) -> Status {
    let reason = error.reason();
    let mut details = ErrorDetails::with_error_info(reason.as_str(), DOMAIN, HashMap::new());
    if let Some(delay) = retry_delay(reason) {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(Code::from(reason.code() as i32), one_line(&error.to_string()), details)
}

/// What a client makes of a status. Of one without our details, such as a transport's, only the code is known.
pub fn error(status: &Status) -> Error {
    let reason = status
        .get_details_error_info()
        .filter(|info| info.domain == DOMAIN)
        .and_then(|info| Reason::from_word(&info.reason));
    Error::new(reason.unwrap_or_else(|| reason_of(status.code())), status.message())
}

/// The nearest case to a code that came without one.
fn reason_of(code: Code) -> Reason {
    match code {
        Code::Cancelled => Reason::Cancelled,
        Code::InvalidArgument => Reason::InvalidArgument,
        Code::OutOfRange => Reason::InvalidRange,
        Code::PermissionDenied | Code::Unauthenticated => Reason::PermissionDenied,
        Code::ResourceExhausted => Reason::LimitExceeded,
        Code::Unimplemented => Reason::Unsupported,
        Code::DataLoss => Reason::DataLoss,
        Code::Unavailable | Code::DeadlineExceeded => Reason::BackendUnavailable,
        _ => Reason::Internal,
    }
}

/// When the same request may succeed: soon where a peer only needs a moment, later where somebody has to act.
fn retry_delay(reason: Reason) -> Option<Duration> {
    let seconds = match reason {
        Reason::NoCapacity => 30,
        Reason::KeysUnavailable | Reason::AuthFailed => 10,
        Reason::StoreHeld | Reason::BackendUnavailable | Reason::ShuttingDown => 3,
        reason if reason.is_retryable() => 1,
        _ => return None,
    };
    Some(Duration::from_secs(seconds))
}

/// The message without line breaks and other control characters, cut to what headers carry.
fn one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len().min(MESSAGE_BYTES_MAX));
    for character in message.chars() {
        if line.len() + character.len_utf8() > MESSAGE_BYTES_MAX {
            line.push('…');
            break;
        }
        line.push(if character.is_control() { ' ' } else { character });
    }
    line
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        status(&error)
    }
}
