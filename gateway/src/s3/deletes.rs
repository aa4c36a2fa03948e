//! Deleting one object or many, or versions of them.

use async_trait::async_trait;
use nexusgrid_grid::{Expected, GridError, Precondition, RejectKind, VersionDelete, VersionName};
use nexusgrid_iam::{Action, Resource};
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::lock::{bypass_of, millis};
use super::versions::version_name;
use super::{Handle, Handlers};
use crate::auth::AuthenticatedRequest;
use crate::error::{from_grid, invalid_argument, refuse};
use crate::limits;

#[async_trait]
impl Handle<DeleteObjectInput, DeleteObjectOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = request.input;
        let etag = input.if_match.map(|condition| match condition {
            ETagCondition::Any => None,
            ETagCondition::ETag(etag) => Some(etag.into_value()),
        });
        let modified = input.if_match_last_modified_time.as_ref();
        let delete = VersionDelete {
            key: input.key.clone(),
            version: version_name(input.version_id.as_deref())?,
            precondition: Precondition::default(),
            expected: expected(etag, input.if_match_size, modified)?,
            bypass: bypass_of(
                &caller,
                input.bypass_governance_retention,
                &input.bucket,
                &input.key,
            )?,
        };
        let results = self.store.delete(&input.bucket, vec![delete]).await;
        let result =
            results.and_then(|mut results| results.pop().unwrap_or_else(|| Err(missing())));
        match result {
            Ok(done) => Ok(S3Response::new(DeleteObjectOutput {
                delete_marker: done.is_marker.then_some(true),
                version_id: done.version.map(|version| version.to_string()),
                request_charged: None,
            })),
            // There being nothing to delete is what the client wants.
            Err(GridError::NoSuchKey) => Ok(S3Response::new(DeleteObjectOutput::default())),
            Err(error) => Err(from_grid(error)),
        }
    }
}

/// What the deleter expects; `None`: it does not care. An ETag of `None` is any.
fn expected(
    etag: Option<Option<String>>,
    size: Option<i64>,
    modified: Option<&Timestamp>,
) -> S3Result<Option<Expected>> {
    if etag.is_none() && size.is_none() && modified.is_none() {
        return Ok(None);
    }
    let negative = |_| invalid_argument("a size is negative");
    Ok(Some(Expected {
        etag: etag.flatten(),
        size: size.map(u64::try_from).transpose().map_err(negative)?,
        modified: modified.map(millis).transpose()?,
    }))
}

fn missing() -> GridError {
    GridError::Internal("a batch delete gave too few results".to_owned())
}

/// What one entry of a multi-delete asks for.
fn delete_of(object: &ObjectIdentifier, bypass: bool) -> S3Result<VersionDelete> {
    let etag = object.e_tag.clone().map(|etag| Some(etag.into_value()).filter(|etag| etag != "*"));
    let modified = object.last_modified_time.as_ref();
    Ok(VersionDelete {
        key: object.key.clone(),
        version: version_name(object.version_id.as_deref().filter(|version| !version.is_empty()))?,
        precondition: Precondition::default(),
        expected: expected(etag, object.size, modified)?,
        bypass,
    })
}

#[async_trait]
impl Handle<DeleteObjectsInput, DeleteObjectsOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
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
        let mut deletes = Vec::with_capacity(objects.len());
        let mut refused: Vec<Option<S3Error>> = Vec::with_capacity(objects.len());
        for object in &objects {
            if object.key.is_empty() {
                return Err(refuse(RejectKind::InvalidRequest, "a key is empty"));
            }
            let action = match object.version_id.as_deref() {
                None | Some("") => Action::DeleteObject,
                Some(_) => Action::DeleteObjectVersion,
            };
            let target = Resource::Object { bucket: &input.bucket, key: &object.key };
            let bypass = input.bypass_governance_retention;
            let delete = caller
                .require(action, &target)
                .and_then(|()| bypass_of(&caller, bypass, &input.bucket, &object.key))
                .and_then(|bypass| delete_of(object, bypass));
            refused.push(match delete {
                Ok(delete) => {
                    deletes.push(delete);
                    None
                }
                Err(error) => Some(error),
            });
        }
        let results = self.store.delete(&input.bucket, deletes).await.map_err(from_grid)?;
        let mut results = results.into_iter();

        let quiet = input.delete.quiet.unwrap_or(false);
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for (object, refused) in objects.into_iter().zip(refused) {
            let result = match refused {
                Some(error) => Err(error),
                None => match results.next().unwrap_or_else(|| Err(missing())) {
                    Err(GridError::NoSuchKey) => Ok(Default::default()),
                    result => result.map_err(from_grid),
                },
            };
            match result {
                Ok(_) if quiet => {}
                Ok(done) => {
                    let marker: Option<VersionName> = done.version.filter(|_| done.is_marker);
                    deleted.push(DeletedObject {
                        key: Some(object.key),
                        version_id: object.version_id,
                        delete_marker: done.is_marker.then_some(true),
                        delete_marker_version_id: marker.map(|version| version.to_string()),
                    });
                }
                Err(error) => errors.push(Error {
                    key: Some(object.key),
                    code: Some(error.code().as_str().to_owned()),
                    message: error.message().map(str::to_owned),
                    version_id: object.version_id,
                }),
            }
        }
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: Some(deleted),
            errors: Some(errors),
            request_charged: None,
        }))
    }
}
