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
use crate::engine::Result;

/// Counts calls and payload. Called from many threads at once, and on the way of data: it must not block.
pub trait Observer: Send + Sync {
    /// A call has ended with `code`, `seconds` after it came in.
    fn call_ended(&self, call: &'static str, code: Code, seconds: f64);
    /// So many bytes of objects came in.
    fn received(&self, bytes: u64);
    /// So many bytes of objects went out.
    fn sent(&self, bytes: u64);
}

/// Counts nothing.
pub struct Unobserved;

impl Observer for Unobserved {
    fn call_ended(&self, _: &'static str, _: Code, _: f64) {}
    fn received(&self, _: u64) {}
    fn sent(&self, _: u64) {}
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
