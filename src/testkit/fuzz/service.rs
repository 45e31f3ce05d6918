//! What comes over the network and from the configuration of an agent.

use std::ffi::OsString;
use std::fmt::Debug;

use prost::Message;
use tonic::{Code, Status as Answer};

use super::input::Input;
use super::texts::reads_back;
use crate::config::serve::{Address, HostPort, Serve, Who};
use crate::engine::{
    Error, EvacuateReport, NewRepository, ObjectInfo, PutOutcome, Reason, RepositoryHeader, ScrubOptions, ScrubReport,
    Status,
};
use crate::service::{convert, errors, proto};

/// Any message ends in values or an error, and values that are sent on arrive as what they were.
pub fn messages(data: &[u8]) {
    let mut input = Input::new(data);
    match input.u8() % 12 {
        0 => arrives(&mut input, PutOutcome::try_from, |outcome| {
            proto::PutResult::from(outcome)
        }),
        1 => arrives(&mut input, NewRepository::try_from, |new| {
            proto::CreateRequest::from(&new)
        }),
        2 => arrives(&mut input, different_repositories, |status| {
            let open = status.repositories.iter().map(|totals| RepositoryHeader {
                id: totals.id,
                name: totals.name.clone(),
                store_id: [0; 16],
                key_id: String::new(),
                generation: 0,
            });
            let headers: Vec<_> = open.chain(status.closed.iter().cloned()).collect();
            convert::status(&status, &headers)
        }),
        3 => arrives(
            &mut input,
            |range| convert::byte_range(Some(range)),
            |range| {
                convert::byte_range_message(range)
                    .expect("it was sent")
                    .unwrap_or_default()
            },
        ),
        4 => arrives(
            &mut input,
            |condition| Ok(convert::precondition(Some(condition))),
            |condition| convert::precondition_message(condition).unwrap_or_default(),
        ),
        5 => arrives(
            &mut input,
            |object: proto::ObjectInfo| Ok(ObjectInfo::from(object)),
            proto::ObjectInfo::from,
        ),
        6 => arrives(
            &mut input,
            |repository| convert::repository_header(&repository),
            |header| convert::repository(&header, None, None),
        ),
        7 => ids(input.rest()),
        8 => refusal(&mut input),
        9 => arrives(
            &mut input,
            |work: proto::ScrubWork| ScrubOptions::try_from(&work),
            |options| convert::scrub_work(&options, false),
        ),
        11 => arrives(&mut input, EvacuateReport::try_from, |report| {
            convert::evacuate_report(&report)
        }),
        _ => arrives(&mut input, ScrubReport::try_from, |report| {
            convert::scrub_report(&report)
        }),
    }
}

/// A message of the fuzzer's bytes, taken, sent on and taken again.
fn arrives<M, T>(input: &mut Input<'_>, take: impl Fn(M) -> Result<T, Error>, send: impl Fn(T) -> M)
where
    M: Message + Default,
    T: Debug,
{
    let Ok(message) = M::decode(input.rest()) else {
        return;
    };
    let Ok(value) = take(message) else {
        return;
    };
    let text = format!("{value:?}");
    let sent = send(value).encode_to_vec();
    let again = M::decode(sent.as_slice()).map(take);
    let again = again
        .expect("what was encoded is decoded")
        .map(|value| format!("{value:?}"));
    assert_eq!(again.ok(), Some(text));
}

/// As an agent sends it, which knows each repository once.
fn different_repositories(message: proto::Status) -> Result<Status, Error> {
    let mut ids: Vec<_> = message.repositories.iter().map(|one| one.id.clone()).collect();
    ids.sort();
    ids.dedup();
    if ids.len() < message.repositories.len() {
        return Err(Error::new(Reason::InvalidArgument, "a repository comes twice"));
    }
    Status::try_from(message)
}

fn ids(bytes: &[u8]) {
    assert_eq!(convert::head(bytes).is_ok(), bytes.len() == 32);
    let is_id = matches!(bytes.len(), 0 | 16);
    assert_eq!(convert::put_id(bytes).is_ok(), is_id);
    assert_eq!(convert::page_token(bytes).is_ok(), is_id);
}

/// An error with details of any bytes, and what is made of it for somebody else.
fn refusal(input: &mut Input<'_>) {
    let code = Code::from(i32::from(input.u8() % 20));
    let len = input.u8().into();
    let message = String::from_utf8_lossy(input.bytes(len)).into_owned();
    let details = input.rest().to_vec();
    let error = errors::error(&Answer::with_details(code, message, details.into()));
    let sent = errors::status(&error);
    assert!(!sent.message().contains(char::is_control));
    assert_eq!(errors::error(&sent).reason(), error.reason());
}

/// The details of an error as an agent sends them.
#[cfg(test)]
pub(super) fn details_of_a_refusal() -> Vec<u8> {
    let error = Error::new(Reason::ObjectNotFound, "no such object");
    errors::status(&error).details().to_vec()
}

/// Any configuration is an agent's or is refused in one line; and an agent that anybody could reach says so.
pub fn settings(data: &[u8]) {
    let mut input = Input::new(data);
    let count = input.u8() % 4;
    let variables: Vec<_> = (0..count).map(|_| variable(&mut input)).collect();
    let Ok(text) = std::str::from_utf8(input.rest()) else {
        return;
    };
    reads_back::<Address>(text);
    reads_back::<HostPort>(text);
    let serve = match Serve::from_text(text, variables) {
        Ok(serve) => serve,
        Err(error) => {
            let line = error.to_string();
            assert_eq!(line.lines().count(), 1, "{line:?}");
            return;
        }
    };
    assert!(!serve.grpc.is_empty());
    let proven = serve.tls.as_ref().is_some_and(|files| files.ca.is_some());
    let anybody = serve.clients.iter().any(|client| client.who == Who::Anonymous);
    for address in &serve.grpc {
        reads_back::<Address>(&address.to_string());
        if let Address::Tcp { host, tls } = address {
            assert!(!tls || serve.tls.is_some());
            assert!(
                host.is_loopback() || anybody || (*tls && proven),
                "{address} is open to anybody"
            );
        }
    }
}

/// A variable of ours, with a key that exists or nearly.
fn variable(input: &mut Input<'_>) -> (OsString, OsString) {
    const NAMES: [&str; 8] = [
        "LISTEN__GRPC",
        "LISTEN__HTTP",
        "STORE__LOCATION",
        "BUDGET__BYTES",
        "LIMITS__DRAIN",
        "KEYS__PROVIDER",
        "CLIENT",
        "LOG__LEVEL__X",
    ];
    let name = format!("CAIRN_{}", input.choice(&NAMES));
    let len = usize::from(input.u8() % 32);
    let value = String::from_utf8_lossy(input.bytes(len)).into_owned();
    (name.into(), value.into())
}
