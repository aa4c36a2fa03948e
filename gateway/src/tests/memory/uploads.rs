//! Uploads in parts.

use std::collections::BTreeMap;

use bytes::BytesMut;
use nexusgrid_env::UnixMillis;
use nexusgrid_grid::*;

use super::state::{State, Upload};

impl State {
    pub(super) fn create_upload(
        &mut self,
        request: CreateUploadRequest,
    ) -> Result<UploadInfo, GridError> {
        self.bucket(&request.bucket)?;
        self.counter += 1;
        let info = UploadInfo {
            key: request.key.clone(),
            upload: UploadId(format!("upload-{}", self.counter)),
            initiated: UnixMillis(1_700_000_000_000),
            owner: request.tenant.0,
            meta: request.meta,
            checksum: request.checksum,
        };
        let at = (request.bucket, request.key, info.upload.0.clone());
        self.uploads.insert(at, Upload { info: info.clone(), parts: BTreeMap::new() });
        Ok(info)
    }

    pub(super) fn complete_upload(
        &mut self,
        request: CompleteUploadRequest,
        seal: FinishParts,
    ) -> Result<PutOutcome, GridError> {
        let upload = self.upload(&request.bucket, &request.key, &request.upload)?;
        let mut chosen = Vec::new();
        let mut bytes = BytesMut::new();
        for part in &request.parts {
            match upload.parts.get(&part.number) {
                Some((info, content)) if info.etag == part.etag => {
                    chosen.push(info.clone());
                    bytes.extend_from_slice(content);
                }
                _ => return Err(GridError::InvalidPart { number: part.number }),
            }
        }
        let sealed = seal(&chosen)?;
        let meta = upload.info.meta.clone();
        let CompleteUploadRequest { bucket, key, upload, precondition, .. } = request;
        let outcome =
            self.store(&bucket, &key, meta, &precondition, sealed, bytes.freeze(), chosen)?;
        self.uploads.remove(&(bucket, key, upload.0));
        Ok(outcome)
    }
}
