//! Bytes put behind an object.

use nexusgrid_meta::namespace::posix::is_opaque;
use nexusgrid_meta::namespace::types::{Append, NamespaceCommand, Precondition as ConditionRow};

use crate::api::{AppendRequest, BodyStream, FinishAppend, PutOutcome};
use crate::body::BodyReader;
use crate::convert;
use crate::error::GridError;
use crate::facade::Grid;
use crate::limits;
use crate::storage_class;

impl Grid {
    /// Puts bytes behind an object, where versions are not kept: all of them, or none. Of two that name
    /// the same offset one wins; the other hears `WrongOffset`, or `Conflict` if the object was replaced by one
    /// as long. `finish` sees the object that the bytes go behind, and how many they are, and gives ETag and
    /// checksums of the whole.
    pub async fn append(
        &self,
        request: AppendRequest,
        body: BodyStream,
        finish: FinishAppend,
    ) -> Result<PutOutcome, GridError> {
        let bucket = self.place(&request.bucket, &request.key).await?;
        let core = &self.core;
        core.check_writable()?;
        let AppendRequest { key, offset, length, tenant, .. } = request;
        let limit = limits::PART_BYTES_MAX;
        if length.is_some_and(|length| length > limit) {
            return Err(GridError::TooLarge { limit });
        }
        let precondition = self.condition(&bucket, &key, &request.precondition).await?;
        // Refused before the body is read.
        let before = self.find(&bucket, &key).await?.ok_or(GridError::NoSuchKey)?;
        if before.size != offset {
            return Err(GridError::WrongOffset { size: before.size });
        }
        // What a mount has written changes in place: it must be what ETag and checksums are of.
        let precondition = match precondition {
            ConditionRow::None | ConditionRow::Present if is_opaque(&before.meta.etag) => {
                ConditionRow::EtagIs(before.meta.etag.clone())
            }
            other => other,
        };
        let whole = limits::OBJECT_BYTES_MAX;
        if before.size.saturating_add(length.unwrap_or(0)) > whole {
            return Err(GridError::TooLarge { limit: whole });
        }
        let content_key = core.keys.fresh(bucket.id, &bucket.name, bucket.key_version).await?;
        let mut reader = BodyReader::new(body, length, limit);
        let class = storage_class::name(&before.meta.storage_class);
        let kind = storage_class::block_kind(Some(class));
        let group = bucket.group;
        let received = core.receive(&tenant, &mut reader, group, &content_key, kind).await?;
        let large = self.part_content(&bucket, &content_key, received).await?;
        let added = large.content.size;
        if added == 0 {
            return Err(GridError::InvalidArgument("nothing to append".to_owned()));
        }
        if before.size.saturating_add(added) > whole {
            return Err(GridError::TooLarge { limit: whole });
        }
        let seal = finish(&convert::object_info(&key, &before, Vec::new()), added)?;
        let large = large.staged(core).await?;
        let command = NamespaceCommand::Append {
            session: large.session.id,
            blocks: large.blocks,
            append: Append {
                bucket: bucket.id,
                key: key.into_bytes(),
                precondition,
                source_content: before.content,
                offset,
                content: large.content,
                etag: seal.etag,
                checksums: convert::checksum_rows(&seal.checksums),
            },
            now_ms: core.meta.now_ms(),
        };
        let done = self.one_put(&bucket, &command).await?;
        core.refill_after_commit(large.refill);
        Ok(convert::put_outcome(&done, seal.checksums))
    }
}
