//! GetObjectAttributes.

use async_trait::async_trait;
use nexusgrid_grid::ObjectInfo;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};

use super::conditions::timestamp;
use super::encoding::page_size;
use super::headers::{ShownChecksum, show_checksum};
use super::versions::{read_error, version_name};
use super::{Handle, Handlers, etag};
use crate::auth::AuthenticatedRequest;
use crate::error::invalid_argument;

fn object_parts(
    object: &ObjectInfo,
    max: Option<i32>,
    marker: Option<i32>,
) -> S3Result<Option<GetObjectAttributesParts>> {
    if object.part_sizes.is_empty() {
        return Ok(None);
    }
    let max = page_size(max)?;
    let marker = usize::try_from(marker.unwrap_or(0))
        .map_err(|_| invalid_argument("a part number marker is not negative"))?;
    let total = object.part_sizes.len();
    let parts: Vec<ObjectPart> = (1i32..)
        .zip(&object.part_sizes)
        .skip(marker)
        .take(max as usize)
        .map(|(number, size)| ObjectPart {
            part_number: Some(number),
            size: i64::try_from(*size).ok(),
            ..Default::default()
        })
        .collect();
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
        _caller: AuthenticatedRequest,
        request: S3Request<GetObjectAttributesInput>,
    ) -> S3Result<S3Response<GetObjectAttributesOutput>> {
        let input = request.input;
        let version = version_name(input.version_id.as_deref())?;
        let object = self.store.head(&input.bucket, &input.key, version).await;
        let object = object.map_err(|error| read_error(error, version))?;
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
                    output.storage_class = Some(StorageClass::from_static(StorageClass::STANDARD));
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
                        object_parts(&object, input.max_parts, input.part_number_marker)?;
                }
                other => return Err(invalid_argument(format!("no such attribute: {other}"))),
            }
        }
        Ok(S3Response::new(output))
    }
}
