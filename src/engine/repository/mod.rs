//! One repository of a store: everything a caller can do with its objects.

mod object;
mod upkeep;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use tokio::sync::Mutex;

pub use self::object::{Metadata, ObjectInfo, Page, PutOptions, PutOutcome};
pub use self::upkeep::RepositoryStatus;
pub use self::writer::Upload;

pub(crate) use self::writer::WriteAccess;

use self::object::outcome;
use self::writer::{Writer, is_done_once_more, now_ms};
use super::allowance::{PutClaim, Replaces};
use super::core::Core;
use super::error::{Error, Reason, Result};
use super::in_flight::Holder;
use super::log::requests::{NewObject, Precondition, Request};
use super::read::{ByteRange, ObjectReader, hold, manifest_leaves};
use super::write::{Draft, ManifestBuilder, Source};
use crate::catalog::Lookup;
use crate::codec::RepositoryId;
use crate::format::record::{METADATA_LEN_MAX, NO_PUT_ID, metadata_len};
use crate::format::{Content, LeafRef, ObjectName, ObjectVersion, RepositoryName, RepositoryParameters};

/// Rows of objects that a listing reads at a time.
const LIST_ROWS: usize = 1024;

/// An open repository. Cheap to clone; clones share the writer.
#[derive(Clone)]
pub struct Repository {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) core: Arc<Core>,
    writer: Mutex<Option<Writer>>,
    /// Held by a reclaim or a rebuild, taken before `writer`: what one of them is about to read, another would drop.
    housekeeping: Mutex<()>,
    fenced: Arc<AtomicBool>,
    /// The last epoch in which what former ones left was looked for.
    cleared_epoch: AtomicU64,
}

impl Repository {
    pub(crate) fn new(core: Arc<Core>, fenced: Arc<AtomicBool>) -> Self {
        Self {
            inner: Arc::new(Inner {
                core,
                writer: Mutex::new(None),
                housekeeping: Mutex::new(()),
                fenced,
                cleared_epoch: AtomicU64::new(0),
            }),
        }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }

    /// The repository's name.
    pub fn name(&self) -> &RepositoryName {
        &self.core().secrets.parameters().name
    }

    /// What was fixed when it was created: name, chunk sizes, compression.
    pub fn parameters(&self) -> &RepositoryParameters {
        self.core().secrets.parameters()
    }

    /// The repository's id.
    pub fn id(&self) -> RepositoryId {
        self.core().secrets.repository()
    }

    /// Stores `source` under `name`. When this returns, the object survives a power cut.
    ///
    /// Memory is bounded by the store's budget, whatever the length of the stream. Dropping the future leaves nothing
    /// visible. With a `put_id` the call may be repeated: the first result is returned.
    ///
    /// # Errors
    /// `InvalidName`, `InvalidArgument`, and `PutIdReused` for an id that was used for another name;
    /// `SourceFailed` if the source does; `ObjectExists` or `VersionMismatch` by the precondition; `QuotaExceeded`;
    /// `NoCapacity`, `BackendUnavailable`, `Fenced` from the store; `OutcomeUnknown` if the commit may have happened.
    pub async fn put<S: Source>(&self, name: &str, source: S, options: PutOptions) -> Result<PutOutcome> {
        self.begin_put(name, options).await?.store(source).await
    }

    /// The part of [`put`](Self::put) before any data: whatever can refuse it by then does. What is decided for good is
    /// decided with the record, after the data.
    ///
    /// # Errors
    /// `InvalidName`, `InvalidArgument`; `ObjectExists` or `VersionMismatch` by the precondition as it stands now;
    /// `QuotaExceeded` as far as that is known; `KeysUnavailable`, `NoCapacity`, `Fenced` from the store.
    pub async fn begin_put(&self, name: &str, options: PutOptions) -> Result<Upload> {
        let name = object_name(name)?;
        check_options(&options)?;
        self.admit().await?;
        let access = self.write_access().await?;
        let replaces = self.replaces(&name, &options)?;
        let claim = PutClaim::begin(self.core(), replaces, options.expected_bytes)?;
        Ok(Upload {
            repository: self.clone(),
            name,
            options,
            access,
            claim,
        })
    }

