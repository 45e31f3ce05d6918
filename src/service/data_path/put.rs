//! `DataPath.Put`: header, data, finish; and the answers to them.
//!
//! The next message is polled only when the engine asks for bytes, so that a client can never be further ahead than the
//! flow control of its connection lets it. What a connection may hold of it is admitted before the client is told to
//! send, and given back with `finish`: a commit that gathers many small puts keeps none of them from beginning.

use std::error::Error as _;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use tokio::time::timeout;
use tonic::{Code, Response, Status, Streaming};

use super::FRAME_BYTES_MAX;
use crate::engine::{Error, PutOptions, PutProgress, Reason, Result, Source, StreamShare};
use crate::service::agent::Agent;
use crate::service::caller::Caller;
use crate::service::convert;
use crate::service::proto::put_request::Part;
use crate::service::proto::put_response::Part as Answer;
use crate::service::proto::{self, PutAccepted, PutFinish, PutHeader, PutRequest, PutResponse};
use crate::service::stream::{Outlet, Produced, idle, produce};

/// Messages that wait for the client: the first, and news of progress, which is lost when there is no room.
const ANSWERS_AHEAD: usize = 2;
/// Bytes between two messages of progress.
const PROGRESS_BYTES: u64 = 8 << 20;

/// Answers at once: a client may wait for the response to begin before it sends its header.
pub(super) fn put(
    agent: Arc<Agent>,
    caller: Caller,
    messages: Streaming<PutRequest>,
) -> Response<Produced<PutResponse>> {
    let idle = agent.settings().stream_idle;
    produce(ANSWERS_AHEAD, idle, move |outlet| async move {
        store(&agent, &caller, messages, outlet).await
    })
}

async fn store(
    agent: &Arc<Agent>,
    caller: &Caller,
    mut messages: Streaming<PutRequest>,
    outlet: Outlet<PutResponse>,
) -> Result<PutResponse> {
    let header = header(agent, &mut messages).await?;
    let repository = agent.repository(caller, &header.repository).await?;
    let progress = Arc::new(PutProgress::default());
    let options = PutOptions {
        precondition: convert::precondition(header.precondition),
        put_id: convert::put_id(&header.put_id)?,
        metadata: convert::metadata(header.metadata),
        expected_bytes: header.expected_bytes,
        progress: Some(progress.clone()),
    };
    let upload = repository.begin_put(&header.name, options).await?;
    let share = agent.store().admit_stream(FRAME_BYTES_MAX).await;
    let upload_id = hex::encode(crate::engine::random::<8>()?);
    tracing::debug!(upload_id, object = header.name, "put");
    outlet.send(accepted(upload_id)).await?;
    let frames = Frames {
        agent: agent.clone(),
        messages,
        outlet,
        progress,
        rest: Bytes::new(),
        received: 0,
        told: 0,
        finish: None,
        share: Some(share),
    };
    let stored = upload.store(frames).await.map_err(refusal)?;
    Ok(message(Answer::Result(stored.into())))
}

async fn header(agent: &Agent, messages: &mut Streaming<PutRequest>) -> Result<PutHeader> {
    match next_part(agent, messages).await? {
        Some(Part::Header(header)) => Ok(header),
        Some(_) => Err(invalid("a put begins with its header")),
        None => Err(invalid("the stream ended before the header of the put")),
    }
}

/// The data of a put, as it comes in.
struct Frames {
    agent: Arc<Agent>,
    messages: Streaming<PutRequest>,
    outlet: Outlet<PutResponse>,
    progress: Arc<PutProgress>,
    /// What of the last frame had no room yet.
    rest: Bytes,
    received: u64,
    /// How much was received when progress was last told.
    told: u64,
    finish: Option<PutFinish>,
    share: Option<StreamShare>,
}

impl Source for Frames {
    async fn fill(&mut self, mut buffer: Vec<u8>, room: Range<usize>) -> io::Result<(Vec<u8>, usize)> {
        let target = &mut buffer[room];
        let mut filled = 0;
        while filled < target.len() {
            if self.rest.is_empty() && !self.advance().await.map_err(io::Error::other)? {
                break;
            }
            let taken = self.rest.split_to(self.rest.len().min(target.len() - filled));
            target[filled..][..taken.len()].copy_from_slice(&taken);
            filled += taken.len();
        }
        Ok((buffer, filled))
    }

