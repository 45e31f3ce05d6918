//! An object comes from an agent: each byte once, in order, and nothing left out unnoticed.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use tonic::Streaming;

use cairn_agent::engine::{ByteRange, Error, ObjectInfo, Reason, Result};
use cairn_agent::service::convert::byte_range_message;
use cairn_agent::service::proto;
use proto::get_response::Part;

use super::convert::{needed, nonsense};
use super::{Agent, Repository};

/// An object on its way. What came is complete only once [`Reader::next`] has returned `None`.
pub(crate) struct Reader {
    agent: Agent,
    stream: Streaming<proto::GetResponse>,
    info: ObjectInfo,
    range_bytes: u64,
    /// Where in the object the next byte belongs, and where the last one ends.
    offset: u64,
    end: u64,
    crc: Digest,
}

impl Reader {
    pub(super) async fn open(repository: &Repository, name: &str, range: ByteRange) -> Result<Self> {
        let request = proto::GetRequest {
            repository: repository.name(),
            name: name.to_owned(),
            range: byte_range_message(range)?,
            if_version: 0,
        };
        let failed = |status: tonic::Status| repository.failed(&status);
        let mut stream = repository.client().get(request).await.map_err(failed)?.into_inner();
        let first = stream.message().await.map_err(failed)?;
        let Some(Part::Header(header)) = needed(first)?.part else {
            return Err(nonsense("a read does not begin with its header"));
        };
        let end = header.offset.checked_add(header.length);
        Ok(Self {
            agent: repository.agent.clone(),
            stream,
            info: ObjectInfo::from(needed(header.object)?),
            range_bytes: header.length,
            offset: header.offset,
            end: end.ok_or_else(|| nonsense("a read ends beyond all offsets"))?,
            crc: Digest::new(CrcAlgorithm::Crc32Iscsi),
        })
    }

    pub(crate) fn info(&self) -> &ObjectInfo {
        &self.info
    }

    pub(crate) fn range_bytes(&self) -> u64 {
        self.range_bytes
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let message = self
                .stream
                .message()
                .await
                .map_err(|status| self.agent.failed(&status))?;
            match message.map(|message| message.part) {
                Some(Some(Part::Data(frame))) if frame.data.is_empty() => {}
                Some(Some(Part::Data(frame))) => return self.take(frame).map(Some),
                Some(Some(Part::End(end))) => return self.check(end).map(|()| None),
                Some(_) => return Err(nonsense("a read has a part that does not belong there")),
                None => return Err(self.incomplete()),
            }
        }
    }

    fn take(&mut self, frame: proto::GetData) -> Result<Bytes> {
        let end = self.offset.checked_add(frame.data.len() as u64);
        match end {
            Some(end) if frame.offset == self.offset && end <= self.end => {
                self.offset = end;
                self.crc.update(&frame.data);
                Ok(frame.data)
            }
            _ => Err(nonsense("a read returns other bytes than were asked for")),
        }
    }

    fn check(&self, end: proto::GetEnd) -> Result<()> {
        if self.offset != self.end {
            return Err(self.incomplete());
        }
        if self.crc.finalize() as u32 != end.crc32c {
            let line = format!(
                "object {:?} arrived changed: its sum is not the one the agent sent",
                self.info.name
            );
            return Err(Error::new(Reason::DataLoss, line));
        }
        Ok(())
    }

    fn incomplete(&self) -> Error {
        let line = format!(
            "object {:?} came incomplete from the agent at {}: {} bytes are missing",
            self.info.name,
            self.agent.address,
            self.end - self.offset
        );
        Error::new(Reason::BackendUnavailable, line)
    }
}
