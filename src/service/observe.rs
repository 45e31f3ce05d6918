//! The one place that every call passes: it is authorised on its way in, and its name, code and seconds are told when
//! its response has ended, which for a stream is when the stream has.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::{self, Next};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tonic::service::Routes;
use tonic::{Code, Status};

use super::agent::Agent;
use super::caller::{self, Caller};
use super::calls::{Call, authorize};
use super::errors;
use super::proto::{OperationKind, OperationState};
use crate::engine::Result;
use crate::http::metrics::Metrics;

/// Counts calls, operations and payload. Called from many threads at once, and on the way of data: it must not block.
pub trait Observer: Send + Sync {
    /// A call has come in.
    fn call_started(&self, call: &'static str);
    /// A call that was started has ended with `code`, `seconds` after it came in.
    fn call_ended(&self, call: &'static str, code: Code, seconds: f64);
    /// A maintenance operation has begun.
    fn operation_started(&self, kind: OperationKind);
    /// A maintenance operation that was started has ended.
    fn operation_ended(&self, kind: OperationKind, state: OperationState);
    /// So many bytes of objects came in.
    fn received(&self, bytes: u64);
    /// So many bytes of objects went out.
    fn sent(&self, bytes: u64);
}

/// Counts nothing.
pub struct Unobserved;

impl Observer for Unobserved {
    fn call_started(&self, _: &'static str) {}
    fn call_ended(&self, _: &'static str, _: Code, _: f64) {}
    fn operation_started(&self, _: OperationKind) {}
    fn operation_ended(&self, _: OperationKind, _: OperationState) {}
    fn received(&self, _: u64) {}
    fn sent(&self, _: u64) {}
}

impl Observer for Metrics {
    fn call_started(&self, call: &'static str) {
        Metrics::call_started(self, call);
    }

    fn call_ended(&self, call: &'static str, code: Code, seconds: f64) {
        Metrics::call_ended(self, call, code_word(code), seconds);
    }

    fn operation_started(&self, kind: OperationKind) {
        Metrics::operation_started(self, kind_word(kind));
    }

    fn operation_ended(&self, kind: OperationKind, state: OperationState) {
        let state = state.as_str_name();
        let word = state.strip_prefix("OPERATION_STATE_").unwrap_or(state);
        Metrics::operation_ended(self, kind_word(kind), word);
    }

    fn received(&self, bytes: u64) {
        Metrics::received(self, bytes);
    }

    fn sent(&self, bytes: u64) {
        Metrics::sent(self, bytes);
    }
}

fn kind_word(kind: OperationKind) -> &'static str {
    let kind = kind.as_str_name();
    kind.strip_prefix("OPERATION_KIND_").unwrap_or(kind)
}

/// A code as the documents of gRPC write it.
pub(super) fn code_word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// What calls that are none of [`calls::CALLS`](super::calls::CALLS) are counted as: health, reflection, nonsense.
const OTHER: &str = "other";

/// `routes` with every call authorised and observed.
pub(super) fn observed(routes: Routes, agent: Arc<Agent>) -> Routes {
    let router = routes.into_axum_router();
    Routes::from(router.layer(middleware::from_fn_with_state(agent, pass)))
}

async fn pass(State(agent): State<Arc<Agent>>, request: Request, next: Next) -> Response {
    let call = Call::of(request.uri().path());
    let ending = Ending {
        agent: agent.clone(),
        call: call.as_ref().ok().copied().flatten().map_or(OTHER, |call| call.name),
        since: Instant::now(),
        told: false,
    };
    agent.settings().observer.call_started(ending.call);
    let response = match call.and_then(|call| admit(&agent, call, &request)) {
        Ok(()) => next.run(request).await,
        Err(error) => errors::status(&error).into_http(),
    };
    ending.watch(response)
}

fn admit(agent: &Agent, call: Option<&'static Call>, request: &Request) -> Result<()> {
    let caller = request.extensions().get::<Caller>();
    match call {
        Some(call) => authorize(caller, call).and_then(|()| agent.check_up()),
        // Health and reflection tell nothing that a role would keep, and health speaks until the end.
        None if caller.is_some() => Ok(()),
        None => Err(caller::unknown()),
    }
}

/// A call under way. Told once: with the code of its response, or as cancelled if it is dropped before it has one.
struct Ending {
    agent: Arc<Agent>,
    call: &'static str,
    since: Instant,
    told: bool,
}

impl Ending {
    fn watch(mut self, response: Response) -> Response {
        // A response without a body carries its code in front.
        if let Some(code) = code_in(response.headers()) {
            self.tell(code);
        }
        response.map(|body| axum::body::Body::new(Watched { body, ending: self }))
    }

    fn tell(&mut self, code: Code) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let seconds = self.since.elapsed().as_secs_f64();
        self.agent.settings().observer.call_ended(self.call, code, seconds);
        if matches!(code, Code::Internal | Code::DataLoss) {
            tracing::warn!(call = self.call, ?code, seconds, "a call failed");
        } else {
            tracing::debug!(call = self.call, ?code, seconds, "a call ended");
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.tell(Code::Cancelled);
    }
}

/// The body of a response, watched for the code in its trailers.
struct Watched {
    body: axum::body::Body,
    ending: Ending,
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(code) = frame.trailers_ref().and_then(code_in)
        {
            self.ending.tell(code);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn code_in(headers: &HeaderMap) -> Option<Code> {
    Some(Status::from_header_map(headers)?.code())
}