    fn check(&mut self, bytes: u64, crc32c: u32) -> io::Result<()> {
        self.check_finish(bytes, crc32c).map_err(io::Error::other)
    }
}

impl Frames {
    /// Takes the next frame in; false once the data has ended.
    async fn advance(&mut self) -> Result<bool> {
        if self.finish.is_some() {
            return Ok(false);
        }
        match next_part(&self.agent, &mut self.messages).await? {
            Some(Part::Data(data)) => self.take(data).map(|()| true),
            Some(Part::Finish(finish)) => {
                self.finish = Some(finish);
                self.share = None;
                Ok(false)
            }
            Some(Part::Header(_)) => Err(invalid("a put has one header only")),
            None => Err(invalid("the stream ended before `finish`; nothing was stored")),
        }
    }

    fn take(&mut self, data: Bytes) -> Result<()> {
        if data.len() > FRAME_BYTES_MAX {
            let line = format!(
                "a frame of {} bytes is too large; at most {FRAME_BYTES_MAX} are taken",
                data.len()
            );
            return Err(invalid(line));
        }
        self.received += data.len() as u64;
        self.agent.settings().observer.received(data.len() as u64);
        self.rest = data;
        if self.received - self.told >= PROGRESS_BYTES {
            self.told = self.received;
            self.outlet.offer(message(Answer::Progress(proto::PutProgress {
                accepted_bytes: self.progress.accepted_bytes(),
                durable_bytes: self.progress.durable_bytes(),
            })));
        }
        Ok(())
    }

    /// Refuses what the client did not mean to send, or sent beyond its own end.
    fn check_finish(&mut self, bytes: u64, crc32c: u32) -> Result<()> {
        let Some(finish) = &self.finish else {
            return Err(Error::new(Reason::Internal, "a put ended without its end"));
        };
        if let Some(size) = finish.size.filter(|size| *size != bytes) {
            let line = format!("{bytes} bytes arrived, but {size} were sent; nothing was stored");
            return Err(invalid(line));
        }
        if let Some(sent) = finish.crc32c.filter(|sent| *sent != crc32c) {
            let line =
                format!("what arrived has the CRC-32C {crc32c:08x}, what was sent {sent:08x}; nothing was stored");
            return Err(invalid(line));
        }
        match self.messages.message().now_or_never() {
            Some(Ok(Some(_))) => Err(invalid("nothing may follow `finish`")),
            // Whether the client has closed its side by now or only waits is its own affair.
            _ => Ok(()),
        }
    }
}

/// The next message, within the time that a client may be silent.
async fn next_part(agent: &Agent, messages: &mut Streaming<PutRequest>) -> Result<Option<Part>> {
    let limit = agent.settings().stream_idle;
    match timeout(limit, messages.message()).await {
        Err(_) => Err(idle(limit, "sent")),
        Ok(Err(status)) => Err(broken(&status)),
        Ok(Ok(None)) => Ok(None),
        Ok(Ok(Some(message))) => match message.part {
            Some(part) => Ok(Some(part)),
            None => Err(invalid("a message of a kind that this agent does not know")),
        },
    }
}

/// A message that could not be read is the client's mistake; a stream that broke is nobody's.
fn broken(status: &Status) -> Error {
    match status.code() {
        Code::OutOfRange | Code::Internal | Code::InvalidArgument | Code::Unimplemented => {
            invalid(format!("a message could not be read: {}", status.message()))
        }
        _ => Error::new(Reason::Cancelled, format!("the stream broke: {}", status.message())),
    }
}

/// Our own refusal, which the engine carries as the cause of a source that failed.
fn refusal(error: Error) -> Error {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let ours = source
        .and_then(io::Error::get_ref)
        .and_then(|source| source.downcast_ref::<Error>());
    ours.cloned().unwrap_or(error)
}

fn accepted(upload_id: String) -> PutResponse {
    message(Answer::Accepted(PutAccepted {
        upload_id,
        resume_offset: 0,
        max_frame_bytes: FRAME_BYTES_MAX as u32,
    }))
}

fn message(part: Answer) -> PutResponse {
    PutResponse { part: Some(part) }
}

fn invalid(line: impl Into<String>) -> Error {
    Error::new(Reason::InvalidArgument, line)
}
