//! GetObjectTorrent: there are none. AWS has ended them; who may read an object is told so.

use async_trait::async_trait;
use s3s::dto::{GetObjectTorrentInput, GetObjectTorrentOutput};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::{Handle, Handlers};
use crate::auth::AuthenticatedRequest;

#[async_trait]
impl Handle<GetObjectTorrentInput, GetObjectTorrentOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<GetObjectTorrentInput>,
    ) -> S3Result<S3Response<GetObjectTorrentOutput>> {
        let input = request.input;
        let object = self.store.head(&input.bucket, &input.key, None).await;
        caller.admit(&input.key, None, object)?;
        let message = "There is no torrent of this object.";
        Err(S3Error::with_message(S3ErrorCode::NoSuchKey, message))
    }
}
