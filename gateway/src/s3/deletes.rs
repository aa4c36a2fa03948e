//! Deleting one object or many.

use async_trait::async_trait;
use nexusgrid_grid::{DeleteRequest, EtagMatch, GridError, Precondition, RejectKind};
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::conditions::precondition;
use super::{Handle, Handlers};
use crate::auth::AuthenticatedRequest;
use crate::error::{from_grid, not_implemented, refuse};
use crate::limits;

#[async_trait]
impl Handle<DeleteObjectInput, DeleteObjectOutput> for Handlers {
    async fn handle(
        &self,
        _caller: AuthenticatedRequest,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = request.input;
        let conditional = input.if_match.is_some();
        let delete = DeleteRequest {
            bucket: input.bucket.clone(),
            key: input.key.clone(),
            precondition: precondition(input.if_match, None),
        };
        match self.store.delete(delete).await {
            // There being nothing to delete is what the client wants.
            Ok(()) | Err(GridError::NoSuchKey) => {
                Ok(S3Response::new(DeleteObjectOutput::default()))
            }
            Err(error) => {
                Err(self.write_error(error, &input.bucket, &input.key, conditional).await)
            }
        }
    }
}

#[async_trait]
impl Handle<DeleteObjectsInput, DeleteObjectsOutput> for Handlers {
    async fn handle(
        &self,
        _caller: AuthenticatedRequest,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = request.input;
        let objects = input.delete.objects;
        if objects.is_empty() || objects.len() > limits::DELETE_KEYS_MAX {
            return Err(S3Error::with_message(
                S3ErrorCode::MalformedXML,
                "a multi-delete names between 1 and 1000 keys",
            ));
        }
        for object in &objects {
            if object.version_id.as_deref().is_some_and(|version| version != "null") {
                return Err(not_implemented("versionId: versioning"));
            }
            if object.last_modified_time.is_some() || object.size.is_some() {
                return Err(not_implemented("a delete on condition of time or size"));
            }
            if object.key.is_empty() {
                return Err(refuse(RejectKind::InvalidRequest, "a key is empty"));
            }
        }
        // Those without a condition go in one batch, the others one by one.
        let plain: Vec<String> = objects
            .iter()
            .filter(|object| object.e_tag.is_none())
            .map(|object| object.key.clone())
            .collect();
        let mut plain_results = if plain.is_empty() {
            // The bucket must exist all the same.
            self.bucket(&input.bucket).await?;
            Vec::new()
        } else {
            self.store.delete_many(&input.bucket, &plain).await.map_err(from_grid)?
        }
        .into_iter();

        let quiet = input.delete.quiet.unwrap_or(false);
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for object in objects {
            let result = match object.e_tag {
                None => plain_results.next().unwrap_or_else(|| {
                    Err(GridError::Internal("a batch delete gave too few results".to_owned()))
                }),
                Some(etag) => {
                    let if_match = match etag.into_value() {
                        any if any == "*" => EtagMatch::Any,
                        etag => EtagMatch::OneOf(vec![etag]),
                    };
                    let precondition =
                        Precondition { if_match: Some(if_match), if_none_match: None };
                    let (bucket, key) = (input.bucket.clone(), object.key.clone());
                    self.store.delete(DeleteRequest { bucket, key, precondition }).await
                }
            };
            match result {
                Ok(()) | Err(GridError::NoSuchKey) if quiet => {}
                Ok(()) | Err(GridError::NoSuchKey) => {
                    deleted.push(DeletedObject { key: Some(object.key), ..Default::default() });
                }
                Err(error) => {
                    let error = from_grid(error);
                    errors.push(Error {
                        key: Some(object.key),
                        code: Some(error.code().as_str().to_owned()),
                        message: error.message().map(str::to_owned),
                        version_id: None,
                    });
                }
            }
        }
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: Some(deleted),
            errors: Some(errors),
            request_charged: None,
        }))
    }
}