    /// What a put takes the place of, as things stand now.
    ///
    /// # Errors
    /// `ObjectExists` or `VersionMismatch` by the precondition.
    fn replaces(&self, name: &ObjectName, options: &PutOptions) -> Result<Replaces> {
        let catalog = &self.core().catalog;
        if let Some(id) = &options.put_id
            && catalog.put_id(id)?.is_some()
        {
            return Ok(Replaces::Itself);
        }
        let present = catalog.object(name)?;
        let version = present.as_ref().map(|object| object.sequence);
        options.precondition.check(name, version)?;
        Ok(Replaces::Bytes(present.map_or(0, |object| object.size)))
    }

    /// Opens an object for reading, whole or in part. The version is fixed from here on, whatever is written meanwhile.
    ///
    /// # Errors
    /// `ObjectNotFound`; `InvalidRange` if the range does not lie in the object; `DataLoss` if its manifest is damaged.
    pub async fn get(&self, name: &str, range: ByteRange) -> Result<ObjectReader> {
        let mut object = self.object(name)?;
        loop {
            match ObjectReader::open(self.core().clone(), object.clone(), range).await {
                Err(error) if error.reason() == Reason::DataLoss => object = self.newer(&object, error)?,
                opened => return opened,
            }
        }
    }

    /// What is known about an object.
    ///
    /// # Errors
    /// `ObjectNotFound`.
    pub async fn stat(&self, name: &str) -> Result<ObjectInfo> {
        self.object(name).map(ObjectInfo::from)
    }

    /// A page of objects whose names start with `prefix`, at most `limit`, after the place `after`.
    pub async fn list(&self, prefix: &str, after: Option<[u8; 16]>, limit: usize) -> Result<Page> {
        self.core().revocation.check()?;
        let limit = limit.clamp(1, 10_000);
        let mut objects = Vec::new();
        let mut after = after;
        loop {
            let state = self.core().catalog_state()?;
            // Behind a prefix most rows may be others'; without one as many are read as are wanted.
            let rows_max = if prefix.is_empty() {
                limit - objects.len()
            } else {
                LIST_ROWS
            };
            let rows = self.core().catalog.objects_page(after, rows_max.min(LIST_ROWS))?;
            if self.core().catalog_state()? != state {
                continue;
            }
            let Some((last, _)) = rows.last() else {
                return Ok(Page { objects, next: None });
            };
            after = Some(*last);
            for (key, object) in rows {
                if object.name.as_str().starts_with(prefix) {
                    objects.push(ObjectInfo::from(object));
                    if objects.len() == limit {
                        return Ok(Page {
                            objects,
                            next: Some(key),
                        });
                    }
                }
            }
        }
    }

    /// Makes `to` an object with the content of `from`, without moving data.
    ///
    /// # Errors
    /// `ObjectNotFound` if `from` does not exist; the precondition is about `to`; else as of [`put`](Self::put).
    pub async fn copy(&self, from: &str, to: &str, options: PutOptions) -> Result<PutOutcome> {
        let target = object_name(to)?;
        check_options(&options)?;
        self.admit().await?;
        let access = self.write_access().await?;
        let core = self.core();
        let holder = Arc::new(core.in_flight.holder());
        let (source, leaves) = self.hold_content(from, &holder).await?;
        let claim = PutClaim::begin(core, self.replaces(&target, &options)?, Some(source.size))?;
        let placing = claim.packs((leaves.len() * LeafRef::LEN) as u64)?;
        let stored = Arc::default();
        let content = match &source.content {
            Content::Inline(_) => source.content.clone(),
            Content::Root(_) => {
                let builder =
                    ManifestBuilder::new(core.clone(), access.packer.clone(), holder.clone(), Arc::clone(&stored));
                Content::Root(builder.store_root(&target, source.size, leaves).await?)
            }
        };
        drop(placing);
        let draft = Draft {
            content: content.clone(),
            size: source.size,
            chunks: source.chunks,
            new_chunks: 0,
            new_bytes: 0,
            crc32c: source.crc32c,
            stored,
        };
        let object = NewObject {
            name: target,
            size: source.size,
            chunks: source.chunks,
            crc32c: source.crc32c,
            created_ms: now_ms(),
            put_id: options.put_id,
            metadata: if options.metadata.is_empty() {
                source.metadata
            } else {
                options.metadata
            },
            content,
            written: draft.written(),
        };
        let version = access.put(object, options.precondition, holder, claim).await?;
        Ok(outcome(version, &draft))
    }

