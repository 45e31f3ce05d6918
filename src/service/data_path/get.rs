//! `DataPath.Get`: header, data, end.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use tonic::Response;

use crate::engine::{ByteRange, Error, ObjectInfo, ObjectReader, Reason, Result};
use crate::service::Observer;
use crate::service::agent::Agent;
use crate::service::caller::Caller;
use crate::service::convert;
use crate::service::proto::get_response::Part;
use crate::service::proto::{GetData, GetEnd, GetHeader, GetRequest, GetResponse};
use crate::service::stream::{Outlet, Produced, produce};

/// Frames that wait for the client. Few: they are no longer paid for out of the store's budget.
const FRAMES_AHEAD: usize = 2;
/// Bytes of a frame: more bring nothing, fewer cost time.
const FRAME_BYTES: usize = 256 << 10;

/// Opens the object and streams it.
pub(super) async fn get(
    agent: &Agent,
    caller: &Caller,
    request: GetRequest,
) -> Result<Response<Produced<GetResponse>>> {
    let repository = agent.repository(caller, &request.repository).await?;
    let range = convert::byte_range(request.range)?;
    let reader = repository.get(&request.name, range).await?;
    check_version(reader.info(), request.if_version)?;
    let offset = match range {
        ByteRange::Inclusive { first, .. } => first,
        ByteRange::All | ByteRange::From(_) | ByteRange::Last(_) => reader.info().bytes - reader.range_bytes(),
    };
    tracing::debug!(object = request.name, offset, bytes = reader.range_bytes(), "get");
    let settings = agent.settings();
    let observer = settings.observer.clone();
    Ok(produce(FRAMES_AHEAD, settings.stream_idle, move |outlet| async move {
        send(reader, offset, &outlet, &*observer).await
    }))
}

fn check_version(object: &ObjectInfo, wanted: u64) -> Result<()> {
    if wanted == 0 || wanted == object.version {
        return Ok(());
    }
    let line = format!(
        "object {:?} is at version {}, not {wanted}",
        object.name, object.version
    );
    Err(Error::new(Reason::VersionMismatch, line))
}

/// Sends everything but the last message, which is returned.
async fn send(
    mut reader: ObjectReader,
    mut offset: u64,
    outlet: &Outlet<GetResponse>,
    observer: &dyn Observer,
) -> Result<GetResponse> {
    let length = reader.range_bytes();
    let header = GetHeader {
        object: Some(reader.info().clone().into()),
        offset,
        length,
    };
    outlet.send(message(Part::Header(header))).await?;
    let mut crc32c = Digest::new(CrcAlgorithm::Crc32Iscsi);
    while let Some(window) = reader.next().await? {
        crc32c.update(&window);
        for frame in window.chunks(FRAME_BYTES) {
            // A copy: what waits for the client, for however long, would keep the whole window, which nobody pays for then.
            let data = Bytes::copy_from_slice(frame);
            outlet.send(message(Part::Data(GetData { offset, data }))).await?;
            observer.sent(frame.len() as u64);
            offset += frame.len() as u64;
        }
    }
    let crc32c = crc32c.finalize() as u32;
    check_sum(reader.info(), length, crc32c)?;
    Ok(message(Part::End(GetEnd { crc32c })))
}

/// A whole object has the sum that was recorded when it was put.
fn check_sum(object: &ObjectInfo, length: u64, crc32c: u32) -> Result<()> {
    if length < object.bytes || crc32c == object.crc32c {
        return Ok(());
    }
    let line = format!(
        "object {:?}: its chunks are intact but their sum is not the one recorded at put",
        object.name
    );
    Err(Error::new(Reason::DataLoss, line))
}

fn message(part: Part) -> GetResponse {
    GetResponse { part: Some(part) }
}
