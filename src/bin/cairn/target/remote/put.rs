//! An object goes to an agent.
//!
//! The header goes first, and nothing is read from the source until the agent has accepted it. Then the source is read a
//! few frames ahead on a thread of its own. Whoever drops the future breaks the stream off before `finish`: nothing
//! becomes visible.

use std::fs::File;
use std::io::{self, Read, Seek};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use cairn_agent::engine::{Error, PutOptions, PutOutcome, Reason, Result};
use cairn_agent::service::convert::precondition_message;
use cairn_agent::service::proto;
use proto::put_request::Part as Request;
use proto::put_response::Part as Response;

use super::convert::{needed, nonsense};
use super::{Agent, Repository};
use crate::target::Input;

/// Bytes of a frame: large enough that its costs do not count, small enough that several are under way.
const FRAME_BYTES: usize = 256 << 10;
/// Frames that are read ahead, and as many again that wait to be sent.
const FRAMES_AHEAD: usize = 2;

pub(super) async fn put<R>(
    repository: &Repository,
    name: &str,
    input: Input<R>,
    options: PutOptions,
) -> Result<PutOutcome>
where
    R: Read + Send + 'static,
{
    let put_id = options.put_id.map_or_else(fresh_put_id, Ok)?;
    let header = proto::PutHeader {
        repository: repository.name(),
        name: name.to_owned(),
        put_id: put_id.to_vec().into(),
        precondition: precondition_message(options.precondition),
        metadata: options.metadata.into_iter().collect(),
        expected_bytes: options.expected_bytes,
    };
    match attempt(repository, header.clone(), input.reader).await {
        Ok(outcome) => Ok(outcome),
        Err(failed) => match input.again {
            // The same id: had the first attempt happened, its result is returned.
            Some(file) if failed.outcome_unknown() => {
                let file = rewound(file).map_err(|error| source_failed(name, error))?;
                attempt(repository, header, file).await.map_err(|failed| failed.error)
            }
            _ => Err(failed.error),
        },
    }
}

/// 16 random bytes that nobody else chooses.
pub(super) fn fresh_put_id() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| {
        let line = "the operating system gives no random bytes";
        Error::new(Reason::Internal, line).caused_by(error)
    })?;
    Ok(id)
}

fn rewound(mut file: File) -> io::Result<File> {
    file.rewind()?;
    Ok(file)
}

/// Why an attempt ended, and whether all of the object had been sent by then.
struct Failed {
    error: Error,
    finished: bool,
}

impl Failed {
    /// Whether the put may have happened all the same. Before `finish` it cannot have.
    fn outcome_unknown(&self) -> bool {
        let reason = self.error.reason();
        self.finished && matches!(reason, Reason::OutcomeUnknown | Reason::BackendUnavailable)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, finished: false }
    }
}

async fn attempt<R>(
    repository: &Repository,
    header: proto::PutHeader,
    reader: R,
) -> std::result::Result<PutOutcome, Failed>
where
    R: Read + Send + 'static,
{
    let name = header.name.clone();
    let (requests, sent) = mpsc::channel(FRAMES_AHEAD);
    send(&requests, Request::Header(header)).await;
    let answer = repository.client().put(ReceiverStream::new(sent)).await;
    let mut answers = Answers {
        agent: repository.agent.clone(),
        stream: answer.map_err(|status| repository.failed(&status))?.into_inner(),
    };
    let frame_bytes = match answers.next().await? {
        Response::Accepted(accepted) => frame_bytes(&accepted)?,
        // A repeated put: the agent has the result already.
        Response::Result(result) => return Ok(PutOutcome::try_from(result)?),
        Response::Progress(_) => return Err(nonsense("it tells of progress before it accepts a put").into()),
    };
    let frames = read_ahead(reader, frame_bytes);
    let sending = pump(frames, requests, &name);
    tokio::pin!(sending);
    let mut finished = false;
    loop {
        tokio::select! {
            // An answer ends the put whatever is still to be sent.
            biased;
            answer = answers.next() => match answer {
                Ok(Response::Progress(_)) => {}
                Ok(Response::Result(result)) => return Ok(PutOutcome::try_from(result)?),
                Ok(Response::Accepted(_)) => return Err(nonsense("it accepts a put twice").into()),
                Err(error) => return Err(Failed { error, finished }),
            },
            done = &mut sending, if !finished => {
                done?;
                finished = true;
            }
        }
    }
}

