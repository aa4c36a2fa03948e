//! GetObjectAttributes.

use async_trait::async_trait;
use nexusgrid_grid::PartInfo;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};

use super::conditions::timestamp;
use super::encoding::page_size;
use super::headers::{ShownChecksum, class_name, show_checksum};
use super::versions::version_name;
use super::{Handle, Handlers, etag};
use crate::auth::AuthenticatedRequest;
use crate::error::{from_grid, invalid_argument};
use crate::store::OpenObject;

/// A page of an object's parts, with what each was stored with.
async fn object_parts(
    open: &dyn OpenObject,
    max: Option<i32>,
    marker: Option<i32>,
) -> S3Result<Option<GetObjectAttributesParts>> {
    let sizes = &open.info().part_sizes;
    if sizes.is_empty() {
        return Ok(None);
    }
    let max = page_size(max)?;
    let marker = usize::try_from(marker.unwrap_or(0))
        .map_err(|_| invalid_argument("a part number marker is not negative"))?;
    let total = sizes.len();
    let stored = open.parts(marker, max as usize).await.map_err(from_grid)?;
    let shown = |((number, size), stored): ((i32, &u64), Option<&PartInfo>)| {
        let mut part = ObjectPart {
            part_number: Some(number),
            size: i64::try_from(*size).ok(),
            ..Default::default()
        };
        if let Some(stored) = stored {
            show_checksum!(part, ShownChecksum::of(&stored.checksums, 0));
        }
        part
    };
    let stored = stored.iter().map(Some).chain(std::iter::repeat(None));
    let page = (1i32..).zip(sizes).skip(marker).take(max as usize);
    let parts: Vec<ObjectPart> = page.zip(stored).map(shown).collect();
    let end = marker.saturating_add(parts.len());
    let truncated = end < total && max > 0;
    Ok(Some(GetObjectAttributesParts {
        total_parts_count: i32::try_from(total).ok(),
        part_number_marker: i32::try_from(marker).ok(),
        next_part_number_marker: if truncated { i32::try_from(end).ok() } else { None },
        max_parts: i32::try_from(max).ok(),
        is_truncated: Some(truncated),
        parts: Some(parts),
    }))
}

#[async_trait]
impl Handle<GetObjectAttributesInput, GetObjectAttributesOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<GetObjectAttributesInput>,
    ) -> S3Result<S3Response<GetObjectAttributesOutput>> {
        let input = request.input;
        let version = version_name(input.version_id.as_deref())?;
        let open = self.store.open(&input.bucket, &input.key, version).await;
        let open = open.map_err(|error| caller.read_error(&input.key, version, error))?;
        let object = open.info();
        caller.admit_object(object)?;
        self.described(&request.headers, &object.meta.cipher)?;
        let mut output = GetObjectAttributesOutput {
            last_modified: Some(timestamp(object.last_modified)),
            version_id: object.version_name.map(|version| version.to_string()),
            ..Default::default()
        };
        // s3s gives each header line whole.
        let lines = input.object_attributes.iter().map(ObjectAttributes::as_str);
        for attribute in lines.flat_map(|line| line.split(',')).map(str::trim) {
            match attribute {
                ObjectAttributes::ETAG => output.e_tag = etag(&object.etag),
                ObjectAttributes::OBJECT_SIZE => {
                    output.object_size = i64::try_from(object.size).ok();
                }
                ObjectAttributes::STORAGE_CLASS => {
                    let class = class_name(object.meta.storage_class.as_deref());
                    output.storage_class = Some(class.into());
                }
                ObjectAttributes::CHECKSUM => {
                    let shown = ShownChecksum::of(&object.checksums, object.part_sizes.len());
                    let mut checksum =
                        Checksum { checksum_type: shown.checksum_type(), ..Default::default() };
                    show_checksum!(checksum, shown);
                    output.checksum = Some(checksum);
                }
                ObjectAttributes::OBJECT_PARTS => {
                    output.object_parts =
                        object_parts(open.as_ref(), input.max_parts, input.part_number_marker)
                            .await?;
                }
                other => return Err(invalid_argument(format!("no such attribute: {other}"))),
            }
        }
        Ok(S3Response::new(output))
    }
}
