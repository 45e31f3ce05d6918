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
    match reason {
        // What callers are told leaves out what caused it.
        Reason::Internal => tracing::error!(?error, "a call met a defect"),
        _ => tracing::debug!(?error, "a call is refused"),
    }
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
        Reason::NoCapacity | Reason::QuotaExceeded => 30,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::observe::code_word;

    /// The contract's list of reasons: word, code, and whether to try again.
    fn contract() -> Vec<(String, String, bool)> {
        let text = include_str!("../../proto/cairn/v1/reason.proto");
        let mut comment = String::new();
        let mut reasons = Vec::new();
        for line in text.lines().map(str::trim) {
            if let Some(line) = line.strip_prefix("// ") {
                comment = line.to_owned();
            } else if let Some((word, _)) = line.strip_prefix("REASON_").and_then(|line| line.split_once(" =")) {
                let (what, _) = comment.split_once(':').unwrap_or_default();
                let (code, again) = what.split_once(", ").unwrap_or((what, ""));
                reasons.push((word.to_owned(), code.to_owned(), again == "again"));
            }
        }
        reasons
    }

    #[test]
    fn the_contract_and_the_engine_know_the_same_reasons() {
        let contract = contract();
        assert_eq!(contract[0].0, "UNSPECIFIED");
        assert_eq!(contract.len() - 1, Reason::ALL.len());
        for (word, code, again) in &contract[1..] {
            let reason = Reason::from_word(word).unwrap_or_else(|| panic!("{word} is not known to the engine"));
            assert_eq!(code_word(Code::from(reason.code() as i32)), code, "{word}");
            assert_eq!(reason.is_retryable(), *again, "{word}");
        }
    }

    #[test]
    fn every_error_comes_back_as_it_was() {
        for reason in Reason::ALL {
            let sent = status(&Error::new(reason, "what happened"));
            let received = error(&sent);
            assert_eq!(
                (received.reason(), received.to_string().as_str()),
                (reason, "what happened")
            );
            let retry = sent.get_details_retry_info().and_then(|info| info.retry_delay);
            assert_eq!(retry.is_some(), reason.is_retryable(), "{reason:?}");
        }
    }

    #[test]
    fn a_message_is_one_line_that_fits_into_headers() {
        let sent = status(&Error::new(Reason::Internal, format!("a\nb{}", "ü".repeat(9000))));
        assert!(sent.message().starts_with("a bü"));
        assert!(sent.message().len() < MESSAGE_BYTES_MAX + 4);
    }

    #[test]
    fn a_status_of_somebody_else_is_known_by_its_code() {
        assert_eq!(
            error(&Status::unavailable("no route")).reason(),
            Reason::BackendUnavailable
        );
        assert_eq!(error(&Status::unimplemented("")).reason(), Reason::Unsupported);
    }
}