fn frame_bytes(accepted: &proto::PutAccepted) -> Result<usize> {
    if accepted.resume_offset != 0 {
        return Err(nonsense("it wants a put to begin in the middle"));
    }
    match accepted.max_frame_bytes as usize {
        0 => Err(nonsense("it takes no bytes at all")),
        bytes => Ok(bytes.min(FRAME_BYTES)),
    }
}

/// What the agent answers to a put.
struct Answers {
    agent: Agent,
    stream: Streaming<proto::PutResponse>,
}

impl Answers {
    async fn next(&mut self) -> Result<Response> {
        match self.stream.message().await {
            Ok(Some(answer)) => needed(answer.part),
            Ok(None) => Err(Error::new(
                Reason::OutcomeUnknown,
                format!("the agent at {} ended a put without its result", self.agent.address),
            )),
            Err(status) => Err(self.agent.failed(&status)),
        }
    }
}

/// What the thread that reads hands over.
enum Frame {
    Data(Bytes),
    End { size: u64, crc32c: u32 },
    Failed(io::Error),
}

/// Sends the frames on, and after the last one what they add up to. Without that the agent forgets them.
async fn pump(mut frames: Receiver<Frame>, requests: Sender<proto::PutRequest>, name: &str) -> Result<()> {
    loop {
        match frames.recv().await {
            Some(Frame::Data(data)) => send(&requests, Request::Data(data)).await,
            Some(Frame::End { size, crc32c }) => {
                let finish = proto::PutFinish {
                    size: Some(size),
                    crc32c: Some(crc32c),
                };
                send(&requests, Request::Finish(finish)).await;
                return Ok(());
            }
            Some(Frame::Failed(error)) => return Err(source_failed(name, error)),
            None => {
                return Err(Error::new(
                    Reason::Internal,
                    "the thread that reads what is put has panicked",
                ));
            }
        }
    }
}

/// In the engine's words, which sees no difference between a file and a stream either.
fn source_failed(name: &str, error: io::Error) -> Error {
    let line = format!("reading the data for {name:?} failed: {error}; nothing was stored");
    Error::new(Reason::SourceFailed, line)
}

/// Nobody takes requests any more once the agent has answered for good, and that answer says why.
async fn send(requests: &Sender<proto::PutRequest>, part: Request) {
    let _ = requests.send(proto::PutRequest { part: Some(part) }).await;
}

/// Reads on a thread made for blocking, until the end or until nobody listens.
fn read_ahead(reader: impl Read + Send + 'static, frame_bytes: usize) -> Receiver<Frame> {
    let (sender, frames) = mpsc::channel(FRAMES_AHEAD);
    tokio::task::spawn_blocking(move || {
        let last = match read_frames(reader, frame_bytes, &sender) {
            Ok(last) => last,
            Err(error) => Frame::Failed(error),
        };
        // Who no longer listens has no use for it.
        let _ = sender.blocking_send(last);
    });
    frames
}

fn read_frames(mut reader: impl Read, frame_bytes: usize, frames: &Sender<Frame>) -> io::Result<Frame> {
    let mut crc = Digest::new(CrcAlgorithm::Crc32Iscsi);
    let mut size = 0;
    loop {
        let mut frame = Vec::with_capacity(frame_bytes);
        reader.by_ref().take(frame_bytes as u64).read_to_end(&mut frame)?;
        crc.update(&frame);
        size += frame.len() as u64;
        let is_last = frame.len() < frame_bytes;
        if !frame.is_empty() && frames.blocking_send(Frame::Data(frame.into())).is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if is_last {
            let crc32c = crc.finalize() as u32;
            return Ok(Frame::End { size, crc32c });
        }
    }
}