    /// Removes an object; true if there was one. Readers that have it open go on; its space comes back by [`reclaim`].
    ///
    /// [`reclaim`]: Self::reclaim
    pub async fn delete(&self, name: &str, precondition: Precondition) -> Result<bool> {
        let name = object_name(name)?;
        match self.delete_once(&name, precondition).await {
            Err(error) if is_done_once_more(&error) => self.delete_once(&name, precondition).await,
            deleted => deleted,
        }
    }

    async fn delete_once(&self, name: &ObjectName, precondition: Precondition) -> Result<bool> {
        let access = self.write_access().await?;
        let name = name.clone();
        access
            .ask(|reply| Request::Delete {
                name,
                precondition,
                reply,
            })
            .await
    }

    /// Reads an object and checks every byte of it, without returning any.
    ///
    /// # Errors
    /// `DataLoss` with the object and the place of the damage.
    pub async fn verify(&self, name: &str) -> Result<ObjectInfo> {
        let mut reader = self.get(name, ByteRange::All).await?;
        let mut crc = super::read::Crc32c::default();
        while let Some(bytes) = reader.next().await? {
            crc.update(&bytes);
        }
        let info = reader.info().clone();
        if crc.value() != info.crc32c {
            let line = format!("{name:?}: its chunks are intact but their sum does not match the one recorded at put");
            return Err(Error::data_loss(line));
        }
        Ok(info)
    }

    fn object(&self, name: &str) -> Result<ObjectVersion> {
        self.core().revocation.check()?;
        let name = object_name(name)?;
        let core = self.core();
        let state = core.catalog_state()?;
        let found = core.catalog.object(&name)?;
        found.ok_or_else(|| core.absent(state, not_found(&name)))
    }

    /// The present version of an object whose content could not be held: it was deleted or replaced between the look
    /// at the catalog and the hold on its packs.
    ///
    /// # Errors
    /// `error` if it is still the same version; `ObjectNotFound` if there is none.
    fn newer(&self, object: &ObjectVersion, error: Error) -> Result<ObjectVersion> {
        let present = self.object(object.name.as_str())?;
        if present.sequence == object.sequence {
            Err(error)
        } else {
            Ok(present)
        }
    }

    /// An object with the leaves of its manifest, if it has one, all of it held.
    async fn hold_content(&self, name: &str, holder: &Arc<Holder>) -> Result<(ObjectVersion, Vec<LeafRef>)> {
        let mut object = self.object(name)?;
        loop {
            match self.hold_version(&object, holder).await {
                Ok(leaves) => return Ok((object, leaves)),
                Err(error) if error.reason() == Reason::DataLoss => object = self.newer(&object, error)?,
                Err(error) => return Err(error),
            }
        }
    }

    async fn hold_version(&self, object: &ObjectVersion, holder: &Arc<Holder>) -> Result<Vec<LeafRef>> {
        let core = self.core();
        match &object.content {
            Content::Inline(chunks) => {
                chunks
                    .iter()
                    .try_for_each(|chunk| hold(core, holder, &chunk.id).map(drop))?;
                Ok(Vec::new())
            }
            Content::Root(root) => {
                let leaves = manifest_leaves(core, holder, object, root).await?;
                leaves
                    .iter()
                    .try_for_each(|leaf| hold(core, holder, &leaf.id).map(drop))?;
                Ok(leaves)
            }
        }
    }
}

fn object_name(name: &str) -> Result<ObjectName> {
    ObjectName::new(name).map_err(|error| Error::new(Reason::InvalidName, error.to_string()))
}

fn check_options(options: &PutOptions) -> Result<()> {
    if options.put_id == Some(NO_PUT_ID) {
        let line = "a put id of zeros stands for none; leave it out, or use a fresh random one";
        return Err(Error::new(Reason::InvalidArgument, line));
    }
    let bytes = metadata_len(&options.metadata);
    if bytes > METADATA_LEN_MAX {
        let line = format!(
            "metadata of {bytes} bytes is too large; at most {} are kept",
            METADATA_LEN_MAX
        );
        return Err(Error::new(Reason::InvalidArgument, line));
    }
    Ok(())
}

fn not_found(name: &ObjectName) -> Error {
    Error::new(
        Reason::ObjectNotFound,
        format!("no object is called {:?}", name.as_str()),
    )
}
